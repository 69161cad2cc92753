//! Fragments: the first is routed like any packet, the others follow it.

use vpn_core::packet::{Fragment, Packet, Parsed};
use vpn_core::rule::{FilterAction, FilterDirection};
use vpn_core::{DropReason, FlowKey, TransportState, TunnelId};

use super::outbound::Known;
use super::shard::WorkerId;
use super::{Egress, Router};
use crate::conn::{Conn, ConnId, Stamp};
use crate::fragment::{Datagram, Later};

/// What the other fragments of a datagram get.
#[derive(Clone, Copy, Debug)]
pub(super) enum FragmentWay {
    Here(Way),
    /// The router that the first one was handed to, and when that came.
    Elsewhere(WorkerId, Stamp),
}

/// A way that fragments take from here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    to: Egress,
    /// The tunnel they use, whichever way.
    tunnel: TunnelId,
    /// The flow that they are of over there; its ports are not theirs.
    flow: FlowKey,
    id: Option<u32>,
}

impl FragmentWay {
    const fn out(conn: &Conn, id: Option<u32>) -> Self {
        Self::Here(Way {
            to: Egress::Tunnel(conn.tunnel),
            tunnel: conn.tunnel,
            flow: conn.wire,
            id,
        })
    }

    /// Whether it leads through this tunnel, whichever way, or may.
    pub(super) fn uses(&self, tunnel: TunnelId) -> bool {
        self.tunnel().is_none_or(|used| used == tunnel)
    }

    const fn tunnel(&self) -> Option<TunnelId> {
        match self {
            Self::Here(way) => Some(way.tunnel),
            Self::Elsewhere(..) => None,
        }
    }

    fn back(conn: &Conn) -> Self {
        Self::Here(Way {
            to: Egress::Device,
            tunnel: conn.tunnel,
            flow: conn.device.reversed(),
            id: None,
        })
    }
}

impl Router {
    /// Which datagram a fragment belongs to; `None` if it is none that may pass.
    pub(super) fn datagram(
        from: Option<TunnelId>,
        parsed: &Parsed,
        packet: &Packet,
    ) -> Option<(Datagram, Fragment)> {
        let fragment = Fragment::of(packet.bytes())?;
        let passes = fragment.is_possible() && !fragment.hides_flags(parsed);
        passes.then(|| (Datagram::new(from, &parsed.flow, fragment.id), fragment))
    }

    /// A fragment but the first. Returns it if its buffer is free again.
    pub(super) fn later_fragment(
        &mut self,
        now: Stamp,
        from: Option<TunnelId>,
        parsed: &Parsed,
        packet: Packet,
    ) -> Option<Packet> {
        let Some((datagram, piece)) = Self::datagram(from, parsed, &packet) else {
            self.count_drop(from, DropReason::Malformed, 1);
            return Some(packet);
        };
        let later = self.fragments.later(now, datagram, &piece, &packet);
        self.expire_fragments(now);
        match later {
            Later::Follow(way) => return self.forward_fragment(way, packet),
            Later::Wait => {}
            Later::Drop(reason) => self.count_drop(from, reason, 1),
        }
        Some(packet)
    }

    /// Before the first fragment of an entered flow is sent: what the filter says of fragments, and
    /// an identification that is free on the wire. `None` if it may not pass.
    pub(super) fn first_fragment_out(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Parsed,
        packet: &mut Packet,
    ) -> Option<Datagram> {
        let Some((datagram, piece)) = Self::datagram(None, parsed, packet) else {
            self.count_drop(None, DropReason::Malformed, 1);
            return None;
        };
        let conn = self.conns.get(id)?;
        let (tunnel, device) = (conn.tunnel, conn.device);
        let judged = self.judge_fragment(FilterDirection::Outbound, tunnel, device);
        if judged != FilterAction::Accept {
            self.count_drop(Some(tunnel), DropReason::BlockedByFilter, 1);
            self.fragments_dropped(now, datagram, &piece, DropReason::BlockedByFilter);
            return None;
        }
        let conn = self.conns.get(id)?;
        let wire = Datagram {
            from: Some(tunnel),
            src: conn.wire.src(),
            dst: conn.wire.dst(),
            ..datagram
        };
        let id = self.fragments.id_on_wire(now, datagram, wire);
        let id = (id != datagram.id).then_some(id);
        let way = FragmentWay::out(&conn, id);
        if let Some(id) = id {
            packet.set_fragment_id(id);
        }
        let waiting = self.fragments.follow(now, datagram, &piece, way);
        self.expire_fragments(now);
        self.following.extend(waiting.into_iter().map(|p| (way, p)));
        Some(datagram)
    }

