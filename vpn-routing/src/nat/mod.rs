//! Decides what a flow looks like in its tunnel: which address and port stand for its own. Pure.
//!
//! A packet's source on the device is whatever address the kernel chose there; the tunnel expects
//! the one it assigned. The address is always translated. What becomes of the port depends on
//! what the protocol can bear:
//!
//! | Protocol | Port or identifier |
//! |---|---|
//! | UDP, ICMP echo | *endpoint-independent mapping* (RFC 4787 REQ-1, RFC 5508 REQ-1a): per tunnel, what comes from one endpoint of the device leaves from one endpoint, whatever its destination. Two endpoints of the device never share one (REQ-3) |
//! | TCP | kept; another only if the whole five-tuple is taken in that tunnel |
//! | others | they have none: addresses only, so one address of the device per remote and protocol |
//!
//! The port on the device is kept wherever it is free. If it is not, ports are drawn at random
//! (RFC 6056 §3.3.1), so that outsiders cannot guess them: at most [`PORT_TRIES`] draws, then the
//! flow is refused. Ports that inbound rules publish are never given to anybody else.
//!
//! Networks behind tunnels that overlap are told apart by [`PrefixMap`]s: applications reach one of
//! them under other addresses. [`Overlap`] says which networks share addresses, and who gets them.
//!
//! A mapping is counted by its flows and forgotten with the last of them. Looking one up or making
//! it happens once per new flow, never per packet.

mod mapping;
mod overlap;
mod ports;
mod prefix;
#[cfg(test)]
mod tests;

pub use mapping::{Endpoint, MappingId, Mappings, Space};
pub use overlap::{Claim, Claimant, MAX_OVERLAPS, Overlap, OverlapKind, Why};
pub use ports::{FIRST_PORT, PORT_TRIES, PortsExhausted, RandomPorts};
pub use prefix::{MAX_PREFIX_MAPS, PrefixMap, PrefixMapError, PrefixMaps};
