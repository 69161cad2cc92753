//! The conformance kit: whether an implementation of a trait keeps the trait's contract.
//!
//! A suite takes a function that makes a fixture: the implementation, and a way to play what is on
//! its other side. Every clause of the contract is checked on a fixture of its own; the first that
//! is broken is the result, with what was seen. A clause that an implementation cannot show, because
//! it never fills up, say, is left out by what its fixture answers.
//!
//! | Suite | Checks | Fixture |
//! |---|---|---|
//! | [`tun_device`] | [`TunDevice`](crate::TunDevice) | [`DeviceFixture`] |
//! | [`tunnel_transport`] | [`TunnelTransport`](crate::TunnelTransport) | [`TransportFixture`] |
//! | [`rule_source`] | [`RuleSource`](crate::RuleSource) | [`RuleFixture`] |
//! | [`peer_directory`] | [`PeerDirectory`](crate::PeerDirectory) | [`DirectoryFixture`] |
//! | [`owner_resolver`] | [`OwnerResolver`](crate::OwnerResolver) | [`OwnerFixture`] |
//!
//! The suites need no runtime of their own: they run wherever the implementation does. How long
//! they wait before they call something missing is the fixture's to say ([`patience`]); what is there
//! sooner is seen sooner, so that a generous answer costs nothing.
//!
//! The manual shows how to run one: [`crate::manual::conformance`].
//!
//! [`patience`]: FarEnd::patience

mod clause;
mod device;
mod directory;
mod drive;
mod far_end;
mod line;
mod owners;
mod rules;
mod transport;

pub use clause::{Clause, Violation};
pub use device::{DeviceFixture, tun_device};
pub use directory::{DirectoryFixture, peer_directory};
pub use drive::yields;
pub use far_end::{FarEnd, number_of, numbered};
pub use owners::{OwnerFixture, owner_resolver};
pub use rules::{RuleFixture, rule_source};
pub use transport::{TransportFixture, tunnel_transport};
