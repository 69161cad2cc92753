//! Nodes of libp2p on loopback: packets, directory, admission, what adversaries get.
#![cfg(feature = "libp2p")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod below;
mod by_hand;
mod conformance;
mod crash;
mod directory;
mod hostile;
mod leases;
mod members;
mod packets;
mod relays;
mod strangers;
mod world;
