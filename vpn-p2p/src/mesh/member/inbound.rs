//! Decides whose a datagram is, and whether the packet in it may be from there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use bytes::BytesMut;
use vpn_core::{DropReason, Offload};

use super::{Member, Slot};
use crate::mesh::keys::{Admission, data_index};
use crate::mesh::peer::Arrival;
use crate::mesh::way::{Carrier, HubId, Way};
use crate::mesh::wire::Tag;
use crate::mesh::wire::control::SUPER_HEADER;
use crate::mesh::wire::frame::{FAR, Frame, RELAY_HEADER, is_frame};
use crate::wireguard::routes::Inner;

/// What a datagram came to.
#[derive(Debug)]
pub enum Arrived {
    /// An IP packet of this peer, with a source that is its own, cut to its length.
    Packet(Slot, BytesMut),
    /// Such a super-packet; it begins so many bytes behind the start.
    Super(Slot, BytesMut, usize, Offload),
    /// It was for the protocol: there may be something to [poll](Member::poll).
    Handled,
    /// It was dropped.
    Dropped(DropReason),
}

impl Member {
    /// A datagram came to one of our sockets.
    pub fn udp(
        &mut self,
        from: SocketAddr,
        mut datagram: BytesMut,
        now: Instant,
        unix: u64,
    ) -> Arrived {
        if !is_frame(&datagram) {
            if let Some(place) = self
                .links
                .iter()
                .position(|link| link.is_from_hub(Carrier::Udp, Some(from)))
            {
                return self.hubs_own(place, Carrier::Udp, Some(from), datagram, now, unix);
            }
            // From inside of the mesh itself it came by a tunnel: a way there would go round in circles.
            if self.config.is_inside(from.ip().to_canonical()) {
                return Arrived::Dropped(DropReason::AddressNotAllowed);
            }
            return self.wireguard(Way::Direct(from), datagram, now, unix);
        }
        let Some(place) = self
            .links
            .iter()
            .position(|link| link.is_from_hub(Carrier::Udp, Some(from)))
        else {
            return Arrived::Dropped(DropReason::AddressNotAllowed);
        };
        self.frame(place, Carrier::Udp, Some(from), &mut datagram, now, unix)
    }

    /// A frame or datagram came by the stream to a hub, which proved that it is the hub's.
    pub fn stream(
        &mut self,
        hub: HubId,
        mut datagram: BytesMut,
        now: Instant,
        unix: u64,
    ) -> Arrived {
        let place = usize::from(hub.0);
        if place >= self.links.len() {
            return Arrived::Dropped(DropReason::NoSession);
        }
        if is_frame(&datagram) {
            self.frame(place, Carrier::Tls, None, &mut datagram, now, unix)
        } else {
            self.hubs_own(place, Carrier::Tls, None, datagram, now, unix)
        }
    }

    fn hubs_own(
        &mut self,
        place: usize,
        via: Carrier,
        from: Option<SocketAddr>,
        datagram: BytesMut,
        now: Instant,
        unix: u64,
    ) -> Arrived {
        let taken = self.links[place].datagram(via, from, datagram, &*self.keys, now, unix);
        // At once: the handshake of who is introduced may be the next datagram of the same batch.
        self.follow_links(now, unix);
        match taken {
            Ok(()) => Arrived::Handled,
            Err(reason) => Arrived::Dropped(reason),
        }
    }

    fn frame(
        &mut self,
        place: usize,
        via: Carrier,
        from: Option<SocketAddr>,
        datagram: &mut BytesMut,
        now: Instant,
        unix: u64,
    ) -> Arrived {
        let hub = HubId(place as u8);
        match Frame::read(datagram) {
            Err(_) => Arrived::Dropped(DropReason::Malformed),
            Ok(Frame::Relay { tag, hops, .. }) => {
                let registered = self.links[place].way().is_some();
                if !registered {
                    return Arrived::Dropped(DropReason::NoSession);
                }
                self.links[place].relay_heard();
                let inner = datagram.split_off(RELAY_HEADER);
                self.relayed(hub, tag, hops, inner, now, unix)
            }
            Ok(Frame::Absent { tag }) => {
                self.absent(hub, tag, now);
                Arrived::Handled
            }
            Ok(frame) => {
                self.links[place].frame(via, from, &frame, &*self.keys, now, unix);
                Arrived::Handled
            }
        }
    }

