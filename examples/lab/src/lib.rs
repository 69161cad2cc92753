//! Network labs in namespaces: real machines, cables and VPN providers inside one test process.
//!
//! A [`Namespace`] is a machine: it has interfaces, addresses, routes and a loopback of its own,
//! and nothing in it reaches the network of the host. [`ProviderLab`] is a small internet made of
//! them: a client, a gateway with the direct path, and regions of VPN providers that all hand out
//! the same address and refuse every packet that does not carry it. A site at one and the same
//! address answers in every region with the region's name, so an answer tells the way it came.
//! [`NatLab`] is another one, for peers: two hosts behind NATs of a chosen kind, a public host, a
//! public hub, and what goes wrong between them.
//!
//! # Where it runs
//!
//! As root, or without root after [`enter_user_namespace`], which has to be the first thing `main`
//! does. [`missing`] says, before anything is made, what the machine lacks; a test starts with
//! [`skip`].
//!
//! # Cleaning up
//!
//! Everything hangs on values: dropping them ends the processes they started, by process id, and
//! lets the kernel remove namespaces with all that is in them. A panicking test drops them too. If
//! the whole test process is killed, its threads are gone and with them the anonymous namespaces,
//! and started servers are killed by the kernel; only the folder with the profiles, readable by its
//! owner alone, stays in the temporary folder.
//!
//! ```no_run
//! use vpn_lab::{LabPlan, ProviderLab};
//!
//! # fn main() -> Result<(), vpn_lab::LabError> {
//! let lab = ProviderLab::start(LabPlan::default())?;
//! let answer = lab.client().run(|| vpn_lab::client::http_get(vpn_lab::SITE4.into(), "/"))?;
//! assert!(answer.is_ok_and(|body| body.contains("direct")));
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod capture;
pub mod client;
mod error;
mod in_process;
mod key;
mod lab;
mod link;
mod namespace;
mod nat;
mod openvpn;
mod process;
mod provider;
mod service;
mod user;
mod wireguard_go;

pub use capture::{Capture, Seen};
pub use error::LabError;
pub use key::KeyPair;
pub use lab::{
    CLIENT4, CLIENT6, GATEWAY4, GATEWAY6, LabPlan, ProviderLab, SHARED_DNS, SITE4, SITE6,
};
pub use link::veth;
pub use namespace::{Namespace, RuntimeHandle};
pub use nat::{
    HUB4, HUB6, Mapping, NatKind, NatLab, NatPlan, NatRouter, PUBLIC4, PUBLIC6, REFLECTOR_PORTS,
    SECOND_HUB4, Side, mapping, reflexive, reflexive_tcp,
};
pub use openvpn::{OpenVpnOptions, PASSWORD, USER};
pub use process::{Output, Process};
pub use provider::{Provider, ProviderKind, RegionPlan};
pub use service::Site;
pub use user::{enter_user_namespace, missing, skip};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
