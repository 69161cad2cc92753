//! Decides when the next attempt is due: exponential back-off with jitter from a seed.
//!
//! The delay before attempt *n + 1* is drawn around `base · factorⁿ⁻¹`, never above `cap`. A
//! success does not reset it at once: a peer that answers and fails again every second would be
//! hammered. Only after `stable_after` without a failure the next one starts from `base` again.

use std::time::{Duration, Instant};

use crate::random::Random;
use crate::time::later;

/// How the delay is spread, so that many clients do not come back in the same millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// Exactly the exponential delay.
    None,
    /// Uniform between half the delay and the delay: spreads, and never comes back at once.
    #[default]
    Equal,
    /// Uniform between zero and the delay: spreads the most.
    Full,
}

/// Bounds of a [`Backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Delay after the first failure. Default 500 ms.
    pub base: Duration,
    /// What the delay is multiplied by after each further failure; 0 counts as 1. Default 2.
    pub factor: u32,
    /// Largest delay. Default 30 s.
    pub cap: Duration,
    /// How delays are spread. Default [`Jitter::Equal`].
    pub jitter: Jitter,
    /// Failures after which it gives up. Default: never.
    pub max_attempts: Option<u32>,
    /// Time since the first failure after which no attempt starts. Default: unlimited.
    pub max_elapsed: Option<Duration>,
    /// How long a success must last before the next failure starts from `base`. Default 60 s.
    pub stable_after: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            factor: 2,
            cap: Duration::from_secs(30),
            jitter: Jitter::Equal,
            max_attempts: None,
            max_elapsed: None,
            stable_after: Duration::from_secs(60),
        }
    }
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again at this time.
    At(Instant),
    /// Do not try again.
    GiveUp(GiveUp),
}

/// Why no further attempt is made. Carries the attempts really made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GiveUp {
    /// [`BackoffConfig::max_attempts`] is reached.
    #[error("gave up after {attempts} attempts")]
    Attempts {
        /// Attempts that failed.
        attempts: u32,
    },
    /// The next attempt would start after [`BackoffConfig::max_elapsed`].
    #[error("gave up after {attempts} attempts in {elapsed:?}")]
    Elapsed {
        /// Attempts that failed.
        attempts: u32,
        /// Time since the first of them failed; for a call, since it began.
        elapsed: Duration,
    },
    /// The failure is one that another attempt would meet as well.
    #[error("failed at attempt {attempts}, and trying again would not help")]
    Pointless {
        /// Attempts that were made.
        attempts: u32,
    },
    /// All calls together have spent their [budget](crate::retry::Budget) of retries.
    #[error("gave up after {attempts} attempts: so much fails that retries would add to it")]
    Budget {
        /// Attempts that were made.
        attempts: u32,
    },
}

impl GiveUp {
    /// Attempts that were made, all of which failed.
    pub const fn attempts(&self) -> u32 {
        let (Self::Attempts { attempts }
        | Self::Elapsed { attempts, .. }
        | Self::Pointless { attempts }
        | Self::Budget { attempts }) = self;
        *attempts
    }
}

/// The back-off of one thing that is tried again.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vpn_resilience::{Backoff, BackoffConfig, Jitter, Next};
///
/// let config = BackoffConfig { jitter: Jitter::None, ..BackoffConfig::default() };
/// let mut backoff = Backoff::new(config, 1);
/// let now = Instant::now();
/// assert_eq!(backoff.failed(now), Next::At(now + Duration::from_millis(500)));
/// assert_eq!(backoff.failed(now), Next::At(now + Duration::from_secs(1)));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    random: Random,
    attempts: u32,
    first_failure: Option<Instant>,
    succeeded: Option<Instant>,
}

impl Backoff {
    /// A back-off without failures. Equal seeds give equal delays; give each client its own.
    pub const fn new(config: BackoffConfig, seed: u64) -> Self {
        Self {
            config,
            random: Random::new(seed),
            attempts: 0,
            first_failure: None,
            succeeded: None,
        }
    }

    /// An attempt failed. Says when the next is due.
    pub fn failed(&mut self, now: Instant) -> Next {
        self.settle(now);
        self.succeeded = None;
        self.attempts = self.attempts.saturating_add(1);
        let first = *self.first_failure.get_or_insert(now);
        let attempts = self.attempts;
        if self.config.max_attempts.is_some_and(|max| attempts >= max) {
            return Next::GiveUp(GiveUp::Attempts { attempts });
        }
        let delay = self.delay();
        let elapsed = now.saturating_duration_since(first);
        if self
            .config
            .max_elapsed
            .is_some_and(|max| elapsed.saturating_add(delay) > max)
        {
            return Next::GiveUp(GiveUp::Elapsed { attempts, elapsed });
        }
        Next::At(later(now, delay))
    }

