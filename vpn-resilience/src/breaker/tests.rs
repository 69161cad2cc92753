//! Named cases and random histories; `model` has every history.

use super::*;
use proptest::prelude::*;

fn opened(config: BreakerConfig, now: Instant) -> Breaker {
    let mut breaker = Breaker::new(config);
    for _ in 0..config.failure_threshold {
        let permit = breaker.acquire(now).unwrap();
        breaker.failed(permit, now);
    }
    assert!(matches!(breaker.state(), BreakerState::Open { .. }));
    breaker
}

/// Regression S-1: a breaker that opened must be able to close again.
#[test]
fn s1_it_closes_again() {
    let start = Instant::now();
    let mut breaker = opened(BreakerConfig::default(), start);
    let later = start + Duration::from_secs(60);
    for _ in 0..2 {
        let permit = breaker.acquire(later).unwrap();
        breaker.succeeded(permit);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

/// Regression S-2: half-open admits exactly the configured number of probes.
#[test]
fn s2_half_open_admits_exactly_n_probes() {
    let start = Instant::now();
    let config = BreakerConfig {
        probes: 3,
        ..BreakerConfig::default()
    };
    let mut breaker = opened(config, start);
    let later = start + Duration::from_secs(60);
    let admitted: Vec<_> = (0..100)
        .filter_map(|_| breaker.acquire(later).ok())
        .collect();
    assert_eq!(admitted.len(), 3);
}

/// Regression S-3: transitions are counted, not calls.
#[test]
fn s3_counts_are_exact() {
    let start = Instant::now();
    let mut breaker = Breaker::new(BreakerConfig::default());
    for _ in 0..10 {
        let permit = breaker.acquire(start).unwrap();
        breaker.succeeded(permit);
    }
    assert_eq!(breaker.transitions(), Transitions::default());
    let mut breaker = opened(BreakerConfig::default(), start);
    for _ in 0..2 {
        let permit = breaker.acquire(start + Duration::from_secs(60)).unwrap();
        breaker.succeeded(permit);
    }
    let once = Transitions {
        opened: 1,
        half_opened: 1,
        closed: 1,
    };
    assert_eq!(breaker.transitions(), once);
}

#[test]
fn a_late_answer_from_before_does_not_count() {
    let start = Instant::now();
    let mut breaker = Breaker::new(BreakerConfig::default());
    let late = breaker.acquire(start).unwrap();
    for _ in 0..5 {
        let permit = breaker.acquire(start).unwrap();
        breaker.failed(permit, start);
    }
    let later = start + Duration::from_secs(60);
    let probe = breaker.acquire(later).unwrap();
    breaker.failed(late, later);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    breaker.cancelled(probe);
}

#[test]
fn a_lost_probe_does_not_block_for_ever() {
    let start = Instant::now();
    let mut breaker = opened(BreakerConfig::default(), start);
    let first = start + Duration::from_secs(60);
    let lost = breaker.acquire(first).unwrap();
    let refused = breaker.acquire(first).unwrap_err();
    let second = breaker.acquire(refused.retry_at).unwrap();
    breaker.failed(lost, refused.retry_at);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    breaker.succeeded(second);
}

#[derive(Clone, Debug)]
enum Step {
    Acquire,
    Succeed(usize),
    Fail(usize),
    Cancel(usize),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Acquire),
        2 => (0usize..8).prop_map(Step::Succeed),
        2 => (0usize..8).prop_map(Step::Fail),
        1 => (0usize..8).prop_map(Step::Cancel),
        1 => (0u64..90).prop_map(Step::Advance),
    ]
}

proptest! {
    /// Whatever happened before: counters match the transitions seen from outside, probes
    /// stay within their number, and a breaker that is asked in time closes again.
    #[test]
    fn any_history(steps in proptest::collection::vec(step(), 0..200), probes in 1u32..4) {
        let config = BreakerConfig { probes, ..BreakerConfig::default() };
        let mut breaker = Breaker::new(config);
        let mut now = Instant::now();
        let mut permits: Vec<Permit> = Vec::new();
        let mut seen = Transitions::default();
        let mut before = breaker.state();
        for step in steps {
            match step {
                Step::Acquire => permits.extend(breaker.acquire(now).ok()),
                Step::Succeed(i) if i < permits.len() => breaker.succeeded(permits.remove(i)),
                Step::Fail(i) if i < permits.len() => breaker.failed(permits.remove(i), now),
                Step::Cancel(i) if i < permits.len() => breaker.cancelled(permits.remove(i)),
                Step::Advance(seconds) => now += Duration::from_secs(seconds),
                _ => {}
            }
            let after = breaker.state();
            match (before, after) {
                (BreakerState::Closed, BreakerState::Open { .. })
                | (BreakerState::HalfOpen, BreakerState::Open { .. }) => seen.opened += 1,
                (BreakerState::Open { .. }, BreakerState::HalfOpen) => seen.half_opened += 1,
                (BreakerState::HalfOpen, BreakerState::Closed) => seen.closed += 1,
                (a, b) => prop_assert_eq!(a, b),
            }
            before = after;
            if let Inner::HalfOpen { in_flight, .. } = breaker.inner {
                prop_assert!(in_flight <= probes);
            }
        }
        prop_assert_eq!(breaker.transitions(), seen);
        for _ in 0..config.success_threshold {
            now += config.reset_after;
            let permit = breaker.acquire(now);
            prop_assert!(permit.is_ok());
            if let Ok(permit) = permit {
                breaker.succeeded(permit);
            }
        }
        prop_assert_eq!(breaker.state(), BreakerState::Closed);
    }
}

