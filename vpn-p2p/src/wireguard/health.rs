//! Decides whether a peer is silent, and when to approach it again. Pure: time is an argument.

use std::time::{Duration, Instant};

use vpn_resilience::{Backoff, BackoffConfig, Breaker, BreakerConfig, Next, Permit};

/// How often a silent peer is approached: at first after about a second, then at least every five,
/// so that a healed path is back well within ten.
const RETRY: BackoffConfig = BackoffConfig {
    base: Duration::from_secs(1),
    factor: 2,
    cap: Duration::from_secs(5),
    jitter: vpn_resilience::Jitter::Equal,
    max_attempts: None,
    max_elapsed: None,
    stable_after: Duration::from_secs(30),
};

/// Keeps resolver and socket factory from being asked more often than every five seconds after
/// five failures; not slower, or it would decide how late a healed network is noticed.
const BREAKER: BreakerConfig = BreakerConfig {
    failure_threshold: 5,
    reset_after: Duration::from_secs(5),
    success_threshold: 1,
    probes: 1,
};

/// What is known of one peer's life.
#[derive(Debug)]
pub(super) struct Health {
    no_answer_after: Duration,
    /// Since when something is unanswered that a living peer answers.
    waiting_since: Option<Instant>,
    next_attempt: Option<Instant>,
    backoff: Backoff,
    breaker: Breaker,
    /// The network was lost since it was last heard: it is silent, whatever was asked when.
    cut_off: bool,
    /// The network changed since it was last heard: attempts go on although it is not silent yet.
    moved: bool,
}

impl Health {
    pub(super) const fn new(no_answer_after: Duration, seed: u64) -> Self {
        Self {
            no_answer_after,
            waiting_since: None,
            next_attempt: None,
            backoff: Backoff::new(RETRY, seed),
            breaker: Breaker::new(BREAKER),
            cut_off: false,
            moved: false,
        }
    }

    /// The network is gone: silent at once.
    pub(super) const fn cut_off(&mut self) {
        self.cut_off = true;
    }

    /// The network is another one: an attempt is due now, and again with growing pauses until
    /// something is heard. What failed on the old network says nothing about this one.
    pub(super) fn moved(&mut self, now: Instant) {
        self.moved = true;
        self.next_attempt = Some(now);
        self.backoff.reset();
        self.breaker = Breaker::new(BREAKER);
    }

    /// Whether nothing was heard since the network changed.
    pub(super) const fn has_moved(&self) -> bool {
        self.moved
    }

    /// Something was sent that a living peer answers: a handshake message, or data (whitepaper
    /// §6.5: data is answered by data or a keepalive within ten seconds).
    #[inline]
    pub(super) fn asked(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// Something authentic came.
    #[inline]
    pub(super) fn heard(&mut self, now: Instant) {
        self.waiting_since = None;
        self.next_attempt = None;
        self.cut_off = false;
        self.moved = false;
        self.backoff.succeeded(now);
    }

    /// Whether an answer is outstanding.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting_since.is_some()
    }

