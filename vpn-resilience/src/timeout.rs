//! Decides how long an answer may take: fixed, or learned from those that came.
//!
//! Learned as TCP learns its retransmission timeout (RFC 6298): a smoothed time and its mean
//! deviation; the limit is the one plus four times the other (section 2), and doubles with each
//! answer that did not come (section 5.5), for the network may have become slower than anything
//! that was seen.

use std::time::Duration;

use crate::counters::counters;

/// Bounds of a [`Timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutConfig {
    /// The limit before anything was measured. Default 3 s.
    pub initial: Duration,
    /// The limit is never shorter. Default 200 ms.
    pub least: Duration,
    /// The limit is never longer. Default 10 s.
    pub most: Duration,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(3),
            least: Duration::from_millis(200),
            most: Duration::from_secs(10),
        }
    }
}

impl TimeoutConfig {
    /// Always this limit.
    pub const fn fixed(limit: Duration) -> Self {
        Self {
            initial: limit,
            least: limit,
            most: limit,
        }
    }
}

counters! {
    /// What came of what had a time limit.
    pub struct TimeoutCounters {
        /// Answers in time.
        answered,
        /// Answers that did not come in time.
        expired,
    }
}

/// A time limit that follows what is measured.
///
/// ```
/// use std::time::Duration;
/// use vpn_resilience::{Timeout, TimeoutConfig};
///
/// let mut timeout = Timeout::new(TimeoutConfig::default());
/// assert_eq!(timeout.limit(), Duration::from_secs(3));
/// for _ in 0..50 {
///     timeout.answered(Duration::from_millis(80));
/// }
/// assert_eq!(timeout.limit(), Duration::from_millis(200), "never shorter");
/// ```
#[derive(Clone, Debug)]
pub struct Timeout {
    config: TimeoutConfig,
    /// Smoothed time and its mean deviation.
    measured: Option<(Duration, Duration)>,
    doublings: u32,
    counters: TimeoutCounters,
}

impl Timeout {
    /// A limit that has learned nothing yet.
    pub const fn new(config: TimeoutConfig) -> Self {
        Self {
            config,
            measured: None,
            doublings: 0,
            counters: TimeoutCounters::ZERO,
        }
    }

    /// How long the next answer may take.
    pub fn limit(&self) -> Duration {
        let base = match self.measured {
            None => self.config.initial,
            Some((smoothed, deviation)) => smoothed.saturating_add(deviation.saturating_mul(4)),
        };
        let factor = 1u32.checked_shl(self.doublings).unwrap_or(u32::MAX);
        let doubled = base.max(self.config.least).saturating_mul(factor);
        // Not `clamp`, which panics if the bounds contradict each other.
        doubled.max(self.config.least).min(self.config.most)
    }

    /// An answer came, and took so long. Not for an answer that may be that of an earlier attempt
    /// (RFC 6298 section 3, Karn).
    pub fn answered(&mut self, took: Duration) {
        self.counters.answered += 1;
        self.doublings = 0;
        self.measured = Some(match self.measured {
            None => (took, took / 2),
            Some((smoothed, deviation)) => {
                let off = smoothed.abs_diff(took);
                let deviation = (deviation / 4).saturating_mul(3).saturating_add(off / 4);
                (
                    (smoothed / 8).saturating_mul(7).saturating_add(took / 8),
                    deviation,
                )
            }
        });
    }

    /// No answer came within the limit.
    pub fn expired(&mut self) {
        self.counters.expired += 1;
        self.doublings = self.doublings.saturating_add(1).min(31);
    }

    /// What is known of answers: the smoothed time and its mean deviation.
    pub const fn measured(&self) -> Option<(Duration, Duration)> {
        self.measured
    }

    /// What came of it so far.
    pub const fn counters(&self) -> TimeoutCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_learns_as_rfc_6298_has_it() {
        let mut timeout = Timeout::new(TimeoutConfig::default());
        timeout.answered(ms(400));
        assert_eq!(timeout.limit(), ms(400 + 4 * 200));
        timeout.answered(ms(400));
        assert_eq!(timeout.limit(), ms(400 + 4 * 150));
        timeout.expired();
        assert_eq!(timeout.limit(), ms(2000));
        timeout.answered(ms(800));
        assert_eq!(
            timeout.measured(),
            Some((ms(450), ms(212) + Duration::from_micros(500)))
        );
    }

    #[test]
    fn a_fixed_one_stays() {
        let mut timeout = Timeout::new(TimeoutConfig::fixed(ms(700)));
        for _ in 0..100 {
            timeout.expired();
            assert_eq!(timeout.limit(), ms(700));
            timeout.answered(ms(1));
        }
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            config: [u64; 3], steps in proptest::collection::vec(proptest::option::of(any::<Duration>()), 0..100)
        ) {
            let [initial, least, most] = config.map(Duration::from_millis);
            let mut timeout = Timeout::new(TimeoutConfig { initial, least, most });
            for step in steps {
                match step {
                    Some(took) => timeout.answered(took),
                    None => timeout.expired(),
                }
                prop_assert!(timeout.limit() <= most);
                prop_assert!(timeout.limit() >= least.min(most));
            }
        }
    }
}
