//! Has the entries of a batch's flows loaded before its packets are routed.
//!
//! Each packet's look-up waits for memory twice, for the index and for the entry. One after the
//! other, the packets of a batch would each wait; here they wait together. It is a hint: nothing
//! is decided and nothing kept, since packets change entries and are routed one after the other.

use std::collections::VecDeque;

use vpn_core::packet::{Packet, Parsed};
use vpn_core::{FlowKey, Protocol, TunnelId};

use super::Router;
use crate::conn::FETCHED;

/// A table of fewer flows is in the cache already: there is nothing to wait for.
const CACHED_FLOWS: usize = 8192;

impl Router {
    /// Before the first packets in this list, from the device, are routed. Returns how many of
    /// them may be.
    #[inline]
    pub(super) fn look_ahead(&self, packets: &VecDeque<Packet>) -> usize {
        if self.conns.len() <= CACHED_FLOWS {
            return packets.len();
        }
        let keys = keys(packets, |flow| flow);
        self.conns
            .fetch_devices(keys.map(|key| self.conns.hash(&key)));
        packets.len().min(FETCHED)
    }

    /// The same for packets from a tunnel.
    #[inline]
    pub(super) fn look_ahead_of(&self, tunnel: TunnelId, packets: &VecDeque<Packet>) -> usize {
        if self.conns.len() <= CACHED_FLOWS {
            return packets.len();
        }
        let keys = keys(packets, |flow| flow.reversed());
        self.conns
            .fetch_wires(tunnel, keys.map(|key| self.conns.hash(&key)));
        packets.len().min(FETCHED)
    }
}

fn keys(
    packets: &VecDeque<Packet>,
    key: impl Fn(FlowKey) -> FlowKey,
) -> impl Iterator<Item = FlowKey> {
    let some_flow = FlowKey::v4(Protocol(0), (0, 0), (0, 0));
    packets.iter().take(FETCHED).map(move |packet| {
        let parsed = Parsed::from_bytes(packet.bytes());
        parsed.map_or(some_flow, |parsed| key(parsed.flow))
    })
}
