//! Has the entries of a batch's flows loaded before its packets are routed.
//!
//! Each packet's look-up waits for memory twice, for the index and for the entry. One after the
//! other, the packets of a batch would each wait; here they wait together. It is a hint: nothing
//! is decided and nothing kept, since packets change entries and are routed one after the other.

use vpn_core::packet::{Packet, Parsed};
use vpn_core::{FlowKey, Protocol, TunnelId};

use crate::conn::{ConnTable, FETCHED};

/// A table of fewer flows is in the cache already: there is nothing to wait for.
const CACHED_FLOWS: usize = 8192;

/// How far a batch was looked ahead at.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The first packet that was not looked at; that of the end, if none is to be.
    next: usize,
}

impl Ahead {
    /// Before the first packet of a batch.
    pub(super) fn new(conns: &ConnTable) -> Self {
        Self {
            next: match conns.len() {
                ..=CACHED_FLOWS => usize::MAX,
                _ => 0,
            },
        }
    }

    /// Whether somebody should look before the packet in this place is routed.
    #[inline(always)]
    pub(super) const fn is_due(&self, place: usize) -> bool {
        place >= self.next
    }

    /// Looks at the next packets from the device.
    #[inline(never)]
    pub(super) fn look_out(&mut self, conns: &ConnTable, packets: &[Packet]) {
        let keys = self.keys(packets).map(|key| conns.hash(&key));
        conns.fetch_devices(keys);
        self.next += FETCHED;
    }

    /// Looks at the next packets from a tunnel.
    #[inline(never)]
    pub(super) fn look_in(&mut self, conns: &ConnTable, tunnel: TunnelId, packets: &[Packet]) {
        let keys = self.keys(packets).map(|key| conns.hash(&key.reversed()));
        conns.fetch_wires(tunnel, keys);
        self.next += FETCHED;
    }

    fn keys(&self, packets: &[Packet]) -> impl Iterator<Item = FlowKey> {
        let some_flow = FlowKey::v4(Protocol(0), (0, 0), (0, 0));
        let part = packets.get(self.next..).unwrap_or_default();
        part.iter().take(FETCHED).map(move |packet| {
            let parsed = Parsed::from_bytes(packet.bytes());
            parsed.map_or(some_flow, |parsed| parsed.flow)
        })
    }
}
