//! What keeps a VPN alive when its parts fail: when to try again, when to stop trying, whether a
//! peer is there, what runs on.
//!
//! Pure state machines: the time is an argument (`now`), the next wake-up is a return value, and
//! randomness comes from a seed. None of them sleeps, spawns or reads a clock, so every behaviour
//! is tested on invented time. What does, is a thin shell around them behind a feature.
//!
//! | Module | What it decides |
//! |---|---|
//! | [`backoff`] | when the next attempt is due: exponential, jittered, bounded |
//! | [`breaker`] | whether an attempt may be made at all: closed, open, half-open; one or one per key |
//! | [`retry`] | whether a call is tried again: attempts, time, and a budget that all calls share |
//! | [`fault`] | what a failure says: try again, or not; ill, or merely "no" |
//! | [`timeout`] | how long an answer may take: fixed, or learned |
//! | [`rate`] | whether there is leave for so much, so soon |
//! | [`bulkhead`] | who works at the same time, who waits, who is refused |
//! | [`health`] | whether a peer is alive, and when to ask it; feature `tokio`: asks it |
//! | [`warm`] | what is made ready before it is needed |
//! | [`supervise`] | what follows when a task ends; feature `tokio`: keeps tasks running |
//! | `call` | policies around any asynchronous call (feature `tokio`) |
//! | `decorate` | the same around any transport, directory and source of rules (feature `decorators`) |
//! | `measure` | reports as samples of vpn-core's snapshot (feature `decorators`) |
//! | [`manual`] | how to put them together, tuning, troubleshooting |
//!
//! # Features
//!
//! | Feature | Default | Adds |
//! |---|---|---|
//! | `tokio` | no | policies around calls, the supervisor, watching a peer |
//! | `decorators` | no | policies around vpn-core's traits; brings `tokio` |
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backoff;
pub mod breaker;
pub mod bulkhead;
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub mod call;
mod counters;
#[cfg(feature = "decorators")]
#[cfg_attr(docsrs, doc(cfg(feature = "decorators")))]
pub mod decorate;
pub mod fault;
pub mod health;
pub mod manual;
#[cfg(feature = "decorators")]
#[cfg_attr(docsrs, doc(cfg(feature = "decorators")))]
pub mod measure;
mod random;
pub mod rate;
pub mod retry;
pub mod supervise;
mod time;
pub mod timeout;
pub mod warm;

pub use backoff::{Backoff, BackoffConfig, GiveUp, Jitter, Next};
pub use breaker::registry::{BreakerLimits, Breakers, RegistryCounters, RegistryStatus};
pub use breaker::{
    Breaker, BreakerConfig, BreakerCounters, BreakerEvent, BreakerState, BreakerStatus, OpenCause,
    Permit, Recent, Refused, Transitions, Window,
};
pub use bulkhead::{Bulkhead, BulkheadConfig, BulkheadCounters, BulkheadStatus, Entry, Shed};
pub use fault::{AllTransient, Classify, Fault};
pub use health::{HealthConfig, HealthCounters, HealthStatus, Life, Monitor, Question};
pub use rate::{Limited, RateConfig, RateCounters, RateLimit};
pub use retry::{Attempt, Budget, BudgetConfig, Retries, Retry, RetryConfig, RetryCounters};
pub use timeout::{Timeout, TimeoutConfig, TimeoutCounters};
pub use warm::{WarmConfig, WarmCounters, WarmStatus, Warmer, Warming};

/// The README's example is compiled too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
