//! From the device to a tunnel: what becomes of each packet, and of flows that are known.

use std::net::IpAddr;

use vpn_core::packet::{Message, Packet, Parsed, TcpMarks, clamp_mss, tcp_flags};
use vpn_core::{DropReason, FlowKey, Owner, OwnerDetail, OwnerQuery, TransportState, TunnelId};

use super::dns::Asking;
use super::hold::{Awaits, Begun};
use super::mtu::{exceeds, is_syn};
use super::shard::WorkerId;
use super::{Event, Router};
use crate::conn::{ConnId, DnsFlow, Phase, Socket, Stamp, UsageSlot};

/// What is known of a packet's owner before it is routed.
#[derive(Debug)]
pub(super) enum Known {
    /// Nobody was asked yet.
    NotAsked,
    /// The resolver's answer, and what it was asked for; `None` if that was for another wait.
    Answer(Option<OwnerDetail>, Option<Owner>),
}

impl Known {
    /// How much of the owner was asked for.
    fn asked(&self) -> Option<OwnerDetail> {
        match self {
            Self::NotAsked => None,
            Self::Answer(asked, _) => *asked,
        }
    }
}

/// What becomes of an outbound packet.
pub(super) enum Outcome {
    Send(ConnId),
    Wait(Awaits),
    Drop(DropReason, Option<TunnelId>),
    /// Dropped, and answered with a RST on behalf of a connection of this tunnel that was ended.
    Reset(TunnelId),
    /// Nowhere, since the filter rejects it: its sender is told.
    Reject(TunnelId),
    /// To the router that has its tunnel.
    Elsewhere(WorkerId, Known),
}

use Outcome::{Drop, Send, Wait};

impl Router {
    /// Routes one packet, and leaves an empty one in its place. Returns it if its buffer is free
    /// again.
    #[inline]
    pub(super) fn outbound(&mut self, now: Stamp, place: &mut Packet) -> Option<Packet> {
        let settled = self.settled(now, place);
        let packet = std::mem::take(place);
        match settled {
            Some((tunnel, usage)) => self.queue(tunnel, usage, packet),
            None => self.unsettled(now, packet),
        }
    }

    /// A packet that needs more than a look at its flow's entry.
    #[inline(never)]
    fn unsettled(&mut self, now: Stamp, packet: Packet) -> Option<Packet> {
        self.routed_anew(now, now, packet, Known::NotAsked)
    }

    /// The same for one that came at `came`, with what is known of its owner already.
    pub(super) fn routed_anew(
        &mut self,
        now: Stamp,
        came: Stamp,
        packet: Packet,
        known: Known,
    ) -> Option<Packet> {
        let parsed = packet.parse();
        let Ok(parsed) = &parsed else {
            self.count_drop(None, DropReason::Malformed, 1);
            return Some(packet);
        };
        if parsed.message == Message::LaterFragment {
            return self.later_fragment(now, None, parsed, packet);
        }
        if !self.hold.is_empty() && self.hold.contains(&parsed.flow) {
            // Behind its predecessors, whatever this packet alone would get.
            if !self.hold.append(came, &parsed.flow, &packet) {
                let tunnel = self.hold.tunnel_of(&parsed.flow);
                self.count_drop(tunnel, DropReason::HoldFull, 1);
            }
            return Some(packet);
        }
        if let Some(worker) = self.had_by(parsed, &packet) {
            return self.hand_on((now, came), worker, parsed, packet, known);
        }
        if parsed.message == Message::IcmpError {
            return self.outbound_error(now, parsed, packet);
        }
        let outcome = self.decide(came, &Asking::new(parsed, &packet), known);
        self.act(now, came, parsed, packet, outcome)
    }

