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
//! # Which part for which trouble
//!
//! | Trouble | Part | As a shell |
//! |---|---|---|
//! | an answer is lost now and then | [`Retries`](crate::Retries) | `call::WithRetry` |
//! | a server is ill, and asking makes it worse | [`Breaker`](crate::Breaker), [`Breakers`](crate::Breakers) for many | `call::WithBreaker` |
//! | something hangs | [`Timeout`](crate::Timeout) | `call::WithTimeout` |
//! | too many at the same time | [`Bulkhead`](crate::Bulkhead) | `call::WithBulkhead` |
//! | too much per second | [`RateLimit`](crate::RateLimit) | `call::WithRate` |
//! | a tunnel flaps | the same breaker | `decorate::TunnelBreaker` |
//! | a tunnel does not come up | the same time limit | `decorate::TunnelTimeout` |
//! | a tunnel stalls | | `decorate::TunnelShed` |
//! | a transport dies for good | [`Backoff`](crate::Backoff) | `decorate::Remade` |
//! | a peer is silent | [`Monitor`](crate::Monitor) | `health::Watch` |
//! | the first packet is slow | [`Warmer`](crate::Warmer) | |
//! | a task panics | [`supervise::Task`](crate::supervise::Task) | `supervise::Supervisor` |
//!
//! # A directory that survives its server
//!
//! Features `decorators`. The order of policies is explained with `call`; this one is good where
//! nothing else is known.
//!
//! ```
//! # #[cfg(feature = "decorators")]
//! # mod sample {
//! use std::sync::Arc;
//!
//! use vpn_core::PeerDirectory;
//! use vpn_core::testing::MemoryDirectory;
//! use vpn_resilience::call::{WithBreaker, WithBulkhead, WithRetry};
//! use vpn_resilience::decorate::{Decorated, directory_fault};
//! use vpn_resilience::{BreakerConfig, BulkheadConfig, RetryConfig};
//!
//! # pub(crate)
//! fn directory(seed: u64) -> Arc<dyn PeerDirectory> {
//!     let policy = WithBulkhead::new(BulkheadConfig::default())
//!         .around(WithBreaker::new(BreakerConfig::default(), directory_fault))
//!         .around(WithRetry::new(RetryConfig::default(), seed, directory_fault));
//!     Arc::new(Decorated::new(MemoryDirectory::new(), policy))
//! }
//! # }
//! # #[cfg(feature = "decorators")]
//! # drop(sample::directory(42));
//! ```
//!
//! # A tunnel that others can rely on
//!
//! ```
//! # #[cfg(feature = "decorators")]
//! # mod sample {
//! use std::sync::Arc;
//!
//! use vpn_core::TunnelTransport;
//! use vpn_resilience::decorate::{Guarded, TunnelBreaker, TunnelShed, TunnelTimeout};
//! use vpn_resilience::BreakerConfig;
//!
//! # pub(crate)
//! fn reliable(tunnel: Arc<dyn TunnelTransport>) -> Arc<dyn TunnelTransport> {
//!     let tunnel = Guarded::new(tunnel, TunnelShed::default());
//!     let tunnel = Guarded::new(tunnel, TunnelTimeout::default());
//!     Arc::new(Guarded::new(tunnel, TunnelBreaker::new(BreakerConfig::default())))
//! }
//! # }
//! # #[cfg(feature = "decorators")]
//! # drop(sample::reliable(Arc::new(vpn_core::testing::memory_transport(1, 1420).0)));
//! # use std::sync::Arc;
//! ```
//!
//! # Reports and metrics
//!
//! Each part hands out a plain struct, by value: counters (how often what happened, exact, never
//! reset) and a status (counters and where it stands). There is no registry: whoever made the parts
//! asks them, and puts the answers into one snapshot; with the feature `decorators` each has `measure`,
//! which puts it into `vpn_core::metrics::Snapshot`. Counters have stable names and sum up:
//!
//! ```
//! use vpn_resilience::{RateConfig, RateLimit};
//!
//! let mut limit = RateLimit::new(RateConfig::default());
//! let _ = limit.take(3, std::time::Instant::now());
//! let named: Vec<_> = limit.counters().iter().collect();
//! assert_eq!(named, [("admitted", 1), ("tokens", 3), ("refused", 0)]);
//! ```
//!
//! What adds up: a breaker's `admitted` is `succeeded + failed + cancelled` and what is under way; a
//! retry's `calls` is `succeeded + failed + cancelled` and what is under way, and its `attempts` are
//! those that were made; a bulkhead's `asked` is `entered + full + too_late + gone` and who waits.
//!
//! # Tuning
//!
//! * A tunnel that must be back quickly after its path healed: a small `cap`
//!   ([`BackoffConfig::cap`](crate::BackoffConfig::cap)), for the longest pause bounds how late the healing is noticed.
//! * Many clients of one server: [`Jitter::Full`](crate::Jitter::Full) and a larger `cap`, each
//!   with its own seed.
//! * A breaker whose `reset_after` exceeds the back-off's `cap` decides the pace.
//! * A network that loses a third of all packets: every other question stays without an answer, so a
//!   call needs two attempts, and the budget has to allow for that
//!   ([`BudgetConfig::percent`](crate::BudgetConfig::percent) 200). A peer needs ten questions
//!   ([`HealthConfig::questions`](crate::HealthConfig::questions)) before its silence says something.
//! * What fails often and never five times in a row: a [`Window`](crate::Window).
//! * A peer behind a NAT with a short memory: a shorter
//!   [`keepalive`](crate::HealthConfig::keepalive); it is found dead sooner by as much.
//!
//! # Troubleshooting
//!
//! * *The pause stays long although attempts succeed*: a success counts only after `stable_after`.
//! * *Half-open lets nothing through*: permits are held; report every outcome, or
//!   [`cancelled`](crate::Breaker::cancelled). Lost ones are given up after `reset_after`.
//! * *A breaker opens for what is not ill*: its classifier takes an answer for a failure. "No" is
//!   [`Fault::Answered`](crate::Fault::Answered).
//! * *Calls fail after one attempt*: `over_budget` grows. So much fails that retries would only add to
//!   it; if the load is small, a larger budget.
//! * *A breaker never opens for what hangs*: it is inside of the time limit, which cancels its permits.
//! * *A tunnel is up, and shown as "held back"*: it went down too often; it is used again after
//!   `reset_after`, and believed once it lasted.
//! * *A task is "stuck" when everything stops*: it blocks its thread. Work that blocks belongs on
//!   `spawn_blocking`, with a way to end it.
