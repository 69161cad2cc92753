//! Peers without a hub: nodes of libp2p that find each other through a DHT, and carry packets over its
//! streams.
//!
//! ```text
//!  packets ─▶ Libp2pTransport ─▶ whose address? ─▶ pool of the peer ─▶ streams ─▶ QUIC | TCP | relay
//!                                     │                                  │
//!                              PeerDirectory (KademliaDirectory, …)      Node
//! ```
//!
//! | Module | What it decides, or touches |
//! |---|---|
//! | [`admission`] | who may be a member: a list, or certificates of the network's key |
//! | [`body`] | what a node says about itself, beside its addresses |
//! | `addresses` | to whom packets go, what waits, whose sources are let in |
//! | [`config`] | where a node listens, whom it knows, its bounds |
//! | `crowd` | how many may be connected who have not proven themselves |
//! | `gate` | who may be connected |
//! | `held` | when a peer's questions to the DHT are seen |
//! | [`key`] | how peers are called by libp2p |
//! | `known` | the file of peers that were met |
//! | [`membership`] | which records are believed |
//! | `network` | QUIC, TCP with Noise and Yamux, circuits |
//! | [`node`] | the task that has all of libp2p's state |
//! | `opener`, `wire`, [`transport`] | streams of packets, and the tunnel over them |
//! | `rate` | how often others may do something, and something is told |
//! | `screen` | which addresses are dialled: none inside the VPN itself |
//! | `substreams` | over which connection a stream is opened; who takes those that come |
//!
//! # What holds
//!
//! * **Who is who.** A peer is its Ed25519 key; libp2p proves it for each connection. Who is not on the
//!   list is not connected; with a network key, who shows no certificate within ten seconds is
//!   disconnected, and nothing of it is kept. Until then it can ask nothing of the DHT: what it asks and
//!   gives waits for its proof. What libp2p tells everybody is where the node listens, and its version.
//! * **Whose an address is** says the peer's signed record; of several claims one wins, at every node
//!   alike ([`claims`](crate::directory::claims)), and all are told of. Where a directory gives addresses
//!   out ([`Authority::Directory`](vpn_core::Authority::Directory)), a claim counts only if it has it too;
//!   while it cannot be asked, what it said last, else the claims. What a peer sends from an address that
//!   is not its own is dropped, `address_not_allowed`.
//! * **Nobody waits for another.** Unknown addresses are asked about beside the packets, which wait,
//!   bounded; each peer has streams and queues of its own ([`streams`](crate::streams)).
//! * **A flood of beginnings** fills what it comes by: QUIC, TCP and circuits have places of their own, one
//!   address has few of them, and each beginning has five seconds. Forged sources can so keep QUIC busy (some
//!   200 packets a second; libp2p lets nobody prove its address first), and members come by TCP.
//! * **Relays** carry what they cannot read, while a hole is punched; new streams then go the direct way.
//!   The relayed connection ends half a second later, with what is under way on it. What is lost is counted,
//!   `stream_lost`, and everything that waited goes on.

mod addresses;
pub mod admission;
mod behaviour;
pub mod body;
pub mod config;
mod crowd;
mod gate;
mod held;
pub mod key;
mod known;
pub mod membership;
mod network;
pub mod node;
mod opener;
mod order;
mod rate;
mod screen;
mod substreams;
pub mod transport;
mod wire;

pub use admission::{Admission, Certificate, Refusal};
pub use config::{NodeConfig, NodeError, RelayLimits};
pub use libp2p::{Multiaddr, Stream, StreamProtocol, multiaddr};
pub use membership::{Membership, NetworkId, NotBelieved};
pub use node::{Node, NodeStatus, Own};
pub use substreams::{AlreadyRegistered, IncomingStreams};
pub use transport::{Libp2pTransport, Libp2pTunnel, TunnelError, TunnelStatus};
pub use wire::PacketStream;
