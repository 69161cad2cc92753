//! Makes calls while a breaker lets them.

use std::fmt;
use std::sync::Mutex;

use super::{Call, CallError, Operation, Policy, lock, now};
use crate::breaker::{Breaker, BreakerConfig, BreakerEvent, BreakerStatus, Permit, Window};
use crate::fault::{Classify, Fault};

/// Calls behind a [`Breaker`]: fails at once while what is called is ill.
pub struct WithBreaker<C> {
    breaker: Mutex<Breaker>,
    classify: C,
}

impl<C> WithBreaker<C> {
    /// A closed breaker. `classify` says which errors are failures of the other end.
    pub const fn new(config: BreakerConfig, classify: C) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(config)),
            classify,
        }
    }

    /// With a [window](Breaker::window) besides. Default: none.
    #[must_use]
    pub fn window(self, window: Window) -> Self {
        let breaker = self.breaker.into_inner();
        let breaker = breaker.unwrap_or_else(std::sync::PoisonError::into_inner);
        Self {
            breaker: Mutex::new(breaker.window(window)),
            ..self
        }
    }

    /// All there is to report of it.
    pub fn status(&self) -> BreakerStatus {
        lock(&self.breaker).status()
    }

    /// As [`Breaker::reset`]: what was ill may have been mended, as somebody knows.
    pub fn reset(&self) {
        lock(&self.breaker).reset();
    }

    /// As [`Breaker::poll_event`].
    pub fn poll_event(&self) -> Option<BreakerEvent> {
        lock(&self.breaker).poll_event()
    }
}

impl<C> fmt::Debug for WithBreaker<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WithBreaker").field(&self.status()).finish()
    }
}

/// A permit that is given back if nobody reports.
struct Held<'a> {
    breaker: &'a Mutex<Breaker>,
    permit: Option<Permit>,
}

impl Held<'_> {
    fn report(&mut self, report: impl FnOnce(&mut Breaker, Permit)) {
        if let Some(permit) = self.permit.take() {
            report(&mut lock(self.breaker), permit);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.report(Breaker::cancelled);
    }
}

impl<E: Send + 'static, C: Classify<E>> Policy<E> for WithBreaker<C> {
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E> {
        Box::pin(async move {
            let permit = lock(&self.breaker)
                .acquire(now())
                .map_err(CallError::Open)?;
            let mut held = Held {
                breaker: &self.breaker,
                permit: Some(permit),
            };
            let result = operation().await;
            let fault = match &result {
                Ok(_) => Some(Fault::Answered),
                Err(error) => error.fault(&self.classify),
            };
            match fault {
                Some(fault) if fault.is_failure() => held.report(|b, p| b.failed(p, now())),
                Some(_) => held.report(Breaker::succeeded),
                // It was not made.
                None => held.report(Breaker::cancelled),
            }
            result
        })
    }
}
