//! The router on virtual time, with providers that check source addresses.

mod dns;
mod flows;
mod hold;
mod model;
mod nat;
mod policy;
mod races;
mod steps;
mod world;
