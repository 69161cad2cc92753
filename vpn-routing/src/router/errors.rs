//! ICMP errors: found by the packet they quote, and translated with it.
//!
//! An error comes from any router on the way, so neither its source nor its own header tells which
//! flow it is about; the quoted packet does. It counts only for a flow of the very tunnel it came
//! through, sent to the address that flow has there; everything else is somebody's attempt to
//! speak to an app uninvited (RFC 5508 §4.2, RFC 5927).

use vpn_core::packet::{Complaint, Packet, Parsed, Quoted, Requote};
use vpn_core::rule::{FilterAction, FilterDirection};
use vpn_core::{DropReason, TransportState, TunnelId};

use super::Router;
use super::config::{Answer, Answers};
use super::outbound::is_routable;
use crate::conn::Stamp;

impl Router {
    /// An error from a tunnel about a packet that an application sent.
    pub(super) fn inbound_error(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        parsed: &Parsed,
        packet: &mut Packet,
    ) -> Result<(), DropReason> {
        let quoted = Quoted::of(packet.bytes(), parsed).ok_or(DropReason::Unsupported)?;
        if quoted.flow.src() != parsed.flow.dst() {
            return Err(DropReason::Unsolicited);
        }
        let id = self
            .conns
            .find_wire(tunnel, &quoted.flow)
            .ok_or(DropReason::Unsolicited)?;
        let conn = self.conns.get(id).ok_or(DropReason::Unsolicited)?;
        if conn.generation != self.generation
            && let Some(reason) = self.blocked_since(now, id, None)
        {
            return Err(reason);
        }
        self.screened_message(FilterDirection::Inbound, tunnel, parsed, packet)?;
        let conn = self.conns.get(id).ok_or(DropReason::Unsolicited)?;
        let from = match parsed.flow.src() {
            // The far end itself, which the application may know under another address.
            from if from == conn.wire.dst() => conn.device.dst(),
            from => {
                let known = self.local_address(tunnel, from);
                let known = known.filter(|&a| is_routable(a) && !self.allocator.is_on_device(a));
                known.ok_or(DropReason::AddressNotAllowed)?
            }
        };
        let requote = Requote {
            from,
            to: conn.device.src(),
            flow: conn.device,
        };
        requote.apply(packet, parsed, &quoted);
        Ok(())
    }

    /// An error that this host sends about a packet that came from a tunnel. Returns the packet if
    /// its buffer is free again.
    pub(super) fn outbound_error(
        &mut self,
        now: Stamp,
        parsed: &Parsed,
        mut packet: Packet,
    ) -> Option<Packet> {
        match self.translate_error(now, parsed, &mut packet) {
            Ok(tunnel) => {
                let slot = self.tunnels.get_mut(tunnel)?;
                let bytes = packet.len() as u64;
                match slot.queue.push(packet) {
                    Ok(()) => {
                        slot.counters.tx_packets += 1;
                        slot.counters.tx_bytes += bytes;
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
            Err(reason) => {
                self.count_drop(None, reason, 1);
                Some(packet)
            }
        }
    }

    fn translate_error(
        &mut self,
        now: Stamp,
        parsed: &Parsed,
        packet: &mut Packet,
    ) -> Result<TunnelId, DropReason> {
        if !is_routable(parsed.flow.dst()) {
            return Err(DropReason::NotRoutable);
        }
        let quoted = Quoted::of(packet.bytes(), parsed).ok_or(DropReason::Unsupported)?;
        let flow = quoted.flow.reversed();
        let known = self.conns.find_outbound(&flow);
        let id = known.ok_or(DropReason::Unsupported)?;
        let conn = self.conns.get(id).ok_or(DropReason::Unsupported)?;
        // To whom the quoted packet came from, and nobody else: also not through the tunnel that
        // the flow has moved to, which never saw it.
        if conn.device.dst() != parsed.flow.dst() || !conn.answered {
            return Err(DropReason::Unsupported);
        }
        if conn.generation != self.generation
            && let Some(reason) = self.blocked_since(now, id, None)
        {
            return Err(reason);
        }
        let conn = self.conns.get(id).ok_or(DropReason::Unsupported)?;
        let (tunnel, wire) = (conn.tunnel, conn.wire);
        let slot = self.tunnels.get(tunnel).ok_or(DropReason::NoSuchTunnel)?;
        if !matches!(slot.state, TransportState::Up(_)) {
            return Err(DropReason::TunnelDown);
        }
        self.screened_message(FilterDirection::Outbound, tunnel, parsed, packet)?;
        let requote = Requote {
            from: wire.src(),
            to: wire.dst(),
            flow: wire.reversed(),
        };
        requote.apply(packet, parsed, &quoted);
        Ok(tunnel)
    }

    /// What the filter says to one message that is no flow.
    fn screened_message(
        &self,
        direction: FilterDirection,
        tunnel: TunnelId,
        parsed: &Parsed,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        match self.judge_message(direction, tunnel, parsed, packet) {
            FilterAction::Accept => Ok(()),
            // An error is never answered.
            FilterAction::Drop | FilterAction::Reject => Err(DropReason::BlockedByFilter),
        }
    }

    /// Tells an application that its packet was dropped, where that is wanted.
    pub(super) fn answer_drop(
        &mut self,
        now: Stamp,
        reason: DropReason,
        parsed: &Parsed,
        packet: &Packet,
    ) {
        if answer_to(&self.config.answers, reason) != Answer::Reject {
            return;
        }
        match reason {
            // Not "refused", which would be final, but "no way of this family".
            DropReason::FamilyNotCarried => {
                self.complain_to_app(now, Complaint::NoRoute, parsed, packet);
            }
            _ => self.reject_to_app(now, parsed, packet),
        }
    }
}

fn answer_to(answers: &Answers, reason: DropReason) -> Answer {
    match reason {
        DropReason::BlockedByRule | DropReason::BlockedByDefault => answers.blocked,
        DropReason::OwnerUnknown | DropReason::OwnerTimeout => answers.unknown_owner,
        DropReason::TunnelDown | DropReason::NoSuchTunnel => answers.down,
        DropReason::FamilyNotCarried => answers.no_family,
        DropReason::NoResolver => answers.no_resolver,
        DropReason::RulesCold => answers.cold,
        _ => Answer::Drop,
    }
}
