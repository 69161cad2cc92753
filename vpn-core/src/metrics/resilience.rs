//! What is counted about trying again, and not trying.

use super::families::*;
use super::{Measured, Visit, show};

/// Every state a breaker can be in.
const STATES: [&str; 3] = ["closed", "open", "half_open"];

/// One circuit breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// What it is for, as the integrator names it.
    pub name: String,
    /// Where it stands: `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// Changes into open.
    pub opened: u64,
    /// Changes into half-open.
    pub half_opened: u64,
    /// Changes into closed.
    pub closed: u64,
    /// Permits given.
    pub admitted: u64,
    /// Permits refused.
    pub refused: u64,
}

impl Measured for Breaker {
    fn visit(&self, visit: &mut Visit<'_>) {
        let name = self.name.as_str();
        for state in STATES {
            let is = f64::from(u8::from(self.state == state));
            show(visit, &BREAKER_STATE, &[name, state], is);
        }
        let transitions = [
            ("open", self.opened),
            ("half_open", self.half_opened),
            ("closed", self.closed),
        ];
        for (to, count) in transitions {
            show(visit, &BREAKER_TRANSITIONS, &[name, to], count as f64);
        }
        for (outcome, count) in [("given", self.admitted), ("refused", self.refused)] {
            show(visit, &BREAKER_PERMITS, &[name, outcome], count as f64);
        }
    }
}

/// Something that is tried again when it fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// What it is, as the integrator names it.
    pub name: String,
    /// Attempts that were made, the first ones included.
    pub attempts: u64,
    /// Calls that succeeded in the end.
    pub succeeded: u64,
    /// Calls that were given up.
    pub given_up: u64,
}

impl Measured for Retry {
    fn visit(&self, visit: &mut Visit<'_>) {
        let name = self.name.as_str();
        show(visit, &RETRY_ATTEMPTS, &[name], self.attempts as f64);
        for (outcome, count) in [("succeeded", self.succeeded), ("given_up", self.given_up)] {
            show(visit, &RETRY_CALLS, &[name, outcome], count as f64);
        }
    }
}
