//! One kind of packets: how they are sent, and how many of them have to come out.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use vpn_benches::ruler::Contender;
use vpn_benches::world::Established;
use vpn_benches::{heading, is_smoke_test, side_by_side};
use vpn_core::PacketBatch;

use super::lane::Lane;

/// Flows of the ordinary packets that all others are compared with.
const ORDINARY_FLOWS: u32 = 1000;

/// Sends so many operations through a lane.
type Turn = Box<dyn FnMut(&mut Lane, u64)>;

/// Packets of one kind through a router of their own.
pub(crate) struct Case {
    name: &'static str,
    lane: Lane,
    /// Packets that one operation sends, and how many come out for them.
    packets: u64,
    out: u64,
    /// Operations at a time.
    step: u64,
    allocates: bool,
    turn: Turn,
}

impl Case {
    /// An operation is one packet, for which one comes out.
    pub(crate) fn new(
        name: &'static str,
        lane: Lane,
        turn: impl FnMut(&mut Lane, u64) + 'static,
    ) -> Self {
        Self {
            name,
            lane,
            packets: 1,
            out: 1,
            step: PacketBatch::DEFAULT_CAPACITY as u64,
            allocates: false,
            turn: Box::new(turn),
        }
    }

    /// An operation sends so many packets, and so many come out.
    pub(crate) fn packets(mut self, packets: u64, out: u64) -> Self {
        self.packets = packets;
        self.out = out;
        self
    }

    /// So many operations are sent at a time.
    pub(crate) fn step(mut self, step: u64) -> Self {
        self.step = step;
        self
    }

    /// Something is kept or made of each of these packets.
    pub(crate) fn allocates(mut self) -> Self {
        self.allocates = true;
        self
    }

    /// Routes `n` packets, whole operations of them, and returns how long `n` took.
    fn run(&mut self, n: u64) -> Duration {
        let operations = n.div_ceil(self.packets);
        let before = self.lane.out;
        self.lane.spent = Duration::ZERO;
        let mut left = operations;
        while left > 0 {
            let count = left.min(self.step);
            (self.turn)(&mut self.lane, count);
            left -= count;
        }
        let accounts = self.lane.accounts();
        let out = self.lane.out - before;
        assert_eq!(out, operations * self.out, "{}: {accounts}", self.name);
        let share = n as f64 / (operations * self.packets) as f64;
        self.lane.spent.mul_f64(share)
    }

    /// Allocations per packet.
    fn allocations(&mut self, packets: u64) -> f64 {
        self.lane.allocations = Some(0);
        self.run(packets);
        let count = self.lane.allocations.take().unwrap_or_default();
        count as f64 / packets as f64
    }
}

/// Measures cases in turns with an ordinary packet, and prints what they allocate.
pub(crate) fn report(criterion: &mut Criterion, title: &str, goal: &str, mut cases: Vec<Case>) {
    let mut ordinary = Established::new(ORDINARY_FLOWS);
    let mut group = criterion.benchmark_group(title);
    group.throughput(Throughput::Elements(1));
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    for case in &mut cases {
        group.bench_function(case.name, |b| b.iter_custom(|n| case.run(n)));
    }
    group.finish();
    let mut first = |n| ordinary.route(n);
    let mut others: Vec<_> = cases
        .iter_mut()
        .map(|case| (case.name, move |n| case.run(n)))
        .collect();
    let mut contenders: Vec<Contender<'_>> = vec![("ordinary packet, established", &mut first)];
    contenders.extend(others.iter_mut().map(|(name, run)| (*name, run as _)));
    side_by_side(
        &format!("{title}, per packet (goal: {goal})"),
        &mut contenders,
    );
    drop(contenders);
    drop(others);
    assert_eq!(ordinary.dropped(), 0, "every ordinary packet was forwarded");
    heading(&format!("{title}: allocations per packet"));
    let packets = if is_smoke_test() { 384 } else { 38_400 };
    for case in &mut cases {
        let count = case.allocations(packets);
        let goal = if case.allocates { "" } else { "  (goal: 0)" };
        #[allow(
            clippy::print_stdout,
            reason = "a benchmark reports on standard output"
        )]
        {
            println!("{:<44} {count:>9.3}{goal}", case.name);
        }
    }
}
