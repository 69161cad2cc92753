//! TUN to TUN: one TCP stream between two network namespaces, through an engine with connections
//! and translation on, beside a null forwarder that only reads and writes the same devices.
//!
//! Prints, per contender, throughput and the CPU time of this process and of the whole machine
//! per GB, medians of rounds taken in turns. Needs root, or a system that allows user namespaces;
//! says so and skips otherwise. `VPN_BENCH_SECONDS` sets the length of a round (default 2).
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

#[cfg(target_os = "linux")]
mod cpu;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod forward;
#[cfg(target_os = "linux")]
mod lab;

#[cfg(target_os = "linux")]
fn main() {
    let smoke = vpn_benches::is_smoke_test();
    if let Err(reason) = lab::enter() {
        println!("SKIPPED: tun to tun: {reason}");
        return;
    }
    let seconds = std::env::var("VPN_BENCH_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let round =
        std::time::Duration::from_secs_f64(if smoke { 0.2 } else { seconds.unwrap_or(2.0) });
    let rounds = if smoke { 1 } else { 5 };
    for offload in [false, true] {
        if let Err(error) = report(offload, round, rounds) {
            println!("SKIPPED: tun to tun, offload {offload}: {error}");
        }
    }
}

#[cfg(target_os = "linux")]
fn report(offload: bool, round: std::time::Duration, rounds: usize) -> Result<(), lab::Error> {
    use forward::Contender;
    use vpn_benches::ruler::median;

    let contenders = [Contender::Null, Contender::Engine];
    let mut results = [const { Vec::new() }; 2];
    for turn in 0..rounds {
        for i in 0..contenders.len() {
            let i = (i + turn) % contenders.len();
            results[i].push(lab::run(contenders[i], offload, round)?);
        }
    }
    let what = if offload {
        "super-packets"
    } else {
        "packet by packet"
    };
    vpn_benches::heading(&format!(
        "TUN to TUN, {what}, one TCP stream (goal with super-packets: >= 0.97 x, CPU <= 1.10 x)"
    ));
    println!(
        "{:<18} {:>8} {:>14} {:>14}",
        "", "Gbit/s", "CPU s/GB", "machine s/GB"
    );
    let mut base = None;
    for (contender, runs) in contenders.iter().zip(&results) {
        let of = |get: fn(&lab::Run) -> f64| median(runs.iter().map(get).collect());
        let row = [
            of(lab::Run::gbits),
            of(lab::Run::cpu_per_gb),
            of(lab::Run::machine_per_gb),
        ];
        println!(
            "{:<18} {:>8.2} {:>14.3} {:>14.3}",
            contender.name(),
            row[0],
            row[1],
            row[2]
        );
        match base {
            None => base = Some(row),
            Some(b) => println!(
                "{:<18} {:>7.2}x {:>13.2}x {:>13.2}x",
                "  ratio to null",
                row[0] / b[0],
                row[1] / b[1],
                row[2] / b[2]
            ),
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("SKIPPED: tun to tun: needs Linux");
}
