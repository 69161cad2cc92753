//! Decides whether a call is tried again, and when.
//!
//! A [`Retries`] belongs to one thing that is called: it has what all calls share, the [`Budget`] and
//! the counters. A [`Retry`] is one call. Each attempt has a time limit of its own; between attempts
//! goes an exponential delay with jitter; and there is an end to it, by attempts and by time.
//!
//! Connections that are to be kept for ever are another matter: they have a
//! [`Backoff`] that lives as long as they do, and is reset only after the connection
//! was stable for a while.

mod budget;

use std::time::{Duration, Instant};

pub use budget::{Budget, BudgetConfig};

use crate::backoff::{Backoff, BackoffConfig, GiveUp, Jitter, Next};
use crate::counters::counters;
use crate::fault::Fault;
use crate::time::{later, sooner};

/// How a call is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Attempts of one call, the first included; 0 counts as 1. Default 5.
    pub max_attempts: u32,
    /// Delay after the first failed attempt; it doubles with each further one. Default 1 s.
    pub initial_interval: Duration,
    /// Largest delay. Default 30 s.
    pub max_interval: Duration,
    /// How delays are spread. Default [`Jitter::Equal`].
    pub jitter: Jitter,
    /// How long one attempt may take. Default 10 s.
    pub attempt_timeout: Option<Duration>,
    /// How long a call may take with all its attempts and delays: no attempt begins later, and one
    /// that is under way is cut off. Default: unlimited; attempts and delays are bounded anyway.
    pub max_elapsed: Option<Duration>,
    /// What all calls together may spend on retries. Default as [`BudgetConfig`].
    pub budget: BudgetConfig,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_interval: Duration::from_secs(1),
            max_interval: Duration::from_secs(30),
            jitter: Jitter::Equal,
            attempt_timeout: Some(Duration::from_secs(10)),
            max_elapsed: None,
            budget: BudgetConfig::default(),
        }
    }
}

counters! {
    /// What came of calls. `calls - succeeded - failed - cancelled` are under way; `attempts -
    /// retries` are first attempts.
    pub struct RetryCounters {
        /// Calls that began.
        calls,
        /// Attempts that began.
        attempts,
        /// Of these, those after the first of their call.
        retries,
        /// Attempts that took too long.
        timed_out,
        /// Calls that succeeded.
        succeeded,
        /// Calls that failed in the end.
        failed,
        /// Of these, those that were worth a retry when the budget had none.
        over_budget,
        /// Calls that nobody waited for any more.
        cancelled,
    }
}

/// An attempt that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When it has taken too long.
    pub deadline: Option<Instant>,
}

/// One call. Made by [`Retries::call`], and given back to it with what came of it.
#[derive(Debug)]
#[must_use = "tell what came of the call, or `cancelled`"]
pub struct Retry {
    backoff: Backoff,
    begun: Instant,
    attempts: u32,
    not_before: Option<Instant>,
}

impl Retry {
    /// Attempts that began.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whoever refused the attempt said when another one can be made: none begins earlier. Told before
    /// the attempt is said to have [failed](Retries::failed).
    pub const fn not_before(&mut self, at: Instant) {
        self.not_before = Some(at);
    }
}

/// What all calls of one thing share.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vpn_resilience::{Fault, Jitter, Next, Retries, RetryConfig};
///
/// let config = RetryConfig { jitter: Jitter::None, ..RetryConfig::default() };
/// let mut retries = Retries::new(config, 42);
/// let now = Instant::now();
/// let mut call = retries.call(now);
/// assert_eq!(retries.begin(&mut call, now).number, 1);
/// let next = retries.failed(&mut call, Fault::Transient, now);
/// assert_eq!(next, Next::At(now + Duration::from_secs(1)));
/// assert_eq!(retries.begin(&mut call, now + Duration::from_secs(1)).number, 2);
/// retries.succeeded(call);
/// assert_eq!(retries.counters().attempts, 2);
/// ```
#[derive(Debug)]
pub struct Retries {
    config: RetryConfig,
    budget: Budget,
    seed: u64,
    counters: RetryCounters,
}

