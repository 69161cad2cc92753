//! `[breaker]`: when a tunnel or a source of rules is left alone.

use serde::{Deserialize, Serialize};
use vpn_resilience::BreakerConfig;

use super::value::{Count, Span};

/// How often: a million is never.
type Times = Count<1, 1_000_000>;

/// `[breaker]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Breaker {
    failures: Times,
    reset_after: Span<100, 3_600_000>,
    successes: Times,
}

impl Default for Breaker {
    fn default() -> Self {
        let breaker = BreakerConfig::default();
        Self {
            failures: Count(breaker.failure_threshold as usize),
            reset_after: Span(breaker.reset_after),
            successes: Count(breaker.success_threshold as usize),
        }
    }
}

impl Breaker {
    /// The settings of each breaker.
    pub(crate) fn config(&self) -> BreakerConfig {
        // In bounds of a million.
        let times = |count: Times| u32::try_from(count.0).unwrap_or(u32::MAX);
        BreakerConfig {
            failure_threshold: times(self.failures),
            reset_after: self.reset_after.0,
            success_threshold: times(self.successes),
            ..BreakerConfig::default()
        }
    }
}
