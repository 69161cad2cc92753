//! Measures contenders in turns and prints them beside each other.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::time::{Duration, Instant};

/// Turns each contender gets. Odd, so that the median is a measurement.
const ROUNDS: usize = 15;

/// How long one turn lasts at least.
const TURN: Duration = Duration::from_millis(20);

/// One line of a report.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Median time of one operation, in nanoseconds.
    pub nanos: f64,
}

/// A contender: its name, and what does `n` operations and says how long they took.
pub type Contender<'a> = (&'static str, &'a mut dyn FnMut(u64) -> Duration);

/// Does something `n` times on the clock.
#[inline]
pub fn timed<T>(n: u64, mut once: impl FnMut() -> T) -> Duration {
    let started = Instant::now();
    for _ in 0..n {
        std::hint::black_box(once());
    }
    started.elapsed()
}

/// Whether criterion's smoke test is wanted (`cargo bench -- --test`): everything runs once.
pub fn is_smoke_test() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// Prints the title of a report.
pub fn heading(title: &str) {
    println!("\n=== {title}");
}

/// Measures contenders in turns, so that noise meets all of them alike, and prints the median of
/// each with its ratio to the first.
pub fn side_by_side(title: &str, contenders: &mut [Contender<'_>]) -> Vec<Row> {
    let smoke = is_smoke_test();
    let rounds = if smoke { 1 } else { ROUNDS };
    let counts: Vec<u64> = contenders
        .iter_mut()
        .map(|(_, run)| if smoke { 64 } else { calibrate(run) })
        .collect();
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            // The order changes, so that nobody always follows the same neighbour.
            let i = (turn + round) % contenders.len();
            let elapsed = (contenders[i].1)(counts[i]);
            times[i].push(elapsed.as_secs_f64() * 1e9 / counts[i] as f64);
        }
    }
    let rows: Vec<Row> = contenders
        .iter()
        .zip(times)
        .map(|((name, _), times)| Row {
            name,
            nanos: median(times),
        })
        .collect();
    heading(title);
    for row in &rows {
        let ratio = row.nanos / rows[0].nanos;
        println!("{:<44} {:>9.2} ns  {ratio:>6.2} x", row.name, row.nanos);
    }
    rows
}

/// The median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How many operations fill a turn.
fn calibrate(run: &mut dyn FnMut(u64) -> Duration) -> u64 {
    let mut count = 256;
    loop {
        let elapsed = run(count);
        if elapsed >= TURN / 4 {
            return (count as f64 * TURN.as_secs_f64() / elapsed.as_secs_f64()).ceil() as u64;
        }
        count *= 4;
    }
}
