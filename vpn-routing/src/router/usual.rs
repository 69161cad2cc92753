//! The usual way of a packet: its flow's entry says everything, and is the only thing looked at.
//!
//! One compare says that the decision is current, whatever it followed from. Who is not on the usual
//! way has to ask something: an owner, rules, the filter, the state of a tunnel.

use vpn_core::packet::{Message, Packet, Parsed, TcpMarks};
use vpn_core::{DropReason, Generation, TunnelId};

use super::Router;
use super::mtu::{exceeds, is_syn};
use super::tunnels::Tunnels;
use crate::conn::{Addresses, DnsFlow, Origin, Record, RecordMut, Stamp, UsageSlot};

impl Router {
    /// From the device: a flow in the table, decided under the rules in force, whose owner cannot
    /// have changed, through a tunnel that is up and carries the packet as it is. What
    /// [`decide`](Self::decide) would say and [`send`](Self::send) would do, without their
    /// questions; `None`, and nothing has happened, if one has to be asked.
    #[inline(always)]
    pub(super) fn settled(
        &mut self,
        now: Stamp,
        hash: u64,
        parsed: &Parsed,
        packet: &mut Packet,
    ) -> Option<(TunnelId, UsageSlot)> {
        if !self.hold.is_empty() && self.hold.contains(&parsed.flow) {
            return None;
        }
        let id = self.conns.find_device(hash, &parsed.flow)?;
        let current = Current {
            now,
            generation: self.generation,
            recheck: self.recheck,
            tunnels: &self.tunnels,
        };
        match self.conns.record(id)? {
            RecordMut::V4(record) => current.pass_out(record, parsed, packet),
            RecordMut::V6(record) => current.pass_out(record, parsed, packet),
        }
    }

    /// From a tunnel: an answer on a flow of that very tunnel. What
    /// [`translate_inbound`](Self::translate_inbound) would do, without its questions; `false`, and
    /// nothing has happened, if one has to be asked.
    #[inline(always)]
    pub(super) fn settled_answer(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        hash: u64,
        parsed: &Parsed,
        packet: &mut Packet,
    ) -> bool {
        let wire = parsed.flow.reversed();
        let current = Current {
            now,
            generation: self.generation,
            recheck: self.recheck,
            tunnels: &self.tunnels,
        };
        let found = self.conns.find_hashed(hash, tunnel, &wire);
        let passed = match found.and_then(|id| self.conns.record(id)) {
            Some(RecordMut::V4(record)) => current.pass_in(record, parsed, packet),
            Some(RecordMut::V6(record)) => current.pass_in(record, parsed, packet),
            None => None,
        };
        let Some(usage) = passed else { return false };
        self.usages.received(usage, packet.len() as u64);
        true
    }

    /// Queues a packet that is as its tunnel carries it. Returns it if there is no room.
    #[inline(always)]
    pub(super) fn queue(
        &mut self,
        tunnel: TunnelId,
        usage: UsageSlot,
        packet: Packet,
    ) -> Option<Packet> {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            self.count_drop(None, DropReason::NoSuchTunnel, 1);
            return Some(packet);
        };
        let bytes = packet.len() as u64;
        match slot.queue.push(packet) {
            Ok(()) => {
                slot.counters.tx_packets += 1;
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
}

/// What an entry is compared with before a packet may pass.
struct Current<'a> {
    now: Stamp,
    generation: Generation,
    recheck: Stamp,
    tunnels: &'a Tunnels,
}

impl Current<'_> {
    /// Lets a packet from the device pass, if it needs no question.
    #[inline(always)]
    fn pass_out<A: Addresses>(
        &self,
        record: &mut Record<A>,
        parsed: &Parsed,
        packet: &mut Packet,
    ) -> Option<(TunnelId, UsageSlot)> {
        let state = record.state();
        let in_doubt = match parsed.message {
            _ if parsed.first_fragment => true,
            message @ Message::Tcp(_) => is_syn(message),
            Message::Udp if state.dns() != DnsFlow::No => true,
            Message::Udp if state.origin() == Origin::Tunnel => false,
            Message::EchoRequest if state.origin() == Origin::Tunnel => true,
            Message::Udp | Message::EchoRequest => self.is_stale(record.last_outbound()),
            Message::Other => false,
            _ => true,
        };
        if in_doubt || record.generation() != self.generation {
            return None;
        }
        let slot = self.tunnels.get(record.tunnel())?;
        let too_large = packet.len() > usize::from(slot.mtu) && exceeds(packet, parsed, slot.mtu);
        if too_large || !slot.carries() {
            return None;
        }
        record.saw_outbound(self.now, parsed.message);
        if let Some(marks) = TcpMarks::read(packet.bytes(), parsed) {
            record.mark(marks);
        }
        packet.translate(parsed, &record.wire());
        Some((record.tunnel(), record.usage()))
    }

    #[inline(always)]
    const fn is_stale(&self, before: Stamp) -> bool {
        self.now.wrapping_sub(before) >= self.recheck
    }

    /// Lets an answer pass, if it needs no question.
    #[inline(always)]
    fn pass_in<A: Addresses>(
        &self,
        record: &mut Record<A>,
        parsed: &Parsed,
        packet: &mut Packet,
    ) -> Option<UsageSlot> {
        let in_doubt = match parsed.message {
            _ if parsed.first_fragment => true,
            message @ Message::Tcp(_) => is_syn(message),
            Message::Udp => record.state().dns() != DnsFlow::No,
            _ => true,
        };
        // An entry that was ended has the generation of no rules.
        let is_current = record.generation() == self.generation && !self.generation.is_cold();
        if in_doubt || !is_current {
            return None;
        }
        record.saw_inbound(self.now, parsed.message);
        packet.translate(parsed, &record.device().reversed());
        Some(record.usage())
    }
}
