//! What is read of a batch before its packets are routed: headers, hashes, and the entries of flows
//! that no cache holds.
//!
//! Each packet's look-up waits for memory twice, for the index and for the entry. One after the
//! other, a batch would wait for each; here the waits of a part of it overlap. Nothing is decided:
//! packets change entries, and are routed one after the other.

use vpn_core::packet::{Packet, Parsed};
use vpn_core::{ParseError, TunnelId};

use super::Router;
use crate::conn::FETCHED;

/// Packets looked ahead at: more would not wait less, and their headers would leave the cache.
pub(super) const PART: usize = FETCHED;

/// A table of fewer flows is in the cache already: there is nothing to wait for.
const CACHED_FLOWS: usize = 8192;

/// What is known of a packet that will be routed soon.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) parsed: Result<Parsed, ParseError>,
    /// Of the key that it is found by.
    pub(super) hash: u64,
}

impl Router {
    /// Looks at packets from the device.
    pub(super) fn look_outbound(&self, packets: &[Packet], ahead: &mut Vec<Ahead>) {
        ahead.clear();
        ahead.extend(packets.iter().map(|packet| {
            let parsed = packet.parse();
            let hash = parsed.map_or(0, |parsed| self.conns.hash(&parsed.flow));
            Ahead { parsed, hash }
        }));
        if self.conns.len() > CACHED_FLOWS {
            self.conns.fetch_devices(ahead.iter().map(|look| look.hash));
        }
    }

    /// Looks at packets from a tunnel.
    pub(super) fn look_inbound(
        &self,
        tunnel: TunnelId,
        packets: &[Packet],
        ahead: &mut Vec<Ahead>,
    ) {
        ahead.clear();
        ahead.extend(packets.iter().map(|packet| {
            let parsed = packet.parse();
            let hash = parsed.map_or(0, |parsed| self.conns.hash(&parsed.flow.reversed()));
            Ahead { parsed, hash }
        }));
        if self.conns.len() > CACHED_FLOWS {
            self.conns
                .fetch_wires(tunnel, ahead.iter().map(|look| look.hash));
        }
    }
}
