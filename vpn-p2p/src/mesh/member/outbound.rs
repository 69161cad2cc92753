//! Decides where a packet goes, and what it looks like there.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::BytesMut;
use vpn_core::packet::segment::{Segments, complete_checksum};
use vpn_core::{DropReason, Packet};

use super::{Member, Slot, Transmit};
use crate::mesh::way::{Carrier, HubId, Way};
use crate::mesh::wire::What;
use crate::mesh::wire::control::super_header;
use crate::mesh::wire::frame::{RELAY_HEADER, relay_header};
use crate::wireguard::routes::Inner;

/// Longest super-packet that crosses whole, in bytes: sealed, with everything in front, it is a frame
/// of a stream, which holds as much as an IP packet.
const MAX_WHOLE: usize = 65_535 - 64;

/// How datagrams for a peer cross the network now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Straight to there.
    Direct(SocketAddr),
    /// To a hub, with this in front of each.
    Relay(SocketAddr, [u8; RELAY_HEADER]),
    /// By the stream to a hub, with this in front of each; and whether super-packets go whole, since
    /// the peer is reached by a stream too.
    Stream(HubId, [u8; RELAY_HEADER], bool),
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// To this peer, by this way.
    Open(Slot, Way, Wire),
    /// It was taken, and goes when it can.
    Held,
    /// Nowhere.
    Drop(DropReason),
}

impl Member {
    /// Where this packet goes now. One that has to wait is copied.
    pub fn outlet(&mut self, packet: &Packet, now: Instant) -> Outlet {
        let Some(inner) = Inner::read(packet.bytes()) else {
            return Outlet::Drop(DropReason::Malformed);
        };
        let Some(slot) = self.addresses.peer(inner.dst) else {
            return self.unknown(inner.dst, packet, now);
        };
        let Some(entry) = self.entries.get_mut(slot.0).and_then(Option::as_mut) else {
            return Outlet::Drop(DropReason::NoSession);
        };
        if entry.held.is_empty()
            && let Some(way) = entry.peer.way()
            && let Some(wire) = self.wire(slot, way)
        {
            return Outlet::Open(slot, way, wire);
        }
        if let Some(entry) = self.entries.get_mut(slot.0).and_then(Option::as_mut) {
            entry.held.push(packet, now, &mut self.holding);
        }
        self.demand(slot, now);
        self.settle(now);
        Outlet::Held
    }

    fn unknown(&mut self, dst: IpAddr, packet: &Packet, now: Instant) -> Outlet {
        let for_all = dst.is_multicast() || self.addresses.is_broadcast(dst);
        if for_all || self.addresses.is_own(dst) {
            return Outlet::Drop(DropReason::NotRoutable);
        }
        if !self.config.is_inside(dst) && !self.is_behind_somebody(dst) {
            return Outlet::Drop(DropReason::AddressNotAllowed);
        }
        self.look_up(What::Address(dst), Some(packet), now);
        Outlet::Held
    }

    /// Whether a network that the configuration admits holds it: its peer is looked for then.
    fn is_behind_somebody(&self, address: IpAddr) -> bool {
        let known = self.config.peers.iter().map(|known| &known.rules);
        known
            .chain([&self.config.default_rules])
            .any(|rules| rules.routes.iter().any(|net| net.contains(&address)))
    }

    fn wire(&self, slot: Slot, way: Way) -> Option<Wire> {
        match way {
            Way::Direct(to) => Some(Wire::Direct(to)),
            Way::Relay(hub) => {
                let entry = self.entry(slot)?;
                let peer = &entry.peer;
                let whole = peer.takes_whole() && !entry.far;
                let header = relay_header(peer.tag(), 0);
                match self.links.get(usize::from(hub.0))?.way()? {
                    (Carrier::Udp, to) => Some(Wire::Relay(to, header)),
                    (Carrier::Tls, _) => Some(Wire::Stream(hub, header, whole)),
                }
            }
        }
    }

    /// Seals for a peer, appending what stands in front and the datagram to `out`. `false`, and
    /// nothing is appended, without a session.
    #[inline]
    pub fn seal(&mut self, slot: Slot, wire: &Wire, plain: BytesMut, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        if let Wire::Relay(_, header) | Wire::Stream(_, header, _) = wire {
            out.extend_from_slice(header);
        }
        let Some(Some(entry)) = self.entries.get_mut(slot.0) else {
            out.truncate(start);
            return false;
        };
        let sealed = entry.peer.seal(plain, out);
        if !sealed {
            out.truncate(start);
        }
        sealed
    }

