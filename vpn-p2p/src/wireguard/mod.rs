//! A WireGuard tunnel: client of any provider, or server for clients.
//!
//! ```text
//!  router ── try_send ─▶ routes ─▶ session.seal ─▶ run of equal datagrams ─▶ one GSO send
//!         ◀─ try_recv ── Joiner ◀─ routes ◀─ session.open ◀─ gate (cookies, MACs) ◀─ recvmmsg, GRO
//!
//!  driver task: every 250 ms timers of every peer; resolves, binds and starts handshakes
//! ```
//!
//! | File | What it decides or touches |
//! |---|---|
//! | `core` | which peer, which session, which drop: pure |
//! | `routes` | AllowedIPs: pure |
//! | `health` | silence, retries: pure |
//! | `noise` | gotatun behind [`Session`](crate::session::Session), and the gate before it |
//! | `socket`, `sockets` | one UDP socket; those of both families, and what waits for them |
//! | `driver` | the task: clock and sockets |
//! | `network` | what follows when the network below changes |
//! | `approach` | one attempt to reach a peer: its name, a socket, a handshake |
//! | `outbound`, `inbound` | a batch's way through all of these |
//! | `transport` | the [`TunnelTransport`](vpn_core::TunnelTransport) |

mod approach;
mod core;
mod demand;
mod driver;
mod health;
mod inbound;
mod network;
pub(crate) mod noise;
mod options;
mod outbound;
mod round_trip;
pub(crate) mod routes;
pub(crate) mod socket;
pub(crate) mod sockets;
mod transport;

pub use core::MEASURE_EVERY;
pub use options::{NO_ANSWER_AFTER, WireGuardOptions, WireGuardStats};
pub use transport::{WireGuardError, WireGuardTransport};
