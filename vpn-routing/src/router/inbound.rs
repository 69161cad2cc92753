//! From a tunnel to the device: answers to flows of that very tunnel, and what rules admit.

use vpn_core::packet::{Message, Packet, Parsed, clamp_mss};
use vpn_core::{DropReason, TunnelId};

use super::Router;
use super::mtu::is_syn;
use crate::conn::{DnsFlow, Stamp};

impl Router {
    /// Routes one packet, and leaves an empty one in its place. Returns it if its buffer is free
    /// again.
    ///
    /// The connection is found by tunnel and reversed wire key: source, destination and tunnel
    /// must all be those of a flow, so a provider cannot inject anything else (N-11).
    #[inline]
    pub(super) fn inbound(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        place: &mut Packet,
    ) -> Option<Packet> {
        let settled = self.settled_answer(now, tunnel, place);
        let packet = std::mem::take(place);
        let Some(usage) = settled else {
            return self.unsettled_answer(now, tunnel, packet);
        };
        let (bytes, segments) = (packet.len() as u64, packet.segments() as u64);
        self.usages.received(usage, bytes);
        match self.device.push(packet) {
            Ok(()) => {
                if let Some(slot) = self.tunnels.get_mut(tunnel) {
                    slot.counters.rx_packets += segments;
                    slot.counters.rx_bytes += bytes;
                }
                None
            }
            Err(packet) => {
                self.count_drop(Some(tunnel), DropReason::QueueFull, 1);
                Some(packet)
            }
        }
    }

    /// A packet that needs more than a look at its flow's entry.
    #[inline(never)]
    fn unsettled_answer(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        mut packet: Packet,
    ) -> Option<Packet> {
        let parsed = packet.parse();
        let Ok(parsed) = &parsed else {
            self.count_drop(Some(tunnel), DropReason::Malformed, 1);
            return Some(packet);
        };
        let (bytes, segments) = (packet.len() as u64, packet.segments() as u64);
        if parsed.message == Message::LaterFragment {
            return self.later_fragment(now, Some(tunnel), parsed, packet);
        }
        // As it came: translated it would be another.
        let datagram = match parsed.first_fragment {
            true => Self::datagram(Some(tunnel), parsed, &packet),
            false => None,
        };
        match self.translate_inbound(now, tunnel, parsed, &mut packet) {
            Err(reason) => {
                if parsed.first_fragment {
                    self.first_fragment_dropped(now, Some(tunnel), parsed, &packet, reason);
                }
                self.count_drop(Some(tunnel), reason, 1);
                Some(packet)
            }
            Ok(()) => match self.device.push(packet) {
                Ok(()) => {
                    if let Some(slot) = self.tunnels.get_mut(tunnel) {
                        slot.counters.rx_packets += segments;
                        slot.counters.rx_bytes += bytes;
                    }
                    if parsed.first_fragment {
                        self.forward_following();
                    }
                    None
                }
                Err(packet) => {
                    self.count_drop(Some(tunnel), DropReason::QueueFull, 1);
                    if let Some((datagram, _)) = datagram {
                        self.following_dropped(&datagram);
                    }
                    Some(packet)
                }
            },
        }
    }

    fn translate_inbound(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        parsed: &Parsed,
        packet: &mut Packet,
    ) -> Result<(), DropReason> {
        match parsed.message {
            Message::Tcp(_) | Message::Udp | Message::EchoReply | Message::EchoRequest => {}
            Message::LaterFragment => return Err(DropReason::Fragment),
            Message::IcmpError => return self.inbound_error(now, tunnel, parsed, packet),
            Message::Other if !parsed.flow.protocol().is_icmp() => {}
            _ => return Err(DropReason::Unsupported),
        }
        let id = match self.conns.find_inbound(tunnel, &parsed.flow) {
            // An identifier of 0 is that of either direction.
            Some(id) if !is_of_origin(parsed.message, self.is_guest(id)) => {
                return Err(DropReason::Unsolicited);
            }
            Some(id) if self.begins_anew(id, parsed.message) => {
                self.remove_flow(id);
                self.admit(now, tunnel, parsed, packet)?
            }
            Some(id) => id,
            None => self.admit(now, tunnel, parsed, packet)?,
        };
        let conn = self.conns.get(id).ok_or(DropReason::Unsolicited)?;
        if conn.dns != DnsFlow::No {
            self.take_answer(now, id, parsed, packet)?;
        } else if conn.generation != self.generation
            && let Some(reason) = self.blocked_since(now, id, None)
        {
            self.answer_server(id, tunnel, parsed, packet);
            return Err(reason);
        }
        if parsed.first_fragment {
            self.first_fragment_in(now, tunnel, id, parsed, packet)?;
        }
        let seen = self.conns.change(id, |conn| {
            conn.saw_inbound(now, parsed.message);
            (conn.usage, conn.device.reversed())
        });
        let (usage, to) = seen.ok_or(DropReason::Unsolicited)?;
        self.usages.received(usage, packet.len() as u64);
        packet.translate(parsed, &to);
        if is_syn(parsed.message)
            && let Some(slot) = self.tunnels.get(tunnel)
        {
            clamp_mss(packet, parsed, slot.mtu);
        }
        Ok(())
    }
}

/// Whether a message can belong to a flow that somebody behind the tunnel began, or did not.
fn is_of_origin(message: Message, guest: bool) -> bool {
    match message {
        Message::EchoRequest => guest,
        Message::EchoReply => !guest,
        _ => true,
    }
}
