//! When to try again, and when to stop trying.
//!
//! Pure state machines: the time is an argument (`now`), the next wake-up is a return value, and
//! randomness comes from a seed. Nothing here sleeps, spawns or reads a clock, so every behaviour
//! is tested on invented time.
//!
//! | Module | What it decides |
//! |---|---|
//! | [`backoff`] | when the next attempt is due: exponential, jittered, bounded |
//! | [`breaker`] | whether an attempt may be made at all: closed, open, half-open |
//! | [`manual`] | how to put them together, tuning, troubleshooting |
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backoff;
pub mod breaker;
pub mod manual;

pub use backoff::{Backoff, BackoffConfig, GiveUp, Jitter, Next};
pub use breaker::{Breaker, BreakerConfig, BreakerState, Permit, Refused, Transitions};

/// The README's example is compiled too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
