//! Ends calls that take too long.

use std::sync::Mutex;

use super::{Call, CallError, Operation, Policy, lock, now};
use crate::timeout::{Timeout, TimeoutConfig, TimeoutCounters};

/// Calls with a time limit, fixed or learned.
#[derive(Debug)]
pub struct WithTimeout(Mutex<Timeout>);

impl WithTimeout {
    /// A limit that has learned nothing yet.
    pub const fn new(config: TimeoutConfig) -> Self {
        Self(Mutex::new(Timeout::new(config)))
    }

    /// The limit a call has now.
    pub fn limit(&self) -> std::time::Duration {
        lock(&self.0).limit()
    }

    /// What came of calls so far.
    pub fn counters(&self) -> TimeoutCounters {
        lock(&self.0).counters()
    }
}

impl<E: Send + 'static> Policy<E> for WithTimeout {
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E> {
        Box::pin(async move {
            let (limit, begun) = (self.limit(), now());
            let Ok(result) = tokio::time::timeout(limit, operation()).await else {
                lock(&self.0).expired();
                return Err(CallError::TimedOut { limit });
            };
            // How fast a refusal comes says nothing about answers.
            if matches!(&result, Ok(_) | Err(CallError::Failed(_))) {
                lock(&self.0).answered(now().saturating_duration_since(begun));
            }
            result
        })
    }
}
