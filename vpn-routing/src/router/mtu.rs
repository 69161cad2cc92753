//! Packets that are larger than their tunnel carries.
//!
//! Each tunnel has its own MTU behind one device. TCP is told in its handshake: the segment size
//! of every SYN and SYN-ACK is lowered to what fits, in both directions. Everything else is
//! fragmented where its sender allows it, as every IPv4 router does, or its sender is told what
//! fits (RFC 1191, RFC 8201), so that no size vanishes in silence.

use vpn_core::packet::{Complaint, Message, Packet, Parsed, tcp_flags};
use vpn_core::{DropReason, TunnelId};

use super::Router;
use crate::conn::{ConnId, Stamp};

/// Whether a packet, or the segments of a super-packet, are larger than `mtu`.
pub(super) fn exceeds(packet: &Packet, parsed: &Parsed, mtu: u16) -> bool {
    let largest = match packet.offload.gso {
        Some(gso) => usize::from(parsed.payload) + usize::from(gso.size),
        None => packet.len(),
    };
    largest > usize::from(mtu)
}

/// Whether a message tells its sender's largest segment.
#[inline]
pub(super) const fn is_syn(message: Message) -> bool {
    matches!(message, Message::Tcp(flags) if flags & tcp_flags::SYN != 0)
}

impl Router {
    /// A packet of an entered flow that its tunnel does not carry whole.
    #[cold]
    pub(super) fn oversize(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Parsed,
        packet: Packet,
    ) -> Option<Packet> {
        let conn = self.conns.get(id)?;
        let tunnel = conn.tunnel;
        let mtu = self.tunnels.get(tunnel)?.mtu;
        if !packet.may_be_fragmented() || packet.offload.gso.is_some() {
            self.complain_to_app(now, Complaint::TooBig { mtu }, parsed, &packet);
            self.count_drop(Some(tunnel), DropReason::TooBig, 1);
            return Some(packet);
        }
        let mut whole = packet.shrunk();
        whole.translate(parsed, &conn.wire);
        match whole.fragments(mtu) {
            Some(fragments) => self.send_all(tunnel, fragments),
            None => self.count_drop(Some(tunnel), DropReason::TooBig, 1),
        }
        Some(packet)
    }

    /// Queues what one packet became.
    pub(super) fn send_all(&mut self, tunnel: TunnelId, fragments: Vec<Packet>) {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            self.count_drop(None, DropReason::NoSuchTunnel, 1);
            return;
        };
        // One came in.
        self.accounts.made += fragments.len().saturating_sub(1) as u64;
        let was_empty = slot.queue.is_empty();
        for fragment in fragments {
            let bytes = fragment.len() as u64;
            match slot.queue.push(fragment) {
                Ok(()) => {
                    slot.counters.tx_packets += 1;
                    slot.counters.tx_bytes += bytes;
                }
                Err(fragment) => {
                    slot.counters.drops.count(DropReason::QueueFull);
                    slot.queue.recycle(fragment);
                }
            }
        }
        if was_empty && !slot.queue.is_empty() {
            self.tunnels.list(tunnel);
        }
    }
}
