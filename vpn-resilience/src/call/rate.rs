//! Makes calls no faster than a rate.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::sleep_until;

use super::{Call, CallError, Operation, Policy, lock, now};
use crate::rate::{RateConfig, RateCounters, RateLimit};

/// Calls at a limited rate, each for one token. Who comes too early waits a little, in the order they
/// came, or is refused.
#[derive(Debug)]
pub struct WithRate {
    limit: Mutex<RateLimit>,
    patience: Duration,
}

impl WithRate {
    /// A rate. Refuses at once what is too much.
    pub const fn new(config: RateConfig) -> Self {
        Self {
            limit: Mutex::new(RateLimit::new(config)),
            patience: Duration::ZERO,
        }
    }

    /// How long a call waits for its token. That many seconds' worth of calls wait at most. Default:
    /// not at all.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What was admitted and refused.
    pub fn counters(&self) -> RateCounters {
        lock(&self.limit).counters()
    }
}

impl<E: Send + 'static> Policy<E> for WithRate {
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E> {
        Box::pin(async move {
            let turn = lock(&self.limit).reserve(1, now(), self.patience);
            let turn = turn.map_err(CallError::Limited)?;
            if turn > now() {
                sleep_until(turn.into()).await;
            }
            operation().await
        })
    }
}