    /// An attempt succeeded. Failures are forgotten once this has lasted `stable_after`.
    pub fn succeeded(&mut self, now: Instant) {
        self.settle(now);
        self.succeeded.get_or_insert(now);
    }

    /// Forgets all failures at once: for when the circumstances changed, such as a new network.
    pub fn reset(&mut self) {
        self.attempts = 0;
        self.first_failure = None;
        self.succeeded = None;
    }

    /// Attempts that failed since the last reset: exactly the calls of [`failed`](Self::failed).
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When the present success counts as stable, if there is one.
    pub fn stable_at(&self) -> Option<Instant> {
        self.succeeded?.checked_add(self.config.stable_after)
    }

    fn settle(&mut self, now: Instant) {
        if self.stable_at().is_some_and(|at| now >= at) {
            self.attempts = 0;
            self.first_failure = None;
        }
    }

    fn delay(&mut self) -> Duration {
        let exponent = self.attempts.saturating_sub(1);
        let factor = self.config.factor.max(1).saturating_pow(exponent);
        let full = self.config.base.saturating_mul(factor).min(self.config.cap);
        match self.config.jitter {
            Jitter::None => full,
            Jitter::Equal => full / 2 + self.random.uniform(full - full / 2),
            Jitter::Full => self.random.uniform(full),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact() -> BackoffConfig {
        BackoffConfig {
            jitter: Jitter::None,
            ..BackoffConfig::default()
        }
    }

    fn wait(next: Next, now: Instant) -> Duration {
        match next {
            Next::At(at) => at - now,
            Next::GiveUp(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn only_a_stable_success_resets() {
        let mut backoff = Backoff::new(exact(), 0);
        let start = Instant::now();
        for _ in 0..3 {
            backoff.failed(start);
        }
        backoff.succeeded(start);
        let shaky = start + Duration::from_secs(59);
        assert_eq!(wait(backoff.failed(shaky), shaky), Duration::from_secs(4));
        backoff.succeeded(shaky);
        backoff.succeeded(shaky + Duration::from_secs(30));
        let stable = shaky + Duration::from_secs(60);
        assert_eq!(
            wait(backoff.failed(stable), stable),
            Duration::from_millis(500)
        );
        assert_eq!(backoff.attempts(), 1);
    }

    #[test]
    fn attempts_reported_are_attempts_made() {
        let config = BackoffConfig {
            max_attempts: Some(3),
            ..exact()
        };
        let mut backoff = Backoff::new(config, 0);
        let now = Instant::now();
        assert!(matches!(backoff.failed(now), Next::At(_)));
        assert!(matches!(backoff.failed(now), Next::At(_)));
        assert_eq!(
            backoff.failed(now),
            Next::GiveUp(GiveUp::Attempts { attempts: 3 })
        );
    }

    #[test]
    fn no_attempt_starts_after_max_elapsed() {
        let config = BackoffConfig {
            max_elapsed: Some(Duration::from_secs(2)),
            ..exact()
        };
        let mut backoff = Backoff::new(config, 0);
        let start = Instant::now();
        let mut now = start;
        let reason = loop {
            match backoff.failed(now) {
                Next::At(at) => now = at,
                Next::GiveUp(reason) => break reason,
            }
        };
        // 0 s, +0.5 s, +1 s; the next would be at 3.5 s.
        assert_eq!(
            reason,
            GiveUp::Elapsed {
                attempts: 3,
                elapsed: Duration::from_millis(1500)
            }
        );
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(
            seed: u64, base in 1u64..5_000, factor in 0u32..10, cap in 1u64..60_000, failures in 1u32..80
        ) {
            for jitter in [Jitter::None, Jitter::Equal, Jitter::Full] {
                let cap = Duration::from_millis(cap);
                let base = Duration::from_millis(base);
                let config = BackoffConfig { base, factor, cap, jitter, ..BackoffConfig::default() };
                let mut backoff = Backoff::new(config, seed);
                let mut twin = backoff.clone();
                let now = Instant::now();
                let mut full = base.min(cap);
                for attempt in 1..=failures {
                    let delay = wait(backoff.failed(now), now);
                    prop_assert_eq!(delay, wait(twin.failed(now), now));
                    prop_assert!(delay <= full);
                    match jitter {
                        Jitter::None => prop_assert_eq!(delay, full),
                        Jitter::Equal => prop_assert!(delay >= full / 2),
                        Jitter::Full => {}
                    }
                    prop_assert_eq!(backoff.attempts(), attempt);
                    full = full.saturating_mul(factor.max(1)).min(cap);
                }
            }
        }
    }
}
