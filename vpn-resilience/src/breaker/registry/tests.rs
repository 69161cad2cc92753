//! Keys that come and go.

use super::*;
use proptest::prelude::*;

fn small(most: usize) -> Breakers<u32> {
    let config = BreakerConfig {
        failure_threshold: 1,
        ..BreakerConfig::default()
    };
    Breakers::new(config).limits(BreakerLimits {
        most,
        ..BreakerLimits::default()
    })
}

/// Regression S-9: breakers of peers that are long gone were kept for ever.
#[test]
fn s9_breakers_are_bounded_and_idle_ones_go() {
    let (mut breakers, start) = (Breakers::new(BreakerConfig::default()), Instant::now());
    for peer in 0..10_000 {
        let permit = breakers.acquire(&peer, start).unwrap();
        breakers.succeeded(&peer, permit);
    }
    assert_eq!(breakers.len(), MAX_BREAKERS);
    assert_eq!(breakers.order.len(), MAX_BREAKERS);
    let due = breakers.next_timeout().unwrap();
    assert_eq!(due, start + Duration::from_secs(600));
    breakers.handle_timeout(due);
    assert!(breakers.is_empty() && breakers.order.is_empty());
    let status = breakers.status();
    assert_eq!(status.permits.admitted, 10_000);
    assert_eq!(status.counters.evicted, 10_000 - MAX_BREAKERS as u64);
    assert_eq!(status.counters.idle, MAX_BREAKERS as u64);
}

#[test]
fn one_that_guards_something_outlives_those_that_do_not() {
    let (mut breakers, now) = (small(3), Instant::now());
    let permit = breakers.acquire(&0, now).unwrap();
    breakers.failed(&0, permit, now);
    for peer in 1..100 {
        let _ = breakers.acquire(&peer, now);
    }
    assert!(breakers.acquire(&0, now).is_err(), "it is open still");
    assert_eq!(breakers.len(), 3);
}

#[test]
fn an_outcome_for_a_breaker_that_is_gone_changes_no_other() {
    let (mut breakers, now) = (small(1), Instant::now());
    let old = breakers.acquire(&7, now).unwrap();
    let _ = breakers.acquire(&8, now).unwrap();
    breakers.failed(&7, old, now);
    assert_eq!(breakers.status().counters.unknown, 1);
    let old = breakers.acquire(&7, now).unwrap();
    breakers.remove(&7);
    let _ = breakers.acquire(&7, now).unwrap();
    breakers.failed(&7, old, now);
    assert_eq!(breakers.get(&7).unwrap().state(), BreakerState::Closed);
    assert_eq!(breakers.status().permits.late, 1);
}

proptest! {
    /// Whatever is done: within the bound, both tables agree, and what came is there or gone.
    #[test]
    fn any_history(steps in proptest::collection::vec((0u8..6, 0u32..9), 0..300)) {
        let (mut breakers, mut now) = (small(4), Instant::now());
        let mut held: Vec<(u32, Permit)> = Vec::new();
        for (what, number) in steps {
            match what {
                0 | 1 => held.extend(breakers.acquire(&number, now).ok().map(|p| (number, p))),
                2 => held.pop().into_iter().for_each(|(k, p)| breakers.failed(&k, p, now)),
                3 => held.pop().into_iter().for_each(|(k, p)| breakers.succeeded(&k, p)),
                4 => breakers.remove(&number),
                _ => {
                    now += Duration::from_secs(u64::from(number) * 60);
                    breakers.handle_timeout(now);
                    prop_assert!(breakers.next_timeout().is_none_or(|at| at > now));
                }
            }
            prop_assert!(breakers.len() <= 4);
            prop_assert_eq!(breakers.len(), breakers.order.len());
            for (place, key) in &breakers.order {
                prop_assert_eq!(*place, breakers.entries[key].place);
                let closed = breakers.entries[key].breaker.state() == BreakerState::Closed;
                prop_assert_eq!(place.guards, !closed);
            }
            let c = breakers.status().counters;
            prop_assert_eq!(c.created - c.evicted - c.idle - c.removed, breakers.len() as u64);
        }
    }
}
