//! Dispatcher and stream pool: order, exact counts, bounds, and the shells around them.
#![cfg(feature = "streams")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bounds;
mod clock;
mod close;
mod conformance;
mod framing;
mod opaque;
mod order;
mod peers;
mod world;