    /// Packets went to a peer by a way: once per batch and peer.
    pub fn sent(&mut self, slot: Slot, way: Way, packets: u64, bytes: u64, now: Instant) {
        let Some(entry) = self.entry_mut(slot) else {
            return;
        };
        entry.peer.sent(way, packets, bytes, now);
        let tag = entry.peer.tag();
        if let Way::Relay(hub) = way
            && let Some(link) = self.links.get_mut(usize::from(hub.0))
        {
            link.relayed(tag, now);
        }
    }

    /// Sends what waited for a peer that can be reached now.
    pub(super) fn release(&mut self, slot: Slot, now: Instant) {
        let mut gone = [0; 2];
        let mut by = None;
        loop {
            let Some(Some(entry)) = self.entries.get_mut(slot.0) else {
                return;
            };
            let Some(way) = entry.peer.way() else {
                break;
            };
            let Some(wire) = self.wire(slot, way) else {
                break;
            };
            let Some(Some(entry)) = self.entries.get_mut(slot.0) else {
                return;
            };
            let Some(mut packet) = entry.held.pop(&mut self.holding) else {
                break;
            };
            let (segments, bytes) = (packet.segments() as u64, packet.len() as u64);
            let mut datagrams = Vec::new();
            let whole = matches!(wire, Wire::Stream(_, _, true));
            let mut scratch = BytesMut::new();
            let mut sealed = true;
            let cut = plain_packets(&mut packet, self.mtu, whole, &mut scratch, |plain| {
                let mut out = Vec::new();
                sealed &= self.seal(slot, &wire, plain, &mut out);
                datagrams.push(out);
            });
            let cut = cut.and(if sealed {
                Ok(())
            } else {
                Err(DropReason::NoSession)
            });
            if let Err(reason) = cut {
                self.holding.drops.count(reason);
                continue;
            }
            by = Some(way);
            gone[0] += segments;
            gone[1] += bytes;
            for datagram in datagrams {
                self.out.push_back(match wire {
                    Wire::Direct(to) | Wire::Relay(to, _) => Transmit::Packet(to, datagram),
                    Wire::Stream(hub, ..) => Transmit::Tls(hub, datagram),
                });
            }
        }
        if let Some(way) = by {
            self.sent(slot, way, gone[0], gone[1], now);
        }
    }
}

/// Gives a packet to `each` as it is to be sealed: whole, or cut into its segments. `whole` says that
/// the way carries super-packets.
///
/// # Errors
///
/// Why it cannot be sent; nothing was given to `each` then.
pub fn plain_packets(
    packet: &mut Packet,
    mtu: u16,
    whole: bool,
    scratch: &mut BytesMut,
    mut each: impl FnMut(BytesMut),
) -> Result<(), DropReason> {
    let mtu = usize::from(mtu);
    let whole = whole && packet.len() <= MAX_WHOLE;
    let plain = |scratch: &mut BytesMut, parts: &[&[u8]]| {
        scratch.clear();
        scratch.reserve(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            scratch.extend_from_slice(part);
        }
        scratch.split()
    };
    if packet.offload.gso.is_some() {
        let segments = Segments::new(packet).map_err(|_| DropReason::Unsupported)?;
        if segments.longest() > mtu {
            return Err(DropReason::TooBig);
        }
        if whole {
            let header = super_header(packet.offload);
            each(plain(scratch, &[&header, packet.bytes()]));
            return Ok(());
        }
        for index in 0..segments.count() {
            scratch.clear();
            scratch.reserve(segments.longest());
            segments.append_to(index, scratch);
            each(scratch.split());
        }
        return Ok(());
    }
    if packet.len() > mtu {
        return Err(DropReason::TooBig);
    }
    if packet.offload.partial_checksum {
        if whole {
            let header = super_header(packet.offload);
            each(plain(scratch, &[&header, packet.bytes()]));
            return Ok(());
        }
        complete_checksum(packet).map_err(|_| DropReason::Unsupported)?;
    }
    each(plain(scratch, &[packet.bytes()]));
    Ok(())
}