impl Retries {
    /// Retries of one thing. Equal seeds give equal delays; give each client its own.
    pub const fn new(config: RetryConfig, seed: u64) -> Self {
        Self {
            config,
            budget: Budget::new(config.budget),
            seed,
            counters: RetryCounters::ZERO,
        }
    }

    /// A call begins.
    pub fn call(&mut self, now: Instant) -> Retry {
        self.counters.calls += 1;
        self.budget.call();
        let config = BackoffConfig {
            base: self.config.initial_interval,
            cap: self.config.max_interval,
            jitter: self.config.jitter,
            ..BackoffConfig::default()
        };
        // Calls that begin together do not come back together.
        self.seed = self.seed.wrapping_add(1);
        Retry {
            backoff: Backoff::new(config, self.seed),
            begun: now,
            attempts: 0,
            not_before: None,
        }
    }

    /// An attempt of a call begins.
    pub fn begin(&mut self, call: &mut Retry, now: Instant) -> Attempt {
        self.counters.attempts += 1;
        self.counters.retries += u64::from(call.attempts > 0);
        call.attempts = call.attempts.saturating_add(1);
        let end = |from, after: Option<Duration>| after.map(|after| later(from, after));
        Attempt {
            number: call.attempts,
            deadline: sooner(
                end(now, self.config.attempt_timeout),
                end(call.begun, self.config.max_elapsed),
            ),
        }
    }

    /// The attempt failed. Says when the next is due, or that there is none and the call failed.
    pub fn failed(&mut self, call: &mut Retry, fault: Fault, now: Instant) -> Next {
        match self.next(call, fault, now) {
            Ok(at) => Next::At(at),
            Err(reason) => {
                self.counters.failed += 1;
                Next::GiveUp(reason)
            }
        }
    }

    /// The attempt took too long. As [`failed`](Self::failed) with a transient fault.
    pub fn timed_out(&mut self, call: &mut Retry, now: Instant) -> Next {
        self.counters.timed_out += 1;
        self.failed(call, Fault::Transient, now)
    }

    /// The call succeeded.
    pub fn succeeded(&mut self, call: Retry) {
        let Retry { .. } = call;
        self.counters.succeeded += 1;
    }

    /// Nobody waits for the call any more.
    pub fn cancelled(&mut self, call: Retry) {
        let Retry { .. } = call;
        self.counters.cancelled += 1;
    }

    /// What came of calls so far.
    pub const fn counters(&self) -> RetryCounters {
        self.counters
    }

