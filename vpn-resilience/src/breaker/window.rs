//! Decides whether too large a share of the attempts of late has failed: a rolling window.

use std::time::{Duration, Instant};

/// The window rolls on by this share of its span: finer costs memory and gains nothing.
const PARTS: usize = 10;

/// What opens a [`Breaker`](super::Breaker) besides failures in a row: the share of failures among
/// the attempts of late. Finds what fails often and never five times in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How far it looks back; it rolls on in tenths of this. Default 60 s.
    pub span: Duration,
    /// Attempts below which a share says nothing; 0 counts as 1. Default 20.
    pub least: u32,
    /// Share of failures, in percent, at which the breaker opens; 0 counts as 1. Default 50.
    pub percent: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            span: Duration::from_secs(60),
            least: 20,
            percent: 50,
        }
    }
}

/// Attempts in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// Whose outcome is known.
    pub attempts: u64,
    /// Of these, those that failed.
    pub failures: u64,
}

/// Outcomes by the tenth of the span in which they were reported.
#[derive(Clone, Debug)]
pub(super) struct Rolling {
    config: Window,
    parts: [Recent; PARTS],
    /// The part that is being filled, and since when.
    current: usize,
    since: Option<Instant>,
}

impl Rolling {
    pub(super) const fn new(config: Window) -> Self {
        const NONE: Recent = Recent {
            attempts: 0,
            failures: 0,
        };
        Self {
            config,
            parts: [NONE; PARTS],
            current: 0,
            since: None,
        }
    }

    /// Forgets all outcomes.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.config);
    }

    /// Forgets what has left the window.
    pub(super) fn roll(&mut self, now: Instant) {
        let part = (self.config.span / PARTS as u32).max(Duration::from_nanos(1));
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_nanos() / part.as_nanos();
        if passed == 0 {
            return;
        }
        for _ in 0..passed.min(PARTS as u128) {
            self.current = (self.current + 1) % PARTS;
            self.parts[self.current] = Recent::default();
        }
        // What is left over belongs to the part that begins: parts do not drift.
        let over = now.saturating_duration_since(since).as_nanos() % part.as_nanos();
        let over = Duration::from_nanos(u64::try_from(over).unwrap_or(0));
        self.since = now.checked_sub(over).or(Some(now));
    }

    /// An attempt succeeded.
    pub(super) const fn succeeded(&mut self) {
        self.parts[self.current].attempts += 1;
    }

    /// An attempt failed. Whether that was one too many.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.roll(now);
        self.parts[self.current].attempts += 1;
        self.parts[self.current].failures += 1;
        let Recent { attempts, failures } = self.recent();
        attempts >= u64::from(self.config.least.max(1))
            && failures * 100 >= attempts * u64::from(self.config.percent.clamp(1, 100))
    }

    /// What is in the window.
    pub(super) fn recent(&self) -> Recent {
        let sum = |mut sum: Recent, part: &Recent| {
            sum.attempts += part.attempts;
            sum.failures += part.failures;
            sum
        };
        self.parts.iter().fold(Recent::default(), sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn outcomes_leave_the_window() {
        let config = Window {
            span: Duration::from_secs(10),
            least: 2,
            percent: 50,
        };
        let (mut rolling, start) = (Rolling::new(config), Instant::now());
        assert!(!rolling.failed(start), "one attempt says nothing");
        rolling.roll(start + Duration::from_millis(9_999));
        assert_eq!(rolling.recent().failures, 1);
        rolling.roll(start + Duration::from_secs(10));
        assert_eq!(rolling.recent(), Recent::default());
    }

    proptest! {
        /// Beside a list of all outcomes that is counted anew each time.
        #[test]
        fn it_is_what_a_list_says(
            steps in proptest::collection::vec((0u64..5_000, any::<bool>()), 1..120),
            least in 0u32..12, percent in 0u32..101,
        ) {
            let config = Window { span: Duration::from_secs(10), least, percent };
            let (mut rolling, start) = (Rolling::new(config), Instant::now());
            let (mut list, mut at): (Vec<(u64, bool)>, u64) = (Vec::new(), 0);
            for (wait, failed) in steps {
                at += if list.is_empty() { 0 } else { wait };
                let now = start + Duration::from_millis(at);
                list.push((at / 1000, failed));
                let inside = list.iter().filter(|(part, _)| part + 10 > at / 1000);
                let (mut attempts, mut failures) = (0, 0);
                for (_, failed) in inside {
                    attempts += 1;
                    failures += u64::from(*failed);
                }
                if failed {
                    let too_many = attempts >= u64::from(least.max(1))
                        && failures as f64 / attempts as f64 * 100.0 >= f64::from(percent.max(1));
                    prop_assert_eq!(rolling.failed(now), too_many);
                } else {
                    rolling.roll(now);
                    rolling.succeeded();
                }
                prop_assert_eq!(rolling.recent(), Recent { attempts, failures });
            }
        }
    }
}
