//! The usual way of a packet: its flow's entry says everything, and is the only thing looked at.
//!
//! One compare says that the decision is current, whatever it followed from. Who is not on the usual
//! way has to ask something: an owner, rules, the filter, the state of a tunnel.

use vpn_core::packet::{Message, Packet, Parsed, TcpMarks};
use vpn_core::{Generation, TunnelId};

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
        packet: &mut Packet,
    ) -> Option<(TunnelId, UsageSlot)> {
        let parsed = &Parsed::from_bytes(packet.bytes()).ok()?;
        if !self.hold.is_empty() && self.hold.contains(&parsed.flow) {
            return None;
        }
        let id = self.conns.find_outbound(&parsed.flow)?;
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
    /// [`translate_inbound`](Self::translate_inbound) would do, without its questions; `None`, and
    /// nothing has happened, if one has to be asked.
    #[inline(always)]
    pub(super) fn settled_answer(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        packet: &mut Packet,
    ) -> Option<UsageSlot> {
        let parsed = &Parsed::from_bytes(packet.bytes()).ok()?;
        let id = self.conns.find_inbound(tunnel, &parsed.flow)?;
        let current = Current {
            now,
            generation: self.generation,
            recheck: self.recheck,
            tunnels: &self.tunnels,
        };
        match self.conns.record(id)? {
            RecordMut::V4(record) => current.pass_in(record, parsed, packet),
            RecordMut::V6(record) => current.pass_in(record, parsed, packet),
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