    /// Does what was decided `now` about a packet that came at `came`.
    pub(super) fn act(
        &mut self,
        now: Stamp,
        came: Stamp,
        parsed: &Parsed,
        packet: Packet,
        outcome: Outcome,
    ) -> Option<Packet> {
        match outcome {
            Send(id) if parsed.first_fragment => {
                let mut packet = packet;
                let Some(datagram) = self.first_fragment_out(now, id, parsed, &mut packet) else {
                    return Some(packet);
                };
                let before = self.sent_packets(id);
                let free = self.send(now, id, parsed, packet);
                match self.sent_packets(id) == before {
                    true => self.following_dropped(&datagram),
                    false => self.forward_following(),
                }
                return free;
            }
            Send(id) => return self.send(now, id, parsed, packet),
            Wait(awaits) => {
                let flow = parsed.flow;
                let question = match awaits {
                    Awaits::Owner(detail) => Some(OwnerQuery { flow, detail }),
                    Awaits::Tunnel(..) => None,
                };
                let tunnel = match awaits {
                    Awaits::Tunnel(tunnel, _) => Some(tunnel),
                    Awaits::Owner(_) => None,
                };
                let begun = self.hold.begin(now, came, flow, awaits, &packet);
                if begun != Begun::Full {
                    // Where one waits, the others do. A router that was faster has it.
                    self.claim(flow);
                }
                match begun {
                    Begun::Ask => self.events.extend(question.map(Event::ResolveOwner)),
                    Begun::Wait => self.wake(tunnel),
                    Begun::Full => {
                        if question.is_some() {
                            self.forget_doubtful(&flow);
                        }
                        // What others let wait must not keep it asleep.
                        self.wake(tunnel);
                        self.count_drop(tunnel, DropReason::HoldFull, 1);
                    }
                }
            }
            Drop(reason, tunnel) => {
                self.answer_drop(now, reason, parsed, &packet);
                if parsed.first_fragment {
                    self.first_fragment_dropped(now, None, parsed, &packet, reason);
                }
                self.count_drop(tunnel, reason, 1);
            }
            Outcome::Reject(tunnel) => {
                self.reject_to_app(now, parsed, &packet);
                self.count_drop(Some(tunnel), DropReason::BlockedByFilter, 1);
            }
            Outcome::Elsewhere(worker, known) => {
                return self.give((now, came), worker, parsed, packet, known);
            }
            Outcome::Reset(tunnel) => {
                self.answer_with_reset(parsed, &packet);
                self.count_drop(Some(tunnel), DropReason::FlowEnded, 1);
            }
        }
        Some(packet)
    }

    /// Translates a packet of an entered flow and queues it for its tunnel.
    fn send(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Parsed,
        mut packet: Packet,
    ) -> Option<Packet> {
        let conn = self.conns.get(id);
        let slot = conn.as_ref().and_then(|conn| self.tunnels.get(conn.tunnel));
        let (Some(conn), Some(slot)) = (conn, slot) else {
            self.count_drop(None, DropReason::NoSuchTunnel, 1);
            return Some(packet);
        };
        if packet.len() > usize::from(slot.mtu) && exceeds(&packet, parsed, slot.mtu) {
            return self.oversize(now, id, parsed, packet);
        }
        if let Some(marks) = TcpMarks::read(packet.bytes(), parsed) {
            self.conns.change(id, |conn| conn.marks = marks);
        }
        packet.translate(parsed, &conn.wire);
        if is_syn(parsed.message) {
            clamp_mss(&mut packet, parsed, slot.mtu);
        }
        self.queue(conn.tunnel, conn.usage, packet)
    }

