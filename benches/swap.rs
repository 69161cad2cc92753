//! G3: other rules are swapped in while workers read them: what that costs the readers, and how
//! long it takes until the new rules decide.
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use foldhash::quality::RandomState;
use vpn_benches::world::everything_to;
use vpn_benches::{heading, is_smoke_test, ruler::median, side_by_side, timed};
use vpn_core::{FlowKey, Protocol, TunnelId};
use vpn_routing::rules::RuleCache;

/// Pause between two swaps of the constant writer: a thousand times what people do.
const WRITE_EVERY: Duration = Duration::from_micros(100);

/// Entries of the concurrent map beside: a user's rule each.
const USERS: u32 = 100;

/// Decisions per batch of packets: the rules in force are looked up once per batch.
const BATCH: u64 = 64;

fn flow() -> FlowKey {
    let (src, dst) = ([10, 5, 0, 2].into(), [203, 0, 113, 10].into());
    FlowKey::new(Protocol::TCP, (src, 40_000), (dst, 443))
}

fn rules() -> vpn_routing::rules::CompiledRules {
    everything_to("t", TunnelId::new(0))
}

/// Decides `n` flows, a batch at a time.
fn read(n: u64, reader: &mut vpn_routing::rules::RuleReader, flow: &FlowKey) -> Duration {
    let batch = timed(n.div_ceil(BATCH), || {
        let rules = reader.current();
        for _ in 0..BATCH {
            black_box(rules.decide(None, black_box(flow)));
        }
    });
    // As long as `n` decisions take, though whole batches were made.
    batch.mul_f64(n as f64 / (n.div_ceil(BATCH) * BATCH) as f64)
}

fn readers(criterion: &mut Criterion) {
    let cache = RuleCache::new();
    cache.swap(rules());
    let (flow, mut reader) = (flow(), cache.reader());
    criterion.bench_function("swap/reader alone", |b| {
        b.iter_custom(|n| read(n, &mut reader, &flow));
    });
    criterion.bench_function("swap/compile and swap", |b| {
        b.iter_custom(|n| timed(n, || cache.swap(rules())));
    });
    under_a_writer(&cache, &flow);
    until_decided(&cache);
}

/// The writers run or rest by turns, so that noise meets all alike. The concurrent map is read and
/// written as often, by the key that a rule of one user has.
fn under_a_writer(cache: &RuleCache, flow: &FlowKey) {
    let (writing, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let entering = AtomicBool::new(false);
    let map: DashMap<u32, u32, RandomState> = (0..USERS).map(|uid| (uid, 0)).collect();
    let look = |n| timed(n, || black_box(map.get(&black_box(7)).map(|value| *value)));
    let (mut quiet, mut written) = (cache.reader(), cache.reader());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                if writing.load(SeqCst) {
                    cache.swap(rules());
                }
                if entering.load(SeqCst) {
                    for uid in 0..USERS {
                        map.insert(uid, uid);
                    }
                }
                std::thread::sleep(WRITE_EVERY);
            }
        });
        let set = |rules, entries| {
            writing.store(rules, SeqCst);
            entering.store(entries, SeqCst);
        };
        side_by_side(
            "readers under a constant writer (goal: <= 1.05 x)",
            &mut [
                ("no writer", &mut |n| {
                    set(false, false);
                    read(n, &mut quiet, flow)
                }),
                ("a swap every 0.1 ms or so", &mut |n| {
                    set(true, false);
                    read(n, &mut written, flow)
                }),
                ("DashMap, no writer", &mut |n| {
                    set(false, false);
                    look(n)
                }),
                ("DashMap, its 100 entries written as often", &mut |n| {
                    set(false, true);
                    look(n)
                }),
            ],
        );
        stop.store(true, SeqCst);
    });
}

/// From the call of `swap` to the first decision by the new rules, on another thread that is
/// deciding all the time.
fn until_decided(cache: &RuleCache) {
    let rounds = if is_smoke_test() { 8 } else { 2_000 };
    let (seen, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let mut delays = Vec::with_capacity(rounds);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut reader, flow) = (cache.reader(), flow());
            while !stop.load(SeqCst) {
                let (generation, decision) = reader.decide(None, &flow);
                black_box(decision);
                seen.store(generation.0, SeqCst);
            }
        });
        for _ in 0..rounds {
            let compiled = rules();
            let started = Instant::now();
            let generation = cache.swap(compiled);
            while seen.load(SeqCst) != generation.0 {
                std::hint::spin_loop();
            }
            delays.push(started.elapsed().as_secs_f64() * 1e6);
            std::thread::sleep(Duration::from_micros(50));
        }
        stop.store(true, SeqCst);
    });
    delays.sort_by(f64::total_cmp);
    let p99 = delays[(delays.len() * 99 / 100).min(delays.len() - 1)];
    heading("from swap to the first decision (goal: p99 <= 200 us)");
    println!(
        "median {:.2} us, p99 {p99:.2} us of {rounds} swaps",
        median(delays)
    );
}

criterion_group!(benches, readers);
criterion_main!(benches);
