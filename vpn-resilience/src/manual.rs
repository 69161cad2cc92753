//! How-tos, tuning and troubleshooting.
//!
//! # Try again until it works
//!
//! The machines say what to do and when; the caller does it. A loop on any runtime:
//!
//! ```
//! use std::time::{Duration, Instant};
//! use vpn_resilience::{Backoff, BackoffConfig, Breaker, BreakerConfig, Next};
//!
//! let mut backoff = Backoff::new(BackoffConfig::default(), 42);
//! let mut breaker = Breaker::new(BreakerConfig::default());
//! let mut now = Instant::now(); // a real loop reads the clock and sleeps until `now`
//! let mut answers = [false, false, true].into_iter();
//! loop {
//!     match breaker.acquire(now) {
//!         Err(refused) => now = refused.retry_at,
//!         Ok(permit) if answers.next() == Some(true) => {
//!             breaker.succeeded(permit);
//!             backoff.succeeded(now);
//!             break;
//!         }
//!         Ok(permit) => {
//!             breaker.failed(permit, now);
//!             match backoff.failed(now) {
//!                 Next::At(at) => now = at,
//!                 Next::GiveUp(reason) => panic!("{reason}"),
//!             }
//!         }
//!     }
//! }
//! assert_eq!(backoff.attempts(), 2);
//! ```
//!
//! Cancelling is the caller's: nothing here waits.
//!
//! # Tuning
//!
//! * A tunnel that must be back quickly after its path healed: a small `cap`
//!   ([`BackoffConfig::cap`](crate::BackoffConfig::cap)), for the longest pause bounds how late the healing is noticed.
//! * Many clients of one server: [`Jitter::Full`](crate::Jitter::Full) and a larger `cap`, each
//!   with its own seed.
//! * A breaker whose `reset_after` exceeds the back-off's `cap` decides the pace.
//!
//! # Troubleshooting
//!
//! * *The pause stays long although attempts succeed*: a success counts only after `stable_after`.
//! * *Half-open lets nothing through*: permits are held; report every outcome, or
//!   [`cancelled`](crate::Breaker::cancelled). Lost ones are given up after `reset_after`.
