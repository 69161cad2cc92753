//! Makes calls again where that can help.

use std::fmt;
use std::sync::Mutex;

use tokio::time::{sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Call, CallError, Operation, Policy, lock, now};
use crate::backoff::{GiveUp, Next};
use crate::fault::Classify;
use crate::retry::{Attempt, Retries, Retry, RetryConfig, RetryCounters};

/// Calls that are tried again, each attempt with a time limit.
pub struct WithRetry<C> {
    retries: Mutex<Retries>,
    classify: C,
    stop: CancellationToken,
}

impl<C> WithRetry<C> {
    /// Retries that share one budget. `classify` says which errors are worth one; delays are drawn
    /// from `seed`.
    pub fn new(config: RetryConfig, seed: u64, classify: C) -> Self {
        Self {
            retries: Mutex::new(Retries::new(config, seed)),
            classify,
            stop: CancellationToken::new(),
        }
    }

    /// All calls end, with [`CallError::Stopped`], when this token is cancelled. Default: never.
    #[must_use]
    pub fn until(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// What came of calls so far.
    pub fn counters(&self) -> RetryCounters {
        lock(&self.retries).counters()
    }
}

impl<C> fmt::Debug for WithRetry<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WithRetry").field(&self.counters()).finish()
    }
}

/// A call that counts as cancelled if nobody says how it ended.
struct UnderWay<'a> {
    retries: &'a Mutex<Retries>,
    call: Option<Retry>,
}

impl<'a> UnderWay<'a> {
    fn new(retries: &'a Mutex<Retries>) -> Self {
        let call = Some(lock(retries).call(now()));
        Self { retries, call }
    }

    fn begin(&mut self) -> Attempt {
        let begin = |call| lock(self.retries).begin(call, now());
        let none = Attempt {
            number: 0,
            deadline: None,
        };
        self.call.as_mut().map_or(none, begin)
    }

    /// What follows a failed attempt. If that is nothing, the call has ended.
    fn after(&mut self, then: impl FnOnce(&mut Retries, &mut Retry) -> Next) -> Next {
        let Some(call) = &mut self.call else {
            return Next::GiveUp(GiveUp::Attempts { attempts: 0 });
        };
        let next = then(&mut lock(self.retries), call);
        if matches!(next, Next::GiveUp(_)) {
            self.call = None;
        }
        next
    }

    fn succeeded(mut self) {
        if let Some(call) = self.call.take() {
            lock(self.retries).succeeded(call);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            lock(self.retries).cancelled(call);
        }
    }
}

impl<E: Send + 'static, C: Classify<E>> Policy<E> for WithRetry<C> {
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E> {
        Box::pin(async move {
            let mut call = UnderWay::new(&self.retries);
            let mut attempts = 0;
            let made = async {
                loop {
                    let begun = now();
                    let attempt = call.begin();
                    attempts = attempt.number;
                    let (next, error) = match within(attempt, operation()).await {
                        Some(Ok(value)) => {
                            call.succeeded();
                            return Ok(value);
                        }
                        Some(Err(error)) => {
                            let fault = error.to_retry(&self.classify);
                            let next = call.after(|retries, call| {
                                if let Some(at) = error.retry_at() {
                                    call.not_before(at);
                                }
                                retries.failed(call, fault, now())
                            });
                            (next, error)
                        }
                        None => {
                            let limit = now().saturating_duration_since(begun);
                            let next = call.after(|r, c| r.timed_out(c, now()));
                            (next, CallError::TimedOut { limit })
                        }
                    };
                    match next {
                        Next::At(at) => sleep_until(at.into()).await,
                        Next::GiveUp(GiveUp::Pointless { .. }) => return Err(error),
                        Next::GiveUp(reason) => {
                            let last = Box::new(error);
                            return Err(CallError::GaveUp { reason, last });
                        }
                    }
                }
            };
            let made = self.stop.run_until_cancelled(made).await;
            made.unwrap_or(Err(CallError::Stopped { attempts }))
        })
    }
}

/// What the attempt yields; `None` if it takes too long.
async fn within<T>(attempt: Attempt, made: impl Future<Output = T>) -> Option<T> {
    match attempt.deadline {
        Some(deadline) => timeout_at(deadline.into(), made).await.ok(),
        None => Some(made.await),
    }
}
