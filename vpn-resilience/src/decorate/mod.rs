//! Policies around any transport, directory and source of rules of vpn-core.
//!
//! # Directories and rules: calls
//!
//! What a directory and a source of rules do are calls, so a [`Policy`](crate::call::Policy) says how
//! they are made: [`Decorated`] puts any of them, and any composition, around either trait.
//!
//! ```
//! use vpn_core::testing::MemoryDirectory;
//! use vpn_resilience::call::{WithBreaker, WithRetry};
//! use vpn_resilience::decorate::{Decorated, directory_fault};
//! use vpn_resilience::{BreakerConfig, RetryConfig};
//!
//! let policy = WithBreaker::new(BreakerConfig::default(), directory_fault)
//!     .around(WithRetry::new(RetryConfig::default(), 42, directory_fault));
//! let directory = Decorated::new(MemoryDirectory::new(), policy);
//! assert_eq!(directory.policy().inside().counters().calls, 0);
//! ```
//!
//! # Transports: guards
//!
//! A transport is no call: it is up or down, takes packets and yields them. A [`Guard`] sees where it
//! stands and what is to be sent, and says what is shown and admitted; it is pure, with the time as
//! an argument. [`Guarded`] puts one around a transport and has all that touches: state, readiness,
//! closing.
//!
//! | Guard | What it does to a tunnel |
//! |---|---|
//! | [`TunnelBreaker`] | one that goes up and down again and again is held down until it lasts |
//! | [`TunnelTimeout`] | one that does not come up in time is down, so that others take over; closing has an end |
//! | [`TunnelRate`] | takes packets or bytes at a rate, and leaves the rest to its caller |
//! | [`TunnelShed`] | one that takes nothing any more drops what is to be sent, rather than send it when nobody wants it any more |
//!
//! Trying again is [`Remade`]: a transport that failed for good is closed, and another one made.
//!
//! ```
//! use vpn_core::TunnelTransport;
//! use vpn_core::testing::memory_transport;
//! use vpn_resilience::BreakerConfig;
//! use vpn_resilience::decorate::{Guarded, TunnelBreaker, TunnelShed};
//!
//! let (tunnel, _far) = memory_transport(64, 1420);
//! let tunnel = Guarded::new(tunnel, TunnelShed::default());
//! let tunnel = Guarded::new(tunnel, TunnelBreaker::new(BreakerConfig::default()));
//! assert_eq!(tunnel.with_guard(|breaker| breaker.status().transitions.opened), 0);
//! # drop(Box::new(tunnel) as Box<dyn TunnelTransport>);
//! ```
//!
//! # Which order
//!
//! | Outside, inside | Then |
//! |---|---|
//! | breaker, remade | the breaker counts each loss of a remade transport: one that dies again and again is held down, and remade meanwhile. Usual. |
//! | remade, breaker | each new transport has a new breaker, which forgets what the last one did: of use only if the maker chooses another endpoint each time. |
//! | breaker, time limit | what is down because it took too long to come up was not up, and is no loss: the breaker counts losses only. The same the other way round, but a tunnel that is held down does not hear of limits then. |
//! | shed, rate | what the rate leaves is shed after a while: a policer, for what has to be fresh. |
//! | rate, shed | what finds no tokens waits with the caller, what finds no room below is shed: a shaper. Tokens of what is shed are spent. |
//! | shed, breaker | what an open breaker drops was taken, as far as shedding knows. The same the other way round: while it is open nothing reaches the guard inside. |

mod calls;
mod guard;
mod guarded;
mod guards;
mod remade;

pub use calls::{Decorated, directory_fault, rules_fault};
pub use guard::{Admission, Guard, Rest};
pub use guarded::Guarded;
pub use guards::breaker::{TunnelBreaker, TunnelBreakerStatus};
pub use guards::rate::{RateUnit, TunnelRate};
pub use guards::shed::{ShedCounters, TunnelShed};
pub use guards::timeout::TunnelTimeout;
pub use remade::{Made, Making, Remade, RemadeCounters};