    /// Queues a packet that is as its tunnel carries it. Returns it if there is no room.
    fn queue(&mut self, tunnel: TunnelId, usage: UsageSlot, packet: Packet) -> Option<Packet> {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            self.count_drop(None, DropReason::NoSuchTunnel, 1);
            return Some(packet);
        };
        let (bytes, segments) = (packet.len() as u64, packet.segments() as u64);
        match slot.queue.push(packet) {
            Ok(()) => {
                slot.counters.tx_packets += segments;
                slot.counters.tx_bytes += bytes;
                self.usages.sent(usage, bytes);
                if slot.queue.len() == 1 {
                    self.tunnels.list(tunnel);
                }
                None
            }
            Err(packet) => {
                slot.counters.drops.count(DropReason::QueueFull);
                Some(packet)
            }
        }
    }

    pub(super) fn decide(&mut self, now: Stamp, parsed: &Asking<'_>, known: Known) -> Outcome {
        match parsed.message {
            Message::Tcp(_) | Message::Udp | Message::EchoRequest => {}
            Message::EchoReply if self.answers_guest(&parsed.flow) => {}
            Message::LaterFragment => return Drop(DropReason::Fragment, None),
            Message::Other if !parsed.flow.protocol().is_icmp() => {}
            _ if !is_routable(parsed.flow.dst()) => return Drop(DropReason::NotRoutable, None),
            _ => return Drop(DropReason::Unsupported, None),
        }
        let known = match parsed.message {
            // No socket is found by a protocol without ports: nobody needs to be asked.
            Message::Other => Known::Answer(Some(OwnerDetail::Process), None),
            _ => known,
        };
        let outcome = match self.conns.find_outbound(&parsed.flow) {
            Some(id) if self.is_guest(id) => self.answer_guest(now, id, parsed, known),
            Some(id) => self.known_flow(now, id, parsed, known),
            None => self.new_flow(now, parsed, known),
        };
        match outcome {
            Send(id) => self.note_query(now, id, parsed),
            other => other,
        }
    }

    /// A flow in the table.
    fn known_flow(&mut self, now: Stamp, id: ConnId, parsed: &Asking<'_>, known: Known) -> Outcome {
        let owner_asked = known.asked();
        let known = match may_start_a_flow(parsed.message) {
            true => match self.recheck(now, id, parsed, known) {
                Ok(known) => known,
                Err(outcome) => return outcome,
            },
            false => known,
        };
        if let Some(outcome) = self.after_the_end(now, id) {
            return outcome;
        }
        let Some(conn) = self.conns.get(id) else {
            return Drop(DropReason::FlowTableFull, None);
        };
        let redirected = if conn.dns != DnsFlow::No {
            self.redirect_query(now, id, parsed, owner_asked)
        } else if conn.generation != self.generation {
            self.revalidate(now, id, parsed, known)
        } else {
            None
        };
        match redirected {
            Some(outcome) => outcome,
            None => self.pass(now, id, parsed),
        }
    }

    /// A packet of a flow whose decision stands.
    fn pass(&mut self, now: Stamp, id: ConnId, parsed: &Parsed) -> Outcome {
        let sent = self.conns.change(id, |conn| {
            conn.saw_outbound(now, parsed.message);
            conn.tunnel
        });
        let Some(tunnel) = sent else {
            return Drop(DropReason::FlowTableFull, None);
        };
        match self.tunnels.get(tunnel).map(|slot| &slot.state) {
            Some(TransportState::Up(_)) => Send(id),
            Some(state) if Self::is_awaited(state) => {
                let owner = self.owner_of(id);
                Wait(Awaits::Tunnel(tunnel, owner))
            }
            Some(_) => Drop(DropReason::TunnelDown, Some(tunnel)),
            None => Drop(DropReason::NoSuchTunnel, None),
        }
    }

    /// A message that could be the first of another program's socket, or of a new connection.
    fn recheck(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Asking<'_>,
        known: Known,
    ) -> Result<Known, Outcome> {
        let Some(conn) = self.conns.get(id) else {
            return Ok(known);
        };
        let phase = conn.phase;
        let needs = self.needs_owner(now, &parsed.flow, parsed.name());
        match (&known, needs) {
            (Known::NotAsked, Some(detail)) if self.is_stale(now, conn.last_outbound) => {
                return Err(Wait(Awaits::Owner(detail)));
            }
            (Known::NotAsked, _) => {}
            (Known::Answer(_, owner), _) => {
                let same = match owner {
                    Some(o) => {
                        let app = self.usages.owner(conn.usage);
                        self.owners.is(app, o) && conn.socket == Socket::new(o.socket)
                    }
                    None => needs.is_none(),
                };
                if !same {
                    return Err(self.replace_flow(now, id, parsed, known));
                }
            }
        }
        // A new connection on the ports of one that has ended, noticed or not: nothing of the old
        // one's life, and not the tunnel it was allowed to keep, is this one's.
        if matches!(parsed.message, Message::Tcp(_)) && phase != Phase::TcpOpening {
            return Err(self.replace_flow(now, id, parsed, known));
        }
        Ok(known)
    }

    /// A flow whose owner was in doubt, and stays so: what comes next must not be taken for the
    /// former owner's.
    pub(super) fn forget_doubtful(&mut self, flow: &FlowKey) {
        if let Some(id) = self.conns.find_outbound(flow) {
            self.remove_flow(id);
        }
    }

    pub(super) fn remove_flow(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(id) {
            self.flow_gone(&conn);
        }
    }

    pub(super) fn replace_flow(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Asking<'_>,
        known: Known,
    ) -> Outcome {
        self.remove_flow(id);
        self.new_flow(now, parsed, known)
    }
}

/// Messages that a program could have sent from a socket it has only just got.
pub(super) fn may_start_a_flow(message: Message) -> bool {
    match message {
        Message::Tcp(flags) => flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN,
        Message::Udp | Message::EchoRequest => true,
        _ => false,
    }
}

/// Whether an address can be on the other side of a tunnel.
pub(super) fn is_routable(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            !(a.is_multicast()
                || a.is_broadcast()
                || a.is_loopback()
                || a.is_unspecified()
                || a.is_link_local())
        }
        IpAddr::V6(a) => {
            !(a.is_multicast()
                || a.is_loopback()
                || a.is_unspecified()
                || a.is_unicast_link_local())
        }
    }
}