    fn next(&mut self, call: &mut Retry, fault: Fault, now: Instant) -> Result<Instant, GiveUp> {
        let attempts = call.attempts;
        if !fault.is_worth_a_retry() {
            return Err(GiveUp::Pointless { attempts });
        }
        if attempts >= self.config.max_attempts.max(1) {
            return Err(GiveUp::Attempts { attempts });
        }
        let at = match call.backoff.failed(now) {
            Next::At(at) => at,
            Next::GiveUp(reason) => return Err(reason),
        };
        let at = call.not_before.take().map_or(at, |can| can.max(at));
        let end = self.config.max_elapsed.map(|most| later(call.begun, most));
        if end.is_some_and(|end| at >= end) {
            let elapsed = now.saturating_duration_since(call.begun);
            return Err(GiveUp::Elapsed { attempts, elapsed });
        }
        if !self.budget.retry(now) {
            self.counters.over_budget += 1;
            return Err(GiveUp::Budget { attempts });
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact() -> RetryConfig {
        RetryConfig {
            jitter: Jitter::None,
            ..RetryConfig::default()
        }
    }

    /// Makes attempts until there is an end to it; when each began, and why it ended.
    fn fail(retries: &mut Retries, start: Instant) -> (Vec<Duration>, GiveUp) {
        let (mut call, mut now, mut begun) = (retries.call(start), start, Vec::new());
        loop {
            let attempt = retries.begin(&mut call, now);
            begun.push(now - start);
            assert_eq!(attempt.number as usize, begun.len());
            match retries.failed(&mut call, Fault::Transient, now) {
                Next::At(at) => now = at,
                Next::GiveUp(reason) => return (begun, reason),
            }
        }
    }

    /// Regression S-3: three attempts were reported as four.
    #[test]
    fn s3_attempts_reported_are_attempts_made() {
        let mut retries = Retries::new(exact(), 0);
        let (begun, reason) = fail(&mut retries, Instant::now());
        assert_eq!(begun, [0, 1, 3, 7, 15].map(Duration::from_secs));
        assert_eq!(reason, GiveUp::Attempts { attempts: 5 });
        let counters = retries.counters();
        assert_eq!((counters.calls, counters.attempts), (1, 5));
        assert_eq!((counters.retries, counters.failed), (4, 1));
    }

    #[test]
    fn what_trying_again_cannot_help_is_not_tried_again() {
        let (mut retries, now) = (Retries::new(exact(), 0), Instant::now());
        for fault in [Fault::Permanent, Fault::Answered] {
            let mut call = retries.call(now);
            retries.begin(&mut call, now);
            let next = retries.failed(&mut call, fault, now);
            assert_eq!(next, Next::GiveUp(GiveUp::Pointless { attempts: 1 }));
        }
    }

    #[test]
    fn no_attempt_begins_after_the_end_and_the_last_is_cut_off_there() {
        let config = RetryConfig {
            max_elapsed: Some(Duration::from_secs(5)),
            ..exact()
        };
        let (mut retries, start) = (Retries::new(config, 0), Instant::now());
        let mut call = retries.call(start);
        let attempt = retries.begin(&mut call, start);
        assert_eq!(attempt.deadline, Some(start + Duration::from_secs(5)));
        let next = retries.timed_out(&mut call, start + Duration::from_secs(4));
        let elapsed = Duration::from_secs(4);
        let reason = GiveUp::Elapsed {
            attempts: 1,
            elapsed,
        };
        assert_eq!(next, Next::GiveUp(reason));
        assert_eq!(retries.counters().timed_out, 1);
    }

    #[test]
    fn when_everything_fails_retries_are_a_fifth() {
        let (mut retries, now) = (Retries::new(exact(), 0), Instant::now());
        for _ in 0..1000 {
            let mut call = retries.call(now);
            loop {
                retries.begin(&mut call, now);
                if let Next::GiveUp(_) = retries.failed(&mut call, Fault::Transient, now) {
                    break;
                }
            }
        }
        let counters = retries.counters();
        assert_eq!((counters.attempts, counters.retries), (1209, 209));
        assert!(counters.over_budget > 900);
    }

    proptest! {
        /// Any calls with any ends: the counters are those of somebody who watched.
        #[test]
        fn counters_are_exact(ends in proptest::collection::vec((0u32..8, 0u8..4), 0..60), seed: u64) {
            let (mut retries, mut now) = (Retries::new(RetryConfig::default(), seed), Instant::now());
            let mut seen = RetryCounters::default();
            for (failures, end) in ends {
                let mut call = retries.call(now);
                seen.calls += 1;
                let gave_up = (0..failures).any(|_| {
                    retries.begin(&mut call, now);
                    seen.attempts += 1;
                    seen.retries += u64::from(call.attempts() > 1);
                    match retries.failed(&mut call, Fault::Transient, now) {
                        Next::At(at) => { now = at; false }
                        Next::GiveUp(reason) => {
                            seen.failed += 1;
                            seen.over_budget += u64::from(matches!(reason, GiveUp::Budget { .. }));
                            true
                        }
                    }
                });
                match end {
                    _ if gave_up => {}
                    0 => {
                        retries.cancelled(call);
                        seen.cancelled += 1;
                    }
                    _ => {
                        retries.begin(&mut call, now);
                        seen.attempts += 1;
                        seen.retries += u64::from(call.attempts() > 1);
                        retries.succeeded(call);
                        seen.succeeded += 1;
                    }
                }
            }
            prop_assert_eq!(retries.counters(), seen);
        }
    }
}
