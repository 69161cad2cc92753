//! A mesh: peers that find each other through a hub, connect directly through NATs where they can,
//! and fall back to a relay where they cannot.
//!
//! | Module | What it decides, or touches |
//! |---|---|
//! | [`hub`] | registers, reflects, relays |
//! | [`identity`] | who a node is: an Ed25519 key (of the crate) |
//! | [`keys`] | the cryptography of sessions, behind a trait |
//! | [`link`] | the client of one hub: when it joins, whether it is up, how it comes back |
//! | [`member`] | everything a member does, pure |
//! | [`node`] | sockets and clock of a member: [`MeshTransport`] |
//! | [`path`] | by which way packets go to one peer |
//! | [`peer`] | one peer: its session, attempts, what of its messages is believed |
//! | [`record`] | what a node says about itself, signed |
//! | [`tls`] | streams to a hub where UDP is blocked |
//! | `testing` | a mesh without machines, on virtual time (feature `testing`) |
//! | [`way`] | the words for ways to a peer |
//! | [`wire`] | what bytes mean |

pub mod hub;
pub mod keys;
mod limit;
pub mod link;
pub mod member;
pub mod node;
pub mod path;
pub mod peer;
pub mod record;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
pub mod tls;
pub mod way;
pub mod wire;

pub use crate::identity::{self, Identity, IdentityError};
pub use hub::{Hub, HubConfig};
pub use keys::{Keys, NoiseKeys};
pub use link::{Link, LinkConfig, LinkEvent, LinkOut, LinkStatus, LinkTimes};
pub use member::{Member, MemberConfig, MemberEvent, MemberStatus};
pub use node::{HubEndpoint, MeshTransport, NodeConfig, NodeError};
pub use path::{PathConfig, PathEvent, PathOut, PathStatus, Paths, Why};
pub use peer::{PeerConfig, PeerRules, Stage};
pub use record::{Record, RecordError, SignedRecord};
pub use tls::{TlsListener, TlsOpener};
pub use way::{Carrier, HubId, Policy, Way};
