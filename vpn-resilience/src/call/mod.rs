//! Policies around calls, on tokio: breaker, retry, time limit, rate, bulkhead.
//!
//! A *call* is anything asynchronous that succeeds or fails: a query to a directory, a read of rules,
//! a handshake. A *policy* decides whether it is made, how often and for how long; it asks one of the
//! state machines of this crate, and does what that says. All are made by one recipe:
//!
//! 1. a struct with the machine in a mutex that is held for the moments of one decision, never
//!    while anything is awaited;
//! 2. `new` with the machine's configuration, chained setters for the rest;
//! 3. [`Policy::call`] asks the machine with the time, makes the call or not, and tells the machine
//!    what came of it, also if the caller went away in the middle;
//! 4. `status` or `counters` hands out the machine's.
//!
//! # Composition
//!
//! [`around`](WithBreaker::around) puts one policy around another. The order is a decision:
//!
//! | Outside, inside | Then |
//! |---|---|
//! | retry, breaker | the breaker sees each attempt: it opens after five of them, in the middle of the first call, and what remains of the call fails at once. For what is either well or ill. |
//! | breaker, retry | the breaker sees calls: a failure that the next attempt mends is none. It takes five calls of five attempts to open, with all their pauses. For what drops an answer now and then. |
//! | retry, time limit | each attempt has a limit of its own: one that hangs costs one attempt. ([`WithRetry`] has one built in.) |
//! | time limit, retry | the call as a whole has one: what somebody waits for. It may cut off the last attempts. |
//! | retry, rate | each attempt needs a token: the other end never sees more than the rate. |
//! | rate, retry | each call needs one: retries come on top, bounded by their budget. |
//! | bulkhead, retry | a call keeps its place in the pauses between its attempts: few calls, all of which get their chance. |
//! | retry, bulkhead | it has a place only while it makes an attempt: the other end sees no more than so many at the same time, and pauses hold up nobody. |
//! | breaker, bulkhead | a call that finds no place is none to the breaker: our overload is not the other end's illness. |
//! | breaker, time limit | a call that takes too long is a failure to the breaker. The other way round the time limit cancels the permit, and a breaker never opens for one that hangs. |
//!
//! What is good where nothing else is known, from the outside in: bulkhead, breaker, retry, and the
//! time limit of each attempt.
//!
//! ```
//! use vpn_resilience::call::{CallError, Policy, WithBreaker, WithRetry};
//! use vpn_resilience::{BreakerConfig, Fault, RetryConfig};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), CallError<std::io::Error>> {
//! let policy = WithBreaker::new(BreakerConfig::default(), Fault::of_io)
//!     .around(WithRetry::new(RetryConfig::default(), 42, Fault::of_io));
//! let answers = std::sync::Mutex::new(vec![Ok(7), Err(std::io::ErrorKind::TimedOut)]);
//! let ask = async || Ok(answers.lock().unwrap().pop().unwrap()?);
//! assert_eq!(policy.run(|| ask()).await?, 7);
//! assert_eq!(policy.inside().counters().attempts, 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Cancelling
//!
//! Dropping a call ends it at once: no policy spawns anything. [`WithRetry::until`] takes a token
//! besides that ends all its calls.

mod breaker;
mod bulkhead;
mod error;
mod rate;
mod retry;
mod timeout;

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use breaker::WithBreaker;
pub use bulkhead::WithBulkhead;
pub use error::CallError;
pub use rate::WithRate;
pub use retry::WithRetry;
pub use timeout::WithTimeout;

/// A call that is being made.
pub type Call<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, CallError<E>>> + Send + 'a>>;

/// What makes a call, each time it is asked to.
pub type Operation<'a, T, E> = Arc<dyn Fn() -> Call<'a, T, E> + Send + Sync + 'a>;

/// Decides whether a call is made, how often and for how long. The module's page says how they are
/// composed.
pub trait Policy<E: Send + 'static>: Debug + Send + Sync {
    /// Makes a call as the policy has it.
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E>;

    /// As [`call`](Self::call), for what fails with an error of its own.
    fn run<'a, T, W>(&'a self, work: impl Fn() -> W + Send + Sync + 'a) -> Call<'a, T, E>
    where
        T: Send + 'a,
        W: Future<Output = Result<T, E>> + Send + 'a,
    {
        self.call(Arc::new(move || {
            let work = work();
            Box::pin(async move { work.await.map_err(CallError::Failed) })
        }))
    }
}

/// A policy around another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Around<O, I> {
    outside: O,
    inside: I,
}

impl<O, I> Around<O, I> {
    /// `outside` around `inside`; as `outside.around(inside)`.
    pub const fn new(outside: O, inside: I) -> Self {
        Self { outside, inside }
    }

    /// The outer policy.
    pub const fn outside(&self) -> &O {
        &self.outside
    }

    /// The inner policy.
    pub const fn inside(&self) -> &I {
        &self.inside
    }
}

impl<E: Send + 'static, O: Policy<E>, I: Policy<E>> Policy<E> for Around<O, I> {
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E> {
        self.outside
            .call(Arc::new(move || self.inside.call(operation.clone())))
    }
}

macro_rules! composes {
    ($($policy:ident $(<$($parameter:ident),*>)?),*) => {$(
        impl $(<$($parameter),*>)? $policy $(<$($parameter),*>)? {
            /// This policy with another one inside.
            pub fn around<Inner>(self, inside: Inner) -> Around<Self, Inner> {
                Around::new(self, inside)
            }
        }
    )*};
}
composes!(
    Around<O, I>,
    Plain,
    WithBreaker<C>,
    WithBulkhead,
    WithRate,
    WithRetry<C>,
    WithTimeout
);

/// No policy: every call is made, once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl<E: Send + 'static> Policy<E> for Plain {
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E> {
        operation()
    }
}

impl<E: Send + 'static, P: Policy<E>> Policy<E> for Arc<P> {
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E> {
        (**self).call(operation)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time; tests may have paused it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
