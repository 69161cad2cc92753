//! A mesh without machines: sessions without cryptography, NATs, and a world of hubs and members on
//! virtual time. The same seed gives the same run.
//!
//! | Module | What it decides |
//! |---|---|
//! | [`clock`] | what time it is |
//! | [`keys`] | what a session is, where nobody is to be kept out |
//! | [`nat`] | which address a datagram gets, and which datagrams pass |
//! | [`world`] | what happens when, and what of it arrives |
//!
//! Nothing here is secure: the keys are numbers of 64 bits, and what is "sealed" can be read.

pub mod clock;
pub mod keys;
pub mod nat;
mod session;
pub mod world;

pub use clock::Clock;
pub use keys::FakeKeys;
pub use nat::{Nat, NatKind};
pub use world::{Weather, World};

#[cfg(test)]
mod hops;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;
