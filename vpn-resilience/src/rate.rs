//! Decides whether there is leave for so much, so soon: a token bucket.
//!
//! A bucket holds up to `burst` tokens and gets `per_second` of them each second; what is taken has
//! to be there. Counted in billionths of a token, so that no rate is rounded: within any time *t* no
//! more than `burst + per_second · t` is admitted, and not one less where somebody always wants more.

use std::time::{Duration, Instant};

use crate::counters::counters;
use crate::time::later;

/// A token in the unit the bucket counts in: tokens per second times nanoseconds.
const TOKEN: i128 = 1_000_000_000;

/// How much a [`RateLimit`] admits. A zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// Tokens per second: packets, bytes, calls. Default 100.
    pub per_second: u64,
    /// Tokens that may be taken at once after a silence. Default 100.
    pub burst: u64,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self {
            per_second: 100,
            burst: 100,
        }
    }
}

/// There is no leave for so much now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much at once: the rate is limited")]
pub struct Limited {
    /// When there is, if nobody else takes anything until then.
    pub retry_at: Instant,
}

counters! {
    /// What a [`RateLimit`] admitted and refused.
    pub struct RateCounters {
        /// Requests that were admitted.
        admitted,
        /// Tokens of these.
        tokens,
        /// Requests that were refused; one that asks again is counted again.
        refused,
    }
}

/// A token bucket. It starts full.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vpn_resilience::{RateConfig, RateLimit};
///
/// let now = Instant::now();
/// let mut limit = RateLimit::new(RateConfig { per_second: 10, burst: 2 });
/// assert!(limit.take(2, now).is_ok());
/// let limited = limit.take(1, now).unwrap_err();
/// assert_eq!(limited.retry_at, now + Duration::from_millis(100));
/// assert!(limit.take(1, limited.retry_at).is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct RateLimit {
    per_second: u64,
    burst: i128,
    level: i128,
    filled: Option<Instant>,
    counters: RateCounters,
}

impl RateLimit {
    /// A full bucket.
    pub const fn new(config: RateConfig) -> Self {
        let burst = if config.burst == 0 { 1 } else { config.burst } as i128 * TOKEN;
        Self {
            per_second: if config.per_second == 0 {
                1
            } else {
                config.per_second
            },
            burst,
            level: burst,
            filled: None,
            counters: RateCounters::ZERO,
        }
    }

    /// Takes so many tokens, or none. More than the bucket holds are admitted when it is full, and
    /// paid back afterwards: otherwise a large packet would never pass.
    ///
    /// # Errors
    ///
    /// [`Limited`] if there are not as many.
    #[inline]
    pub fn take(&mut self, tokens: u64, now: Instant) -> Result<(), Limited> {
        self.fill(now);
        let wanted = i128::from(tokens) * TOKEN;
        let missing = wanted.min(self.burst) - self.level;
        if missing > 0 {
            self.counters.refused += 1;
            return Err(Limited {
                retry_at: later(now, self.time_for(missing)),
            });
        }
        self.level -= wanted;
        self.counters.admitted += 1;
        self.counters.tokens += tokens;
        Ok(())
    }

    /// Takes so many tokens ahead of time, if they are there within `patience`: when they are, which
    /// is when to go on. Whoever asks later goes on later; who does not go on has spent them.
    ///
    /// # Errors
    ///
    /// [`Limited`] if it takes longer; nothing is taken then.
    pub fn reserve(
        &mut self,
        tokens: u64,
        now: Instant,
        patience: Duration,
    ) -> Result<Instant, Limited> {
        self.fill(now);
        let wanted = i128::from(tokens) * TOKEN;
        let missing = wanted.min(self.burst) - self.level;
        let wait = if missing > 0 {
            self.time_for(missing)
        } else {
            Duration::ZERO
        };
        if wait > patience {
            self.counters.refused += 1;
            return Err(Limited {
                retry_at: later(now, wait - patience),
            });
        }
        self.level -= wanted;
        self.counters.admitted += 1;
        self.counters.tokens += tokens;
        Ok(later(now, wait))
    }

