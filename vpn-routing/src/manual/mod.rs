//! How-tos, tuning and troubleshooting.
//!
//! | Page | For |
//! |---|---|
//! | `daemon` (feature `tokio`) | putting device, transports, owners and rules together |
//! | [`writing_rules`] | which rule decides; what happens to live flows when rules change |
//! | [`dns`] | how a query reaches the resolver of its app's tunnel; rules with domains |
//! | [`several_tunnels`] | groups, fallbacks, tunnels on demand, advertised routes |
//! | [`behind_tunnels`] | servers behind a tunnel, the packet filter, networks that overlap |
//! | [`tuning`] | every setting, what it buys and what it costs |
//! | [`troubleshooting`] | a drop reason went up: what it means and what to do |

pub mod behind_tunnels;
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub mod daemon;
pub mod dns;
pub mod several_tunnels;
pub mod troubleshooting;
pub mod tuning;
pub mod writing_rules;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
