//! Decides whether an attempt may be made: a circuit breaker.
//!
//! ```text
//!             failure_threshold failures in a row
//!   Closed ───────────────────────────────────────▶ Open
//!     ▲                                            │   ▲
//!     │ success_threshold        reset_after       │   │ one failed probe
//!     │ probes succeeded         has passed        ▼   │
//!     └──────────────────────────────────────── Half-open
//! ```
//!
//! Asking for a permit is what moves an open breaker to half-open, so there is no state in which
//! nobody asks and nothing ever changes. Each permit remembers the phase it was given in: an
//! answer that arrives after the breaker moved on is ignored, so old calls cannot close or open
//! it. Probes whose outcome is never reported are given up after `reset_after`.

use std::time::{Duration, Instant};

/// Thresholds of a [`Breaker`]. A zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it. Default 5.
    pub failure_threshold: u32,
    /// How long it stays open, and how long a probe may take. Default 60 s.
    pub reset_after: Duration,
    /// Successful probes that close it again. Default 2.
    pub success_threshold: u32,
    /// Probes under way at the same time while half-open. Default 1.
    pub probes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            reset_after: Duration::from_secs(60),
            success_threshold: 2,
            probes: 1,
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Attempts are made.
    Closed,
    /// No attempt is made before this time.
    Open {
        /// When the first probe is admitted.
        until: Instant,
    },
    /// A few probes find out whether it works again.
    HalfOpen,
}

/// How often the breaker changed its state. Counts changes, not calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transitions {
    /// Into open.
    pub opened: u64,
    /// Into half-open.
    pub half_opened: u64,
    /// Into closed.
    pub closed: u64,
}

/// Leave to make one attempt. Report its outcome with it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "report the attempt's outcome, or give the permit back with `cancelled`"]
pub struct Permit {
    phase: u64,
}

/// The breaker admits no attempt now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many failures: no attempt is made for now")]
pub struct Refused {
    /// When to ask again: a probe is admitted then, or an overdue one given up.
    pub retry_at: Instant,
}

/// A circuit breaker.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vpn_resilience::{Breaker, BreakerConfig};
///
/// let mut breaker = Breaker::new(BreakerConfig { failure_threshold: 1, ..Default::default() });
/// let now = Instant::now();
/// let permit = breaker.acquire(now)?;
/// breaker.failed(permit, now);
/// assert_eq!(breaker.acquire(now).unwrap_err().retry_at, now + Duration::from_secs(60));
/// assert!(breaker.acquire(now + Duration::from_secs(60)).is_ok());
/// # Ok::<(), vpn_resilience::Refused>(())
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    inner: Inner,
    /// Grows with each change of state and each batch of abandoned probes.
    phase: u64,
    transitions: Transitions,
}

#[derive(Clone, Copy, Debug)]
enum Inner {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        in_flight: u32,
        successes: u32,
        last_probe: Instant,
    },
}

impl Breaker {
    /// A closed breaker.
    pub const fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            inner: Inner::Closed { failures: 0 },
            phase: 0,
            transitions: Transitions {
                opened: 0,
                half_opened: 0,
                closed: 0,
            },
        }
    }

    /// Leave to make one attempt.
    ///
    /// # Errors
    ///
    /// [`Refused`] while open, and while half-open with all probes under way.
    pub fn acquire(&mut self, now: Instant) -> Result<Permit, Refused> {
        if let Inner::Open { until } = self.inner {
            if now < until {
                return Err(Refused { retry_at: until });
            }
            self.phase += 1;
            self.transitions.half_opened += 1;
            self.inner = Inner::HalfOpen {
                in_flight: 0,
                successes: 0,
                last_probe: now,
            };
        }
        if let Inner::HalfOpen {
            in_flight,
            last_probe,
            ..
        } = &mut self.inner
        {
            if *in_flight >= self.config.probes.max(1) {
                let overdue = *last_probe + self.config.reset_after;
                if now < overdue {
                    return Err(Refused { retry_at: overdue });
                }
                // Whoever held these permits is gone; what it reports later does not count.
                self.phase += 1;
                *in_flight = 0;
            }
            *in_flight += 1;
            *last_probe = now;
        }
        Ok(Permit { phase: self.phase })
    }

    /// The attempt succeeded.
    pub fn succeeded(&mut self, permit: Permit) {
        if permit.phase != self.phase {
            return;
        }
        match &mut self.inner {
            Inner::Closed { failures } => *failures = 0,
            Inner::HalfOpen {
                in_flight,
                successes,
                ..
            } => {
                *in_flight = in_flight.saturating_sub(1);
                *successes += 1;
                if *successes >= self.config.success_threshold.max(1) {
                    self.phase += 1;
                    self.transitions.closed += 1;
                    self.inner = Inner::Closed { failures: 0 };
                }
            }
            Inner::Open { .. } => {}
        }
    }

    /// The attempt failed.
    pub fn failed(&mut self, permit: Permit, now: Instant) {
        if permit.phase != self.phase {
            return;
        }
        match &mut self.inner {
            Inner::Closed { failures } => {
                *failures += 1;
                if *failures >= self.config.failure_threshold.max(1) {
                    self.open(now);
                }
            }
            Inner::HalfOpen { .. } => self.open(now),
            Inner::Open { .. } => {}
        }
    }

    /// The attempt was not made, or its outcome says nothing.
    pub fn cancelled(&mut self, permit: Permit) {
        if permit.phase != self.phase {
            return;
        }
        if let Inner::HalfOpen { in_flight, .. } = &mut self.inner {
            *in_flight = in_flight.saturating_sub(1);
        }
    }

    /// Where it stands. An open breaker whose time has passed is still open until asked.
    pub const fn state(&self) -> BreakerState {
        match self.inner {
            Inner::Closed { .. } => BreakerState::Closed,
            Inner::Open { until } => BreakerState::Open { until },
            Inner::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it changed its state.
    pub const fn transitions(&self) -> Transitions {
        self.transitions
    }

    fn open(&mut self, now: Instant) {
        self.phase += 1;
        self.transitions.opened += 1;
        self.inner = Inner::Open {
            until: now + self.config.reset_after,
        };
    }
}

#[cfg(test)]
mod tests {
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
}
