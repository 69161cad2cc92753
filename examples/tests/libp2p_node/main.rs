//! The example `libp2p-node` as programs: a network of six machines, one of which dies; four with etcd,
//! which dies as well; and two machines behind NATs. Needs root; says what is missing otherwise.
#![cfg(feature = "libp2p")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so"
)]

mod dht;
#[cfg(feature = "etcd")]
mod etcd;
mod nat;
mod traffic;
mod world;
