//! Reports as samples of vpn-core's snapshot: one for the whole SDK, filled by whoever has the parts.
//!
//! ```
//! use vpn_core::metrics::Snapshot;
//! use vpn_resilience::{Breaker, BreakerConfig};
//!
//! let breaker = Breaker::new(BreakerConfig::default());
//! let mut snapshot = Snapshot::default();
//! breaker.status().measure("directory", &mut snapshot);
//! assert_eq!(snapshot.breakers[0].state, "closed");
//! ```

use vpn_core::metrics::{self, Snapshot};

use crate::breaker::registry::RegistryStatus;
use crate::breaker::{BreakerCounters, BreakerStatus, Transitions};
use crate::bulkhead::BulkheadStatus;
use crate::decorate::{RemadeCounters, ShedCounters};
use crate::health::HealthStatus;
use crate::rate::RateCounters;
use crate::retry::RetryCounters;
use crate::supervise::{SupervisorReport, TaskStatus};
use crate::timeout::TimeoutCounters;
use crate::warm::WarmCounters;

fn breaker(
    name: &str,
    state: &'static str,
    transitions: &Transitions,
    permits: &BreakerCounters,
) -> metrics::Breaker {
    metrics::Breaker {
        name: name.to_owned(),
        state,
        opened: transitions.opened,
        half_opened: transitions.half_opened,
        closed: transitions.closed,
        admitted: permits.admitted,
        refused: permits.refused,
    }
}

impl BreakerStatus {
    /// Puts what it says into a snapshot, as the breaker of this name.
    pub fn measure(&self, name: &str, into: &mut Snapshot) {
        let state = self.state.name();
        into.breakers
            .push(breaker(name, state, &self.transitions, &self.counters));
    }
}

impl RegistryStatus {
    /// Puts its sums into a snapshot, as one breaker of this name. It is open while one of them is,
    /// and else half-open while one is.
    pub fn measure(&self, name: &str, into: &mut Snapshot) {
        let state = match (self.open, self.half_open) {
            (0, 0) => "closed",
            (0, _) => "half_open",
            _ => "open",
        };
        into.breakers
            .push(breaker(name, state, &self.transitions, &self.permits));
    }
}

impl RetryCounters {
    /// Puts what it says into a snapshot, as what is tried again under this name.
    pub fn measure(&self, name: &str, into: &mut Snapshot) {
        into.retries.push(metrics::Retry {
            name: name.to_owned(),
            attempts: self.attempts,
            succeeded: self.succeeded,
            given_up: self.failed,
        });
    }
}

impl RemadeCounters {
    /// Puts what it says into a snapshot, as what is tried again under this name: an attempt is one to
    /// make a transport.
    pub fn measure(&self, name: &str, into: &mut Snapshot) {
        into.retries.push(metrics::Retry {
            name: name.to_owned(),
            attempts: self.made + self.failed,
            succeeded: self.made,
            given_up: 0,
        });
    }
}

impl HealthStatus {
    /// Puts what it says into a snapshot, as the life of this peer.
    pub fn measure(&self, peer: &str, into: &mut Snapshot) {
        into.lives.push(metrics::Life {
            peer: peer.to_owned(),
            life: self.life.name(),
            questions: self.counters.questions,
            answers: self.counters.answers,
            deaths: self.counters.deaths,
        });
    }
}

impl TaskStatus {
    /// Puts what it says into a snapshot.
    pub fn measure(&self, into: &mut Snapshot) {
        into.tasks.push(metrics::Task {
            name: (*self.name).to_owned(),
            state: self.state.name(),
            starts: self.counters.starts,
            ended: self.counters.ended,
            failures: self.counters.failures,
            panics: self.counters.panics,
        });
    }
}

impl SupervisorReport {
    /// Puts each task into a snapshot. Tasks are told apart by their names.
    pub fn measure(&self, into: &mut Snapshot) {
        self.tasks.iter().for_each(|task| task.measure(into));
    }
}

/// What is a limit is measured alike: outcomes by their names.
macro_rules! limits {
    ($($counters:ty: $outcomes:expr;)+) => {$(
        impl $counters {
            /// Puts what it says into a snapshot, as the limit of this name.
            pub fn measure(&self, name: &str, into: &mut Snapshot) {
                let outcomes: fn(&Self) -> Vec<(&'static str, u64)> = $outcomes;
                into.limits.push(metrics::Limit {
                    name: name.to_owned(),
                    outcomes: outcomes(self),
                });
            }
        }
    )+};
}

limits! {
    RateCounters: |counters| counters.iter().collect();
    TimeoutCounters: |counters| counters.iter().collect();
    ShedCounters: |counters| counters.iter().collect();
    WarmCounters: |counters| counters.iter().collect();
    BulkheadStatus: |status| status.counters.iter().collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::{Ended, Task, TaskConfig};
    use crate::{Breaker, BreakerConfig, HealthConfig, Monitor, RateConfig, RateLimit};
    use std::collections::BTreeMap;
    use std::time::Instant;

    #[test]
    fn every_part_has_its_samples() {
        let (now, mut snapshot) = (Instant::now(), Snapshot::default());
        let mut breaker = Breaker::new(BreakerConfig::default());
        let _ = breaker.acquire(now);
        breaker.status().measure("b", &mut snapshot);
        let retries = RetryCounters {
            attempts: 3,
            failed: 1,
            ..RetryCounters::ZERO
        };
        retries.measure("r", &mut snapshot);
        let mut rate = RateLimit::new(RateConfig::default());
        let _ = rate.take(7, now);
        rate.counters().measure("l", &mut snapshot);
        Monitor::new(HealthConfig::default(), now)
            .status()
            .measure("p", &mut snapshot);
        let mut task = Task::new("t", TaskConfig::default(), 0);
        task.started(now);
        task.ended(Ended::Panicked(String::new()), now);
        task.status().measure(&mut snapshot);
        let mut seen = BTreeMap::new();
        snapshot.visit(&mut |metric| {
            let key = format!("{} {}", metric.family.name, metric.labels.join(" "));
            seen.insert(key, metric.value);
        });
        for (key, value) in [
            ("vpn_breaker_state b closed", 1.0),
            ("vpn_breaker_permits_total b given", 1.0),
            ("vpn_retry_attempts_total r", 3.0),
            ("vpn_retry_calls_total r given_up", 1.0),
            ("vpn_limit_requests_total l tokens", 7.0),
            ("vpn_peer_life p unknown", 1.0),
            ("vpn_task_state t waiting", 1.0),
            ("vpn_task_ends_total t panicked", 1.0),
        ] {
            assert_eq!(seen.get(key), Some(&value), "{key}: {seen:?}");
        }
    }
}
