//! Decides how many retries all calls together may make.
//!
//! When everything fails, each call that makes five attempts is five times the load on what is ill
//! already. So a retry costs a token, and only calls bring tokens: a fifth of one each, say. What
//! works has tokens for its few failures; what does not gets a fifth more load, not five times as
//! much.

use std::time::Instant;

use crate::rate::{RateConfig, RateLimit};

/// How many retries a [`Budget`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Retries per hundred calls, beyond those below. Default 20.
    pub percent: u32,
    /// Retries per second that are there in any case, so that rare calls are tried again too; 0
    /// counts as 1. Default 1.
    pub per_second: u64,
    /// Retries that are saved at most, and there at the beginning; 0 counts as 1. Default 10.
    pub most: u64,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            percent: 20,
            per_second: 1,
            most: 10,
        }
    }
}

/// Retries that all calls of one kind share.
#[derive(Clone, Debug)]
pub struct Budget {
    percent: u32,
    tokens: RateLimit,
}

impl Budget {
    /// A budget that has its most.
    pub const fn new(config: BudgetConfig) -> Self {
        let rate = RateConfig {
            per_second: config.per_second,
            burst: config.most,
        };
        Self {
            percent: config.percent,
            tokens: RateLimit::new(rate),
        }
    }

    /// A call begins.
    pub fn call(&mut self) {
        self.tokens.add_hundredths(u64::from(self.percent));
    }

    /// Takes leave for one retry; whether there was one.
    pub fn retry(&mut self, now: Instant) -> bool {
        self.tokens.take(1, now).is_ok()
    }

    /// Retries that could be made now.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.tokens.available(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn when_everything_fails_the_load_grows_by_a_fifth() {
        let (mut budget, now) = (Budget::new(BudgetConfig::default()), Instant::now());
        let mut retries = 0;
        for _ in 0..1000 {
            budget.call();
            retries += (0..4).filter(|_| budget.retry(now)).count();
        }
        // What the first call brings finds no room.
        assert_eq!(retries, 10 + 199);
    }

    #[test]
    fn rare_calls_are_tried_again() {
        let (mut budget, mut now) = (Budget::new(BudgetConfig::default()), Instant::now());
        for _ in 0..100 {
            now += Duration::from_secs(10);
            budget.call();
            assert!((0..4).all(|_| budget.retry(now)));
        }
    }
}
