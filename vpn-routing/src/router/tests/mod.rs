//! The router on virtual time, with providers that check source addresses.

mod apps;
mod change;
mod crew;
mod demand;
mod dns;
mod errors;
mod filter;
mod flows;
mod fragments;
mod groups;
mod hold;
mod inbound;
mod maps;
mod measure;
mod model;
mod mtu;
mod nat;
mod on_down;
mod policy;
mod races;
mod routes;
mod several;
mod world;