#[test]
fn events_tell_each_change_once_and_why() {
    let start = Instant::now();
    let mut breaker = opened(BreakerConfig::default(), start);
    let until = start + Duration::from_secs(60);
    let cause = OpenCause::InARow(5);
    assert_eq!(
        breaker.poll_event(),
        Some(BreakerEvent::Opened { until, cause })
    );
    for _ in 0..2 {
        let permit = breaker.acquire(until).unwrap();
        breaker.succeeded(permit);
    }
    assert_eq!(breaker.poll_event(), Some(BreakerEvent::HalfOpened));
    assert_eq!(breaker.poll_event(), Some(BreakerEvent::Closed));
    assert_eq!(breaker.poll_event(), None);
}

#[test]
fn events_that_nobody_takes_are_bounded_and_the_newest_stay() {
    let mut now = Instant::now();
    let mut breaker = opened(BreakerConfig::default(), now);
    for _ in 0..100 {
        now += Duration::from_secs(60);
        let permit = breaker.acquire(now).unwrap();
        breaker.failed(permit, now);
    }
    let events: Vec<_> = std::iter::from_fn(|| breaker.poll_event()).collect();
    assert_eq!(events.len(), MAX_EVENTS);
    assert!(
        matches!(events.last(), Some(BreakerEvent::Opened { until, cause: OpenCause::Probe }) if *until == now + Duration::from_secs(60))
    );
    assert_eq!(breaker.transitions().opened, 101);
}

/// Regression S-3: permits asked for, given and reported add up.
#[test]
fn s3_permits_add_up() {
    let start = Instant::now();
    let mut breaker = Breaker::new(BreakerConfig::default());
    let (lost, late) = (breaker.acquire(start), breaker.acquire(start).unwrap());
    drop(lost);
    for _ in 0..5 {
        let permit = breaker.acquire(start).unwrap();
        breaker.failed(permit, start);
    }
    assert!(breaker.acquire(start).is_err());
    breaker.succeeded(late);
    let counters = breaker.counters();
    let named: Vec<_> = counters.iter().filter(|(_, count)| *count > 0).collect();
    let expected = [
        ("admitted", 7),
        ("refused", 1),
        ("succeeded", 1),
        ("failed", 5),
        ("late", 1),
    ];
    assert_eq!(named, expected);
}

#[test]
fn a_window_finds_what_never_fails_often_in_a_row() {
    let start = Instant::now();
    let mut breaker = Breaker::new(BreakerConfig::default()).window(Window::default());
    let mut attempts = 0;
    let cause = loop {
        let now = start + Duration::from_secs(attempts);
        let Ok(permit) = breaker.acquire(now) else {
            panic!("it is open without having said so");
        };
        attempts += 1;
        if attempts % 2 == 0 {
            breaker.failed(permit, now);
        } else {
            breaker.succeeded(permit);
        }
        if let Some(BreakerEvent::Opened { cause, .. }) = breaker.poll_event() {
            break cause;
        }
    };
    let recent = Recent {
        attempts: 20,
        failures: 10,
    };
    assert_eq!(cause, OpenCause::Share(recent));
    assert_eq!(breaker.status().recent, Some(Recent::default()));
}

#[test]
fn a_reset_one_is_as_new_but_for_its_counters() {
    let start = Instant::now();
    let mut breaker = opened(BreakerConfig::default(), start);
    breaker.reset();
    let late = breaker.acquire(start).unwrap();
    for _ in 0..4 {
        let permit = breaker.acquire(start).unwrap();
        breaker.failed(permit, start);
    }
    breaker.reset();
    breaker.failed(late, start);
    for _ in 0..4 {
        let permit = breaker.acquire(start).unwrap();
        breaker.failed(permit, start);
    }
    assert!(breaker.is_closed(), "four in a row, and four");
    let transitions = breaker.transitions();
    assert_eq!((transitions.opened, transitions.closed), (1, 1));
    assert_eq!(breaker.counters().failed, 5 + 9);
}

#[test]
fn times_that_cannot_be_said_are_as_good_as_never() {
    let start = Instant::now();
    let config = BreakerConfig {
        reset_after: Duration::MAX,
        ..BreakerConfig::default()
    };
    let mut breaker = opened(config, start);
    assert!(
        breaker
            .acquire(start + Duration::from_secs(1 << 30))
            .is_err()
    );
}
