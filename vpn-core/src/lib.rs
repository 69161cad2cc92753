//! Vocabulary of the VPN SDK.
//!
//! This crate names the things every other crate talks about and the traits they meet at. It has
//! no runtime, no clock and no socket: packets and events go in with the time, results come out.
//!
//! | Module | What it says |
//! |---|---|
//! | [`packet`] | a packet with its offload description; parsing; batches; checksums; rewriting |
//! | [`domain`] | names of the domain name system, and patterns over them |
//! | [`flow`] | [`Protocol`], [`FlowKey`]: who talks to whom |
//! | [`owner`] | who on this machine owns a flow: [`OwnerResolver`] |
//! | [`rule`] | what a rule says: [`Rule`], [`RuleSource`] |
//! | [`verdict`] | what became of a packet: [`Verdict`], [`DropReason`], [`DropCounters`] |
//! | [`plan`] | what the virtual interface should look like: [`InterfacePlan`] |
//! | [`rebuild`] | when a host that cannot change its interface builds a new one |
//! | [`device`] | [`TunDevice`]: packets to and from the operating system |
//! | [`transport`] | [`TunnelTransport`]: packets to and from one tunnel |
//! | [`directory`] | [`PeerDirectory`]: which peers exist and where |
//! | [`underlay`] | [`Underlay`]: sockets that bypass the capture |
//! | [`network`] | what happens to the network below: [`NetworkEvent`] |
//! | [`metrics`] | what the whole SDK counts: [`Snapshot`](metrics::Snapshot), every name, adapters |
//! | [`testing`] | in-memory device and transport, faults, pcap, virtual clock (feature `testing`) |
//! | [`manual`] | how-tos: implement a device, a transport, a rule source |
//!
//! # Features
//!
//! | Feature | Default | Adds |
//! |---|---|---|
//! | `metrics` | no | to a recorder of the `metrics` facade |
//! | `prometheus` | no | Prometheus' text format |
//! | `testing` | no | the test doubles in [`testing`] |
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod device;
pub mod directory;
pub mod domain;
pub mod flow;
pub mod id;
pub mod manual;
pub mod metrics;
pub mod network;
pub mod owner;
pub mod packet;
pub mod plan;
pub mod rebuild;
pub mod resources;
pub mod rule;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
pub mod transport;
pub mod underlay;
pub mod verdict;

pub use device::{DeviceCapabilities, DeviceError, TunDevice};
pub use directory::{Authority, DirectoryError, PeerDirectory, PeerId, PeerRecord};
pub use domain::{DomainName, DomainPattern};
pub use flow::{Family, FlowKey, Protocol};
pub use id::{Generation, GroupId, RuleId, TunnelId};
pub use network::NetworkEvent;
pub use owner::{Evidence, Owner, OwnerAnswer, OwnerDetail, OwnerQuery, OwnerResolver};
pub use packet::{Offload, Packet, PacketBatch, ParseError, Parsed};
pub use plan::{Bypass, InterfacePlan, PlanChange, Way};
pub use resources::Resources;
pub use rule::{
    Action, FilterRule, InboundRule, OnChange, OnDown, OwnerMatch, PortRange, Rule, RuleMatch,
    RuleSnapshot, RuleSource,
};
pub use transport::{
    Assigned, DownCause, StateSender, StateWatch, TransportCapabilities, TransportError,
    TransportState, TunnelTransport,
};
pub use underlay::{Underlay, UnderlayError};
pub use verdict::{DropCounters, DropReason, Verdict};

/// The README's example is compiled too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
