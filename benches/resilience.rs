//! What resilience costs where nothing fails: a permit, a retry decision, a token, a sign of life,
//! and a guarded transport; beside others' crates, and an uncontended mutex as the limit of what is
//! shared.
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use failsafe::CircuitBreaker as _;
use failsafe::failure_policy::consecutive_failures;
use vpn_benches::{side_by_side, timed};
use vpn_core::testing::{FarSide, MemoryTransport, build, memory_transport};
use vpn_core::{Assigned, DropCounters, Packet, PacketBatch, TunnelTransport};
use vpn_resilience::decorate::{Guard, Guarded, TunnelBreaker, TunnelRate, TunnelShed};
use vpn_resilience::*;

/// A breaker's key: as many peers as a large mesh has.
const PEERS: u32 = 1000;

/// Packets in a batch.
const BATCH: usize = 64;

fn permits(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut bare = Breaker::new(BreakerConfig::default());
    let shared = Mutex::new(Breaker::new(BreakerConfig::default()));
    let mut windowed = Breaker::new(BreakerConfig::default()).window(Window::default());
    let mut by_key = Breakers::new(BreakerConfig::default());
    let backoff = failsafe::backoff::constant(Duration::from_secs(60));
    let peer = failsafe::Config::new()
        .failure_policy(consecutive_failures(5, backoff))
        .build();
    let counter = Mutex::new(0u64);
    let mut permit = |n| {
        timed(n, || {
            if let Ok(permit) = bare.acquire(black_box(now)) {
                bare.succeeded(permit);
            }
        })
    };
    criterion.bench_function("resilience/permit", |b| b.iter_custom(&mut permit));
    side_by_side(
        "a permit and its success",
        &mut [
            ("ours", &mut permit),
            ("ours, with a window", &mut |n| {
                timed(n, || {
                    if let Ok(permit) = windowed.acquire(black_box(now)) {
                        windowed.succeeded(permit);
                    }
                })
            }),
            ("ours, behind a mutex, with a clock", &mut |n| {
                timed(n, || {
                    let permit = shared.lock().ok()?.acquire(Instant::now()).ok()?;
                    shared.lock().ok()?.succeeded(permit);
                    Some(())
                })
            }),
            ("failsafe (mutex inside)", &mut |n| {
                timed(n, || peer.call(|| Ok::<_, ()>(black_box(1))))
            }),
            ("two uncontended mutexes and a clock", &mut |n| {
                timed(n, || {
                    *counter.lock().ok()? += 1;
                    black_box(Instant::now());
                    *counter.lock().ok()? += 1;
                    Some(())
                })
            }),
            ("ours, one of 1,000 keys", &mut |n| {
                let mut key = 0;
                timed(n, || {
                    key = (key + 7) % PEERS;
                    if let Ok(permit) = by_key.acquire(&key, black_box(now)) {
                        by_key.succeeded(&key, permit);
                    }
                })
            }),
        ],
    );
}

fn retries(criterion: &mut Criterion) {
    let now = Instant::now();
    let (mut well, mut ill) = (
        Retries::new(RetryConfig::default(), 1),
        Retries::new(RetryConfig::default(), 1),
    );
    let mut decision = |n| {
        let mut call = ill.call(now);
        timed(n, || {
            let attempt = ill.begin(&mut call, black_box(now));
            black_box(attempt);
            // After the fifth it is refused, which is a decision too; so calls begin anew.
            if let Next::GiveUp(_) = ill.failed(&mut call, Fault::Transient, now) {
                call = ill.call(now);
            }
        })
    };
    criterion.bench_function("resilience/retry decision", |b| {
        b.iter_custom(&mut decision)
    });
    side_by_side(
        "retries",
        &mut [
            ("an attempt that fails, and what follows", &mut decision),
            ("a call that succeeds at once", &mut |n| {
                timed(n, || {
                    let mut call = well.call(black_box(now));
                    black_box(well.begin(&mut call, now));
                    well.succeeded(call);
                })
            }),
        ],
    );
}