    /// How many packets the tunnel of a flow took so far.
    pub(super) fn sent_packets(&self, id: ConnId) -> u64 {
        let slot = self.conns.get(id).and_then(|c| self.tunnels.get(c.tunnel));
        slot.map_or(0, |slot| slot.counters.tx_packets)
    }

    /// A first fragment found no room after all: those behind it are of no use.
    pub(super) fn following_dropped(&mut self, datagram: &Datagram) {
        for (way, packet) in std::mem::take(&mut self.following) {
            self.count_drop(way.tunnel(), DropReason::QueueFull, 1);
            self.spare.release(packet);
        }
        self.fragments.revoke(datagram, DropReason::QueueFull);
    }

    /// After a first fragment from `tunnel` was let in, as `parsed` before it was translated.
    pub(super) fn first_fragment_in(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        id: ConnId,
        parsed: &Parsed,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        let (datagram, piece) =
            Self::datagram(Some(tunnel), parsed, packet).ok_or(DropReason::Malformed)?;
        let conn = self.conns.get(id).ok_or(DropReason::Unsolicited)?;
        let (way, device) = (FragmentWay::back(&conn), conn.device.reversed());
        let judged = self.judge_fragment(FilterDirection::Inbound, tunnel, device);
        if judged != FilterAction::Accept {
            return Err(DropReason::BlockedByFilter);
        }
        let waiting = self.fragments.follow(now, datagram, &piece, way);
        self.expire_fragments(now);
        self.following.extend(waiting.into_iter().map(|p| (way, p)));
        Ok(())
    }

    /// Those that waited for a first fragment go on, behind it.
    pub(super) fn forward_following(&mut self) {
        while let Some((way, packet)) = self.following.pop_front() {
            if let Some(free) = self.forward_fragment(way, packet) {
                self.spare.release(free);
            }
        }
    }

    /// A first fragment was dropped: the others have nothing to follow.
    pub(super) fn first_fragment_dropped(
        &mut self,
        now: Stamp,
        from: Option<TunnelId>,
        parsed: &Parsed,
        packet: &Packet,
        reason: DropReason,
    ) {
        if let Some((datagram, piece)) = Self::datagram(from, parsed, packet) {
            self.fragments_dropped(now, datagram, &piece, reason);
        }
    }

    fn fragments_dropped(
        &mut self,
        now: Stamp,
        datagram: Datagram,
        piece: &Fragment,
        reason: DropReason,
    ) {
        let waited = self.fragments.give_up(now, datagram, piece, reason).len();
        self.count_drop(datagram.from, reason, waited as u64);
        self.expire_fragments(now);
    }

    /// Datagrams that took too long, or made room for others.
    pub(super) fn expire_fragments(&mut self, now: Stamp) {
        while let Some((from, waited)) = self.fragments.expired(now) {
            self.count_drop(from, DropReason::Fragment, waited);
        }
    }

    fn forward_fragment(&mut self, way: FragmentWay, mut packet: Packet) -> Option<Packet> {
        let way = match way {
            FragmentWay::Here(way) => way,
            FragmentWay::Elsewhere(to, came) => {
                return self.push_handed(came, to, packet, Known::NotAsked);
            }
        };
        let carries = |state: &TransportState| matches!(state, TransportState::Up(_));
        let Some(slot) = self
            .tunnels
            .get_mut(way.tunnel)
            .filter(|s| carries(&s.state))
        else {
            self.count_drop(Some(way.tunnel), DropReason::TunnelDown, 1);
            return Some(packet);
        };
        if let Ok(parsed) = packet.parse() {
            packet.translate(&parsed, &way.flow);
        }
        if let Some(id) = way.id {
            packet.set_fragment_id(id);
        }
        let bytes = packet.len() as u64;
        if way.to == Egress::Device {
            return match self.device.push(packet) {
                Ok(()) => {
                    slot.counters.rx_packets += 1;
                    slot.counters.rx_bytes += bytes;
                    None
                }
                Err(packet) => {
                    slot.counters.drops.count(DropReason::QueueFull);
                    Some(packet)
                }
            };
        }
        if packet.len() > usize::from(slot.mtu) {
            let mtu = slot.mtu;
            match packet.shrunk().fragments(mtu) {
                Some(parts) => self.send_all(way.tunnel, parts),
                // The first one's sender was told.
                None => self.count_drop(Some(way.tunnel), DropReason::TooBig, 1),
            }
            return Some(packet);
        }
        match slot.queue.push(packet) {
            Ok(()) => {
                slot.counters.tx_packets += 1;
                slot.counters.tx_bytes += bytes;
                if slot.queue.len() == 1 {
                    self.tunnels.list(way.tunnel);
                }
                None
            }
            Err(packet) => {
                slot.counters.drops.count(DropReason::QueueFull);
                Some(packet)
            }
        }
    }
}
