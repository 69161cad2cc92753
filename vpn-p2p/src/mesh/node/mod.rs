//! Touches sockets, streams and the clock for one member: [`MeshTransport`].
//!
//! ```text
//!  router ── try_send ─▶ member.outlet ─▶ member.seal ─▶ run of equal datagrams ─▶ one GSO send
//!         ◀─ try_recv ── Joiner ◀─ member.udp ◀─ recvmmsg, GRO;  member.stream ◀─ TLS to a hub
//!
//!  driver task: the member's wake-ups, names of hubs, our own addresses, streams to hubs
//! ```
//!
//! | File | What it does |
//! |---|---|
//! | `config` | what a node is told when it starts |
//! | `shared` | what the task and the transport's methods share |
//! | `driver` | the task |
//! | `local` | which addresses this machine has |
//! | `streams` | TLS connections to hubs |
//! | `outbound`, `inbound` | a batch's way |
//! | `width` | how large a packet may be |
//! | `transport` | the [`TunnelTransport`](vpn_core::TunnelTransport) |

mod config;
mod driver;
mod inbound;
mod local;
mod outbound;
mod shared;
mod streams;
mod transport;
mod width;

pub use config::{HubEndpoint, NodeConfig, NodeError};
pub use transport::MeshTransport;

pub use super::wire::frame::INNER_MTU;