fn rates(criterion: &mut Criterion) {
    let (start, most) = (Instant::now(), u64::from(u32::MAX));
    let config = RateConfig {
        per_second: most,
        burst: most,
    };
    let mut bare = RateLimit::new(config);
    let shared = Mutex::new(RateLimit::new(config));
    let quota = governor::Quota::per_second(NonZeroU32::MAX);
    let peer = governor::RateLimiter::direct(quota);
    let mut now = start;
    let mut take = |n| {
        timed(n, || {
            now += Duration::from_nanos(100);
            bare.take(1, black_box(now))
        })
    };
    criterion.bench_function("resilience/rate limit", |b| b.iter_custom(&mut take));
    side_by_side(
        "a token of a rate limit",
        &mut [
            ("ours", &mut take),
            ("ours, behind a mutex, with a clock", &mut |n| {
                timed(n, || shared.lock().ok()?.take(1, Instant::now()).ok())
            }),
            ("governor (atomic and clock inside)", &mut |n| {
                timed(n, || peer.check().is_ok())
            }),
        ],
    );
}

fn signs_of_life(criterion: &mut Criterion) {
    let start = Instant::now();
    let (mut monitor, mut now) = (Monitor::new(HealthConfig::default(), start), start);
    monitor.heard(start);
    let mut heard = |n| {
        timed(n, || {
            now += Duration::from_nanos(100);
            monitor.heard(black_box(now));
        })
    };
    criterion.bench_function("resilience/sign of life", |b| b.iter_custom(&mut heard));
    side_by_side("a sign of life of a peer", &mut [("ours", &mut heard)]);
}

fn tunnel() -> (MemoryTransport, FarSide) {
    let (tunnel, far) = memory_transport(BATCH, 1420);
    far.up(Assigned::default());
    (tunnel, far)
}

fn guarded<G: Guard>(guard: G) -> (Guarded<MemoryTransport, G>, FarSide) {
    let (tunnel, far) = tunnel();
    (Guarded::new(tunnel, guard), far)
}

/// Sends `n` batches, and takes them at the far end.
fn send(n: u64, tunnel: &dyn TunnelTransport, far: &FarSide, packet: &[u8]) -> Duration {
    let mut batch = PacketBatch::new(BATCH, 1500);
    let mut drops = DropCounters::default();
    let mut total = Duration::ZERO;
    for _ in 0..n {
        for _ in 0..BATCH {
            let _ = batch.push(Packet::from_slice(packet));
        }
        total += timed(1, || tunnel.try_send(&mut batch, &mut drops).is_ok());
        while far.take().is_some() {}
    }
    assert_eq!(
        (batch.len(), drops.total()),
        (0, 0),
        "every packet was sent"
    );
    total
}

fn guards(_: &mut Criterion) {
    let packet = build::udp("10.5.0.2:4000", "203.0.113.10:7", &[0; 64]);
    let plenty = RateConfig {
        per_second: 1 << 40,
        burst: 1 << 30,
    };
    let (bare, bare_far) = tunnel();
    let (breaker, breaker_far) = guarded(TunnelBreaker::new(BreakerConfig::default()));
    let (rate, rate_far) = guarded(TunnelRate::new(plenty));
    let (shed, shed_far) = guarded(TunnelShed::default());
    side_by_side(
        "a batch of 64 packets into a transport in memory",
        &mut [
            ("bare", &mut |n| send(n, &bare, &bare_far, &packet)),
            ("behind a breaker", &mut |n| {
                send(n, &breaker, &breaker_far, &packet)
            }),
            ("at a rate", &mut |n| send(n, &rate, &rate_far, &packet)),
            ("shedding", &mut |n| send(n, &shed, &shed_far, &packet)),
        ],
    );
}

criterion_group!(benches, permits, retries, rates, signs_of_life, guards);
criterion_main!(benches);
