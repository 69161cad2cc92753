//! What is counted about trying again, not trying, and running on.

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

/// Something that gives leave for so much and no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// What it limits, as the integrator names it.
    pub name: String,
    /// What came of requests, by name.
    pub outcomes: Vec<(&'static str, u64)>,
}

impl Measured for Limit {
    fn visit(&self, visit: &mut Visit<'_>) {
        for (outcome, count) in &self.outcomes {
            let labels = [self.name.as_str(), outcome];
            show(visit, &LIMIT_REQUESTS, &labels, *count as f64);
        }
    }
}

/// What can be known of a peer's life.
const LIVES: [&str; 4] = ["unknown", "alive", "silent", "dead"];

/// A peer that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The peer, as the integrator names it.
    pub peer: String,
    /// What is known of it: `unknown`, `alive`, `silent` or `dead`.
    pub life: &'static str,
    /// Questions asked.
    pub questions: u64,
    /// Answers to them.
    pub answers: u64,
    /// How often it was found dead.
    pub deaths: u64,
}

impl Measured for Life {
    fn visit(&self, visit: &mut Visit<'_>) {
        let peer = self.peer.as_str();
        for life in LIVES {
            let is = f64::from(u8::from(self.life == life));
            show(visit, &PEER_LIFE, &[peer, life], is);
        }
        for (outcome, count) in [("asked", self.questions), ("answered", self.answers)] {
            show(visit, &PEER_QUESTIONS, &[peer, outcome], count as f64);
        }
        show(visit, &PEER_DEATHS, &[peer], self.deaths as f64);
    }
}

/// Every state a task can be in.
const TASK_STATES: [&str; 5] = ["running", "waiting", "done", "failed", "stopped"];

/// A supervised task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Where it stands: `running`, `waiting`, `done`, `failed` or `stopped`.
    pub state: &'static str,
    /// Starts, the first included.
    pub starts: u64,
    /// Ends that were good.
    pub ended: u64,
    /// Failures.
    pub failures: u64,
    /// Panics.
    pub panics: u64,
}

impl Measured for Task {
    fn visit(&self, visit: &mut Visit<'_>) {
        let name = self.name.as_str();
        for state in TASK_STATES {
            let is = f64::from(u8::from(self.state == state));
            show(visit, &TASK_STATE, &[name, state], is);
        }
        show(visit, &TASK_STARTS, &[name], self.starts as f64);
        let ends = [
            ("well", self.ended),
            ("failed", self.failures),
            ("panicked", self.panics),
        ];
        for (how, count) in ends {
            show(visit, &TASK_ENDS, &[name, how], count as f64);
        }
    }
}