    /// Whole tokens that could be taken now.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.fill(now);
        u64::try_from(self.level.max(0) / TOKEN).unwrap_or(u64::MAX)
    }

    /// Gives back what one request took and did not need: neither it nor its tokens are counted then.
    pub fn put_back(&mut self, tokens: u64) {
        self.level = (self.level + i128::from(tokens) * TOKEN).min(self.burst);
        self.counters.admitted = self.counters.admitted.saturating_sub(1);
        self.counters.tokens = self.counters.tokens.saturating_sub(tokens);
    }

    /// Puts tokens into the bucket, in hundredths of one, as far as there is room.
    pub(crate) fn add_hundredths(&mut self, hundredths: u64) {
        let more = i128::from(hundredths) * (TOKEN / 100);
        self.level = (self.level + more).min(self.burst);
    }

    /// What was admitted and refused.
    pub const fn counters(&self) -> RateCounters {
        self.counters
    }

    #[inline]
    fn fill(&mut self, now: Instant) {
        let since = *self.filled.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed > Duration::ZERO {
            // 128 bits: 584 years at the largest rate.
            let more = passed.as_nanos() as i128 * i128::from(self.per_second);
            self.level = self.level.saturating_add(more).min(self.burst);
            self.filled = Some(now);
        }
    }

    fn time_for(&self, missing: i128) -> Duration {
        let nanos = (missing as u128).div_ceil(u128::from(self.per_second));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn more_than_it_holds_passes_when_it_is_full_and_is_paid_back() {
        let start = Instant::now();
        let mut limit = RateLimit::new(RateConfig {
            per_second: 1000,
            burst: 100,
        });
        assert!(limit.take(600, start).is_ok());
        let limited = limit.take(1, start).unwrap_err();
        assert_eq!(limited.retry_at, start + Duration::from_millis(501));
        assert_eq!(limit.available(limited.retry_at), 1);
    }

    #[test]
    fn time_that_goes_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut limit = RateLimit::new(RateConfig {
            per_second: 1,
            burst: 1,
        });
        assert!(limit.take(1, start).is_ok());
        for back in 1..10 {
            assert!(limit.take(1, start - Duration::from_secs(back)).is_err());
        }
        assert!(limit.take(1, start + Duration::from_millis(999)).is_err());
        assert!(limit.take(1, start + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn who_asks_ahead_goes_on_one_after_the_other() {
        let start = Instant::now();
        let mut limit = RateLimit::new(RateConfig {
            per_second: 10,
            burst: 1,
        });
        let patience = Duration::from_millis(250);
        let ms = |ms| start + Duration::from_millis(ms);
        for at in [0, 100, 200] {
            assert_eq!(limit.reserve(1, start, patience), Ok(ms(at)));
        }
        assert_eq!(
            limit.reserve(1, start, patience),
            Err(Limited { retry_at: ms(50) })
        );
        assert_eq!(limit.reserve(1, ms(50), patience), Ok(ms(300)));
    }

    proptest! {
        /// Who always wants more gets exactly the burst and the rate: never more, and at the time
        /// that was told.
        #[test]
        fn exactly_the_rate(
            per_second in 1u64..1_000_000, burst in 1u64..1_000, wanted in 1u64..50, times in 1u32..200
        ) {
            let start = Instant::now();
            let mut limit = RateLimit::new(RateConfig { per_second, burst });
            let wanted = wanted.min(burst);
            let (mut now, mut taken) = (start, 0u128);
            for _ in 0..times {
                if let Err(limited) = limit.take(wanted, now) {
                    let early = limited.retry_at - Duration::from_nanos(1);
                    prop_assert!(limit.take(wanted, early).is_err());
                    now = limited.retry_at;
                    prop_assert!(limit.take(wanted, now).is_ok());
                }
                taken += u128::from(wanted);
                let passed = (now - start).as_nanos();
                let most = u128::from(burst) * 1_000_000_000 + passed * u128::from(per_second);
                prop_assert!(taken * 1_000_000_000 <= most);
            }
            prop_assert_eq!(u128::from(limit.counters().tokens), taken);
        }
    }
}
