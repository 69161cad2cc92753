//! When to try again, and when to stop trying: a server that is away for five minutes, on
//! invented time. Nothing here sleeps.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::{Duration, Instant};

use vpn_resilience::{
    Backoff, BackoffConfig, Breaker, BreakerConfig, BreakerState, GiveUp, Jitter, Next,
};

/// How long the server is away.
const OUTAGE: Duration = Duration::from_secs(300);

fn main() {
    let start = Instant::now();
    let back = start + OUTAGE;
    let mut now = start;
    let mut backoff = Backoff::new(
        BackoffConfig {
            cap: Duration::from_secs(10),
            ..BackoffConfig::default()
        },
        42,
    );
    let mut breaker = Breaker::new(BreakerConfig {
        failure_threshold: 5,
        reset_after: Duration::from_secs(60),
        success_threshold: 1,
        probes: 1,
    });

    let mut attempts = 0;
    while attempts < 1_000 {
        let permit = match breaker.acquire(now) {
            Ok(permit) => permit,
            Err(refused) => {
                now = refused.retry_at;
                continue;
            }
        };
        attempts += 1;
        let at = (now - start).as_secs_f64();
        if now >= back {
            breaker.succeeded(permit);
            backoff.succeeded(now);
            println!("{at:>6.1} s  attempt {attempts}: it is back");
            break;
        }
        breaker.failed(permit, now);
        println!("{at:>6.1} s  attempt {attempts}: no answer");
        match backoff.failed(now) {
            Next::At(next) => now = next,
            Next::GiveUp(reason) => {
                println!("{at:>6.1} s  gave up: {reason}");
                break;
            }
        }
    }

    assert_eq!(breaker.state(), BreakerState::Closed);
    assert!(
        now - back <= Duration::from_secs(60),
        "noticed within `reset_after`"
    );
    assert!(
        attempts <= 12,
        "{attempts} attempts in five minutes are a load on nobody"
    );

    // The same machine with a bound gives up and says why.
    let bound = BackoffConfig {
        max_attempts: Some(3),
        jitter: Jitter::None,
        ..BackoffConfig::default()
    };
    let mut backoff = Backoff::new(bound, 42);
    assert_eq!(
        backoff.failed(now),
        Next::At(now + Duration::from_millis(500))
    );
    assert_eq!(backoff.failed(now), Next::At(now + Duration::from_secs(1)));
    assert_eq!(
        backoff.failed(now),
        Next::GiveUp(GiveUp::Attempts { attempts: 3 })
    );
    println!("{attempts} attempts while it was away; a bounded one gives up after three");
}
