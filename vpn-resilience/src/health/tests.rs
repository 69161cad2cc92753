//! A peer that lives, dies and comes back, on invented time.

use super::*;
use proptest::prelude::*;

const KEEPALIVE: Duration = Duration::from_secs(25);

/// Lets time pass; the peer answers after `trip` if `answers` says so about the question.
fn pass(
    monitor: &mut Monitor,
    now: &mut Instant,
    until: Instant,
    trip: Duration,
    mut answers: impl FnMut() -> bool,
) {
    let mut on_their_way: VecDeque<(Instant, Question)> = VecDeque::new();
    loop {
        let due = monitor.next_timeout();
        let answer = on_their_way.front().map_or(until, |(at, _)| *at);
        *now = due.min(answer).max(*now);
        if *now >= until {
            *now = until;
            return;
        }
        if answer <= *now {
            if let Some((_, question)) = on_their_way.pop_front() {
                monitor.answered(question, *now);
            }
            continue;
        }
        monitor.handle_timeout(*now);
        while let Some(question) = monitor.poll_question() {
            if answers() {
                on_their_way.push_back((*now + trip, question));
            }
        }
    }
}

#[test]
fn a_silent_peer_is_asked_and_dead_after_three_keepalives() {
    let start = Instant::now();
    let mut monitor = Monitor::new(HealthConfig::default(), start);
    monitor.heard(start);
    let mut now = start;
    pass(
        &mut monitor,
        &mut now,
        start + KEEPALIVE * 4,
        Duration::ZERO,
        || false,
    );
    let told: Vec<_> = std::iter::from_fn(|| monitor.poll_event()).collect();
    let expected = [
        (Life::Alive, start),
        (Life::Silent, start + KEEPALIVE),
        (Life::Dead, start + KEEPALIVE * 3),
    ];
    assert_eq!(told, expected);
    assert_eq!(monitor.counters.questions, 4 + 1);
}

#[test]
fn who_is_heard_is_never_asked() {
    let start = Instant::now();
    let mut monitor = Monitor::new(HealthConfig::default(), start);
    for second in 0..1000 {
        let now = start + Duration::from_secs(second);
        monitor.heard(now);
        assert!(monitor.next_timeout() > now);
    }
    assert_eq!(monitor.counters.questions, 0);
}

#[test]
fn the_dead_are_asked_on_and_an_answer_brings_them_back() {
    let start = Instant::now();
    let (mut monitor, mut now) = (Monitor::new(HealthConfig::default(), start), start);
    pass(
        &mut monitor,
        &mut now,
        start + KEEPALIVE * 20,
        Duration::ZERO,
        || false,
    );
    assert_eq!(monitor.life(), Life::Dead);
    let told = std::iter::from_fn(|| monitor.poll_event());
    assert_eq!(
        told.collect::<Vec<_>>(),
        [(Life::Dead, start + KEEPALIVE * 3)]
    );
    let (back, trip) = (now, Duration::from_millis(80));
    pass(&mut monitor, &mut now, back + KEEPALIVE * 2, trip, || true);
    let (life, at) = monitor.poll_event().unwrap();
    assert_eq!(life, Life::Alive);
    assert!(at - back <= KEEPALIVE + trip);
    assert_eq!(monitor.status().round_trip, Some(trip));
    assert_eq!(
        (monitor.counters.deaths, monitor.counters.recoveries),
        (1, 1)
    );
}

#[test]
fn one_that_flaps_has_to_show_several_signs() {
    let start = Instant::now();
    let config = HealthConfig {
        signs: 3,
        ..HealthConfig::default()
    };
    let (mut monitor, mut now) = (Monitor::new(config, start), start);
    pass(
        &mut monitor,
        &mut now,
        start + KEEPALIVE * 4,
        Duration::ZERO,
        || false,
    );
    // A burst is one sign.
    for _ in 0..50 {
        monitor.heard(now);
    }
    assert_eq!(monitor.life(), Life::Dead);
    let until = now + KEEPALIVE * 2;
    pass(&mut monitor, &mut now, until, Duration::ZERO, || true);
    assert_eq!(monitor.life(), Life::Alive);
}

#[test]
fn an_answer_to_no_question_proves_nothing() {
    let start = Instant::now();
    let mut monitor = Monitor::new(HealthConfig::default(), start);
    monitor.answered(Question(7), start);
    assert_eq!(monitor.life(), Life::Unknown);
    monitor.handle_timeout(start);
    let question = monitor.poll_question().unwrap();
    monitor.answered(question, start);
    monitor.answered(question, start);
    assert_eq!(monitor.counters.unexpected, 2);
}

proptest! {
    /// Whatever it did before: a peer that dies is found dead within three keepalives of its
    /// death, and one that answers every question is never found dead.
    #[test]
    fn a_death_is_found_in_time(
        signs in proptest::collection::vec(0u64..40_000, 0..50),
        keepalive in 10u64..60_000, questions in 0u32..10, needed in 0u32..4,
    ) {
        let start = Instant::now();
        let keepalive = Duration::from_millis(keepalive);
        let config = HealthConfig { keepalive, questions, signs: needed };
        let (mut monitor, mut now) = (Monitor::new(config, start), start);
        for wait in signs {
            let until = now + Duration::from_millis(wait);
            pass(&mut monitor, &mut now, until, Duration::ZERO, || true);
            prop_assert!(monitor.life() != Life::Dead);
            monitor.heard(now);
        }
        let death = now;
        pass(&mut monitor, &mut now, death + keepalive * 4, Duration::ZERO, || false);
        prop_assert_eq!(monitor.life(), Life::Dead);
        prop_assert!(monitor.status().since - death <= keepalive * 3);
        prop_assert!(monitor.next_timeout() >= now);
    }
}

/// No silence at all is bearable: it is asked without a pause, almost, and whoever drives it goes on.
#[test]
fn a_keepalive_of_nothing_is_a_short_one() {
    let config = HealthConfig {
        keepalive: Duration::ZERO,
        ..HealthConfig::default()
    };
    let mut now = Instant::now();
    let mut monitor = Monitor::new(config, now);
    for _ in 0..100 {
        monitor.handle_timeout(now);
        assert!(monitor.next_timeout() > now);
        now = monitor.next_timeout();
    }
}
