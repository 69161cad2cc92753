//! New flows: owner, rule, translation, entry.

use std::net::IpAddr;

use vpn_core::packet::{Parsed, Rewrite, Side};
use vpn_core::{DropReason, FlowKey, Owner, RuleId, TransportState, TunnelId};

use super::Router;
use super::dns::Asking;
use super::hold::Awaits;
use super::outbound::Outcome::{self, Drop, Send, Wait};
use super::outbound::{Known, is_routable, knows_enough};
use crate::conn::{Conn, InsertError, Phase, Stamp, Translation};
use crate::rules::Target;

/// Ports tried for a colliding flow before it is refused. Bounds the work per flow; with half of
/// the ports taken the chance of a miss is 2^-64.
const PORT_TRIES: u16 = 64;

/// First port given to a colliding flow: below are the well-known ones (RFC 6335 §6).
const FIRST_PORT: u16 = 1024;

impl Router {
    /// A flow that is not in the table.
    pub(super) fn new_flow(&mut self, now: Stamp, parsed: &Asking<'_>, known: Known) -> Outcome {
        let flow = parsed.flow;
        if !is_routable(flow.dst()) {
            return Drop(DropReason::NotRoutable, None);
        }
        if self.generation.is_cold() {
            return Drop(DropReason::RulesCold, None);
        }
        let needs = self.needs_owner(now, &flow, parsed.name());
        let owner = match (needs, known) {
            (Some(detail), Known::NotAsked) => return Wait(Awaits::Owner(detail)),
            // Rules that came while it waited want to know more than was asked.
            (Some(detail), Known::Answer(asked, owner))
                if asked < needs && !knows_enough(needs, owner.as_ref()) =>
            {
                return Wait(Awaits::Owner(detail));
            }
            (None, Known::NotAsked) => None,
            (_, Known::Answer(_, owner)) => owner,
        };
        let decision = self.decision(now, owner.as_ref(), &flow, parsed.name());
        match decision.rule {
            Some(_) => self.rule_stats.hits += 1,
            None => self.rule_stats.misses += 1,
        }
        match decision.action {
            Target::Block(reason) => Drop(reason, None),
            Target::Group(_) => Drop(DropReason::NoSuchTunnel, None),
            Target::Tunnel(tunnel) => self.enter(now, parsed, owner, tunnel, decision.rule),
        }
    }

    /// Enters a new flow, if its tunnel takes it.
    fn enter(
        &mut self,
        now: Stamp,
        parsed: &Parsed,
        owner: Option<Owner>,
        tunnel: TunnelId,
        rule: Option<RuleId>,
    ) -> Outcome {
        let flow = parsed.flow;
        let Some(slot) = self.tunnels.get(tunnel) else {
            return Drop(DropReason::NoSuchTunnel, None);
        };
        match slot.state {
            TransportState::Up(_) => {}
            TransportState::Connecting => return Wait(Awaits::Tunnel(tunnel, owner)),
            _ => return Drop(DropReason::TunnelDown, Some(tunnel)),
        }
        let Some(source) = slot.address(flow.family()) else {
            return Drop(DropReason::FamilyNotCarried, Some(tunnel));
        };
        let source = if self.config.translate {
            source
        } else {
            flow.src()
        };
        let resolver = match self.steers(&flow) {
            true => match slot.resolver(flow.family()) {
                Some(resolver) => resolver,
                None => return Drop(DropReason::NoResolver, Some(tunnel)),
            },
            false => flow.dst(),
        };
        let wanted = flow
            .with_source(source, flow.src_port())
            .with_destination(resolver, flow.dst_port());
        let Some(wire) = self.free_wire_key(tunnel, wanted) else {
            return Drop(DropReason::PortsExhausted, Some(tunnel));
        };
        let quota = self.config.max_flows_per_owner;
        let Some(owner_slot) = self.owners.acquire(owner.as_ref(), quota) else {
            return Drop(DropReason::OwnerQuota, Some(tunnel));
        };
        let conn = Conn {
            device: flow,
            wire,
            tunnel,
            translation: translation(&flow, &wire),
            generation: self.generation,
            rule,
            owner: owner_slot,
            socket: owner.map_or(0, |o| o.socket),
            phase: Phase::first(parsed.message),
            dns: self.dns_flow(&flow),
            last_seen: now,
            last_outbound: now,
        };
        let entered = self.conns.insert(conn, now, &mut self.removed);
        self.release_removed();
        match entered {
            Ok(id) => Send(id),
            Err(error) => {
                self.owners.release(owner_slot);
                Drop(
                    match error {
                        InsertError::Full => DropReason::FlowTableFull,
                        InsertError::WireTaken => DropReason::PortsExhausted,
                    },
                    Some(tunnel),
                )
            }
        }
    }

    /// The wanted wire key, or the same with another source port if another flow has it.
    fn free_wire_key(&self, tunnel: TunnelId, wanted: FlowKey) -> Option<FlowKey> {
        if self.conns.find_wire(tunnel, &wanted).is_none() {
            return Some(wanted);
        }
        // Steps of an odd stride visit every port once before any repeats.
        let stride = wanted.src_port() | 1;
        let mut port = wanted.src_port();
        (0..PORT_TRIES)
            .map(|_| {
                port = port.wrapping_add(stride);
                wanted.with_source(wanted.src(), port.max(FIRST_PORT))
            })
            .find(|key| self.conns.find_wire(tunnel, key).is_none())
    }
}

/// What leads from the device key to the wire key, and back.
fn translation(device: &FlowKey, wire: &FlowKey) -> Translation {
    let pair = |old: (IpAddr, u16), new: (IpAddr, u16), out: Side, back: Side| {
        (old != new).then(|| (Rewrite::new(out, old, new), Rewrite::new(back, new, old)))
    };
    Translation {
        source: pair(
            (device.src(), device.src_port()),
            (wire.src(), wire.src_port()),
            Side::Source,
            Side::Destination,
        ),
        destination: pair(
            (device.dst(), device.dst_port()),
            (wire.dst(), wire.dst_port()),
            Side::Destination,
            Side::Source,
        ),
    }
}