    /// What a hub says comes from the member with this name.
    fn relayed(
        &mut self,
        hub: HubId,
        tag: Tag,
        hops: u8,
        datagram: BytesMut,
        now: Instant,
        unix: u64,
    ) -> Arrived {
        if is_frame(&datagram) {
            // Hubs tell of introductions in our session: this may be from anybody.
            return Arrived::Dropped(DropReason::NotAuthentic);
        }
        // What comes from it by this hub shows that it is there.
        if let Some(slot) = self.by_tag.get(&tag).copied()
            && let Some(Some(entry)) = self.entries.get_mut(slot.0)
        {
            entry.far = hops >= FAR;
            if !entry.absent.is_empty() {
                self.presence(slot, hub, true, now);
            }
        }
        self.wireguard_of(Way::Relay(hub), Some(tag), datagram, now, unix)
    }

    /// A datagram of WireGuard's.
    #[inline]
    fn wireguard(&mut self, way: Way, datagram: BytesMut, now: Instant, unix: u64) -> Arrived {
        self.wireguard_of(way, None, datagram, now, unix)
    }

    fn wireguard_of(
        &mut self,
        way: Way,
        tag: Option<Tag>,
        datagram: BytesMut,
        now: Instant,
        unix: u64,
    ) -> Arrived {
        let (slot, datagram) = match data_index(&datagram) {
            // The gate has nothing to say about data.
            Some(index) => (self.by_index.get(&index), datagram),
            None => match self.keys.admit(gate_address(way, tag), datagram) {
                Admission::Initiation(key, datagram) => (self.by_session.get(&key), datagram),
                Admission::ForIndex(index, datagram) => (self.by_index.get(&index), datagram),
                Admission::Reply(cookie) => {
                    self.cookie(way, tag, &cookie, now);
                    return Arrived::Handled;
                }
                Admission::Rejected => return Arrived::Dropped(DropReason::NotAuthentic),
            },
        };
        let Some(&slot) = slot else {
            return Arrived::Dropped(DropReason::NoSession);
        };
        let Some(entry) = self.entries.get_mut(slot.0).and_then(Option::as_mut) else {
            return Arrived::Dropped(DropReason::NoSession);
        };
        let arrival = entry.peer.datagram(way, datagram, unix, now);
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(slot);
        }
        match arrival {
            Arrival::Packet(packet) => self.check(slot, packet),
            Arrival::Super(offload, packet) => self.check_super(slot, packet, offload),
            Arrival::Handled => Arrived::Handled,
            Arrival::Dropped(reason) => Arrived::Dropped(reason),
        }
    }

    /// Under load, whoever begins handshakes has to show that it gets what is sent to it.
    fn cookie(&mut self, way: Way, tag: Option<Tag>, cookie: &[u8], now: Instant) {
        match (way, tag) {
            (Way::Direct(_), _) => self.transmit(way, Tag([0; Tag::LEN]), cookie, now),
            (Way::Relay(_), Some(tag)) => self.transmit(way, tag, cookie, now),
            (Way::Relay(_), None) => {}
        }
    }

    /// An authentic packet: is it one, and may this peer send it?
    #[inline]
    fn check(&self, slot: Slot, mut packet: BytesMut) -> Arrived {
        let Some(inner) = Inner::read(&packet) else {
            return Arrived::Dropped(DropReason::Malformed);
        };
        if self.addresses.peer(inner.src) != Some(slot) {
            return Arrived::Dropped(DropReason::AddressNotAllowed);
        }
        packet.truncate(inner.len);
        Arrived::Packet(slot, packet)
    }

    fn check_super(&self, slot: Slot, mut packet: BytesMut, offload: Offload) -> Arrived {
        let Some(inner) = packet.get(SUPER_HEADER..).and_then(Inner::read) else {
            return Arrived::Dropped(DropReason::Malformed);
        };
        if self.addresses.peer(inner.src) != Some(slot) {
            return Arrived::Dropped(DropReason::AddressNotAllowed);
        }
        packet.truncate(SUPER_HEADER + inner.len);
        Arrived::Super(slot, packet, SUPER_HEADER, offload)
    }
}

/// Whose handshakes count together: an address's, or for relayed ones a member's.
fn gate_address(way: Way, tag: Option<Tag>) -> SocketAddr {
    match (way, tag) {
        (Way::Direct(from), _) => from,
        (Way::Relay(hub), tag) => {
            let [a, b, c, d, e, f, g, h] = tag.map_or([0; Tag::LEN], |tag| tag.0);
            let pair = |high, low| u16::from_be_bytes([high, low]);
            let of = [pair(a, b), pair(c, d), pair(e, f), pair(g, h)];
            let address = Ipv6Addr::new(0xfe80, 0, 0, u16::from(hub.0), of[0], of[1], of[2], of[3]);
            SocketAddr::new(IpAddr::V6(address), 0)
        }
    }
}