    /// Whether an answer is outstanding for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let too_long = |since| now.saturating_duration_since(since) >= self.no_answer_after;
        self.cut_off || self.waiting_since.is_some_and(too_long)
    }

    /// Demands an attempt now, unless one is planned.
    pub(super) fn demand(&mut self, now: Instant) {
        self.next_attempt.get_or_insert(now);
    }

    /// Whether an attempt is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_attempt.is_some_and(|at| now >= at)
    }

    /// Begins an attempt that is due; plans the next one in case this one comes to nothing.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Permit> {
        match self.breaker.acquire(now) {
            Ok(permit) => {
                self.next_attempt = None;
                Some(permit)
            }
            Err(refused) => {
                self.next_attempt = Some(refused.retry_at);
                None
            }
        }
    }

    /// Name and socket were had; whether the peer answers is seen later.
    pub(super) fn reached(&mut self, permit: Permit, now: Instant) {
        self.breaker.succeeded(permit);
        if self.moved || self.is_silent(now) {
            self.plan(now);
        }
    }

    /// Name or socket were not had.
    pub(super) fn failed(&mut self, permit: Permit, now: Instant) {
        self.breaker.failed(permit, now);
        self.plan(now);
    }

    /// Attempts since the peer was last stable.
    pub(super) const fn attempts(&self) -> u32 {
        self.backoff.attempts()
    }

    fn plan(&mut self, now: Instant) {
        self.next_attempt = match self.backoff.failed(now) {
            Next::At(at) => Some(at),
            Next::GiveUp(_) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_measured_from_the_first_unanswered_question() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new(Duration::from_secs(15), 0);
        health.asked(at(0));
        health.asked(at(14));
        assert!(!health.is_silent(at(14)));
        assert!(health.is_silent(at(15)));
        health.heard(at(15));
        assert!(!health.is_silent(at(100)));
    }

    #[test]
    fn a_silent_peer_is_approached_at_least_every_five_seconds() {
        let start = Instant::now();
        let mut now = start;
        let mut health = Health::new(Duration::from_secs(15), 3);
        health.asked(now);
        now += Duration::from_secs(15);
        health.demand(now);
        let mut last = now;
        for _ in 0..50 {
            while !health.is_due(now) {
                now += Duration::from_millis(10);
            }
            assert!(now - last <= Duration::from_millis(5_010));
            last = now;
            let permit = health.begin(now).unwrap();
            health.reached(permit, now);
        }
    }

    /// N-25: who was tried again was tried without a pause.
    #[test]
    fn a_change_of_the_network_is_tried_at_once_and_then_with_growing_pauses() {
        let start = Instant::now();
        let mut health = Health::new(Duration::from_secs(15), 3);
        health.heard(start);
        let mut now = start + Duration::from_secs(100);
        health.moved(now);
        let (end, mut attempts) = (now + Duration::from_secs(30), Vec::new());
        while now < end {
            if health.is_due(now)
                && let Some(permit) = health.begin(now)
            {
                attempts.push(now);
                health.reached(permit, now);
            }
            now += Duration::from_millis(10);
        }
        assert_eq!(attempts[0], start + Duration::from_secs(100));
        assert!(attempts[1] - attempts[0] <= Duration::from_millis(1_010));
        assert!((6..=14).contains(&attempts.len()), "{}", attempts.len());
        health.heard(now);
        assert!(!health.is_due(now + Duration::from_secs(60)));
    }

    #[test]
    fn many_changes_are_no_more_attempts_than_changes_and_forget_an_open_breaker() {
        let mut now = Instant::now();
        let mut health = Health::new(Duration::from_secs(15), 3);
        health.demand(now);
        for _ in 0..5 {
            while !health.is_due(now) {
                now += Duration::from_millis(10);
            }
            let permit = health.begin(now).unwrap();
            health.failed(permit, now);
        }
        health.demand(now);
        for _ in 0..50 {
            health.moved(now);
        }
        let permit = health.begin(now).expect("the breaker is new");
        health.reached(permit, now);
        assert!(!health.is_due(now));
    }

    #[test]
    fn without_a_network_it_is_silent_until_it_is_heard() {
        let now = Instant::now();
        let mut health = Health::new(Duration::from_secs(15), 3);
        health.cut_off();
        assert!(health.is_silent(now));
        health.moved(now);
        assert!(health.is_silent(now), "not proven yet");
        health.heard(now);
        assert!(!health.is_silent(now));
    }

    #[test]
    fn failures_open_the_breaker_and_it_closes_again() {
        let mut now = Instant::now();
        let mut health = Health::new(Duration::from_secs(15), 3);
        health.demand(now);
        let mut failures = 0;
        let end = now + Duration::from_secs(120);
        while now < end {
            if health.is_due(now)
                && let Some(permit) = health.begin(now)
            {
                health.failed(permit, now);
                failures += 1;
            }
            now += Duration::from_millis(50);
        }
        assert!((20..60).contains(&failures), "{failures}");
        health.demand(now);
        now += Duration::from_secs(6);
        let permit = health.begin(now).unwrap();
        health.reached(permit, now);
        health.heard(now);
        assert!(!health.is_due(now + Duration::from_secs(60)));
    }
}
