//! From the device to a tunnel: owner, rule, translation.

use std::net::IpAddr;
use std::time::Instant;

use vpn_core::packet::{Message, Packet, Parsed, Rewrite, Side, tcp_flags};
use vpn_core::{
    DropReason, FlowKey, Owner, OwnerAnswer, OwnerDetail, OwnerQuery, Protocol, RuleId,
    TransportState, TunnelId,
};

use super::hold::{Awaits, Held};
use super::{Event, Router};
use crate::conn::{Conn, ConnId, InsertError, Phase, Stamp, Translation};
use crate::rules::Target;

/// Ports tried for a colliding flow before it is refused. Bounds the work per flow; with half of
/// the ports taken the chance of a miss is 2^-64.
const PORT_TRIES: u16 = 64;

/// First port given to a colliding flow: below are the well-known ones (RFC 6335 §6).
const FIRST_PORT: u16 = 1024;

/// The port of DNS (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// What is known of a packet's owner before it is routed.
enum Known {
    /// Nobody was asked yet.
    NotAsked,
    /// The resolver's answer.
    Answer(Option<Owner>),
}

/// What becomes of an outbound packet.
enum Outcome {
    Send(ConnId),
    Wait(Awaits),
    Drop(DropReason, Option<TunnelId>),
}

use Outcome::{Drop, Send, Wait};

impl Router {
    /// Routes one packet. Returns it if its buffer is free again.
    pub(super) fn outbound(&mut self, now: Stamp, mut packet: Packet) -> Option<Packet> {
        let parsed = match packet.parse() {
            Ok(parsed) => parsed,
            Err(_) => {
                self.count_drop(None, DropReason::Malformed, 1);
                return Some(packet);
            }
        };
        if !self.hold.is_empty() && self.hold.contains(&parsed.flow) {
            // Behind its predecessors, whatever this packet alone would get.
            if !self.hold.append(&parsed.flow, &packet) {
                self.count_drop(None, DropReason::HoldFull, 1);
            }
            return Some(packet);
        }
        let outcome = self.decide(now, &parsed, Known::NotAsked);
        self.act(now, parsed, packet, outcome)
    }

    /// An owner became known: its flow's packets go on.
    pub(super) fn owner_answer(&mut self, now: Instant, query: OwnerQuery, answer: OwnerAnswer) {
        let awaited = self.hold.get(&query.flow).map(|held| &held.awaits);
        // A late answer, or one to an older and less detailed question.
        if awaited != Some(&Awaits::Owner(query.detail)) {
            return;
        }
        let owner = match answer {
            OwnerAnswer::Known(owner) => Some(owner),
            OwnerAnswer::Pending => return,
            OwnerAnswer::Unknown => None,
        };
        if let Some(held) = self.hold.take(&query.flow) {
            self.release(self.stamp(now), held, owner);
        }
    }

    /// A tunnel came up: the packets that wait for it go on.
    pub(super) fn release_held_for(&mut self, now: Instant, tunnel: TunnelId) {
        let stamp = self.stamp(now);
        for mut held in self.hold.take_for_tunnel(tunnel) {
            let Awaits::Tunnel(_, owner) = &mut held.awaits else { continue };
            let owner = owner.take();
            self.release(stamp, held, owner);
        }
    }

    fn release(&mut self, now: Stamp, held: Held, owner: Option<Owner>) {
        for mut packet in held.packets {
            match packet.parse() {
                // The first of them may have to wait for something else: the rest follows it.
                Ok(parsed) if self.hold.contains(&parsed.flow) => {
                    if !self.hold.append(&parsed.flow, &packet) {
                        self.count_drop(None, DropReason::HoldFull, 1);
                    }
                }
                Ok(parsed) => {
                    let outcome = self.decide(now, &parsed, Known::Answer(owner.clone()));
                    self.act(now, parsed, packet, outcome);
                }
                Err(_) => self.count_drop(None, DropReason::Malformed, 1),
            }
        }
    }

    pub(super) fn drop_held(&mut self, held: Held, reason: DropReason) {
        let tunnel = match held.awaits {
            Awaits::Tunnel(tunnel, _) => Some(tunnel),
            Awaits::Owner(_) => None,
        };
        self.count_drop(tunnel, reason, held.packets.len() as u64);
    }

    fn act(
        &mut self,
        now: Stamp,
        parsed: Parsed,
        packet: Packet,
        outcome: Outcome,
    ) -> Option<Packet> {
        match outcome {
            Send(id) => self.send(id, packet),
            Wait(awaits) => {
                let query = match &awaits {
                    Awaits::Owner(detail) => Some(OwnerQuery { flow: parsed.flow, detail: *detail }),
                    Awaits::Tunnel(..) => None,
                };
                if self.hold.begin(now, parsed.flow, awaits, &packet) {
                    self.events.extend(query.map(Event::ResolveOwner));
                } else {
                    self.count_drop(None, DropReason::HoldFull, 1);
                }
                Some(packet)
            }
            Drop(reason, tunnel) => {
                self.count_drop(tunnel, reason, 1);
                Some(packet)
            }
        }
    }

    /// Translates a packet of an entered flow and queues it for its tunnel.
    fn send(&mut self, id: ConnId, mut packet: Packet) -> Option<Packet> {
        let conn = self.conns.get(id);
        let slot = conn.and_then(|conn| self.tunnels.get_mut(conn.tunnel));
        let (Some(conn), Some(slot)) = (conn, slot) else {
            self.count_drop(None, DropReason::NoSuchTunnel, 1);
            return Some(packet);
        };
        if let Some((out, _)) = &conn.translation.source {
            out.apply(&mut packet);
        }
        if let Some((out, _)) = &conn.translation.destination {
            out.apply(&mut packet);
        }
        let bytes = packet.len() as u64;
        match slot.queue.push(packet) {
            Ok(()) => {
                slot.counters.tx_packets += 1;
                slot.counters.tx_bytes += bytes;
                None
            }
            Err(packet) => {
                slot.counters.drops.count(DropReason::QueueFull);
                Some(packet)
            }
        }
    }

    fn decide(&mut self, now: Stamp, parsed: &Parsed, known: Known) -> Outcome {
        match parsed.message {
            Message::Tcp(_) | Message::Udp | Message::EchoRequest => {}
            Message::LaterFragment => return Drop(DropReason::Fragment, None),
            _ if !is_routable(parsed.flow.dst()) => return Drop(DropReason::NotRoutable, None),
            _ => return Drop(DropReason::Unsupported, None),
        }
        match self.conns.find_outbound(&parsed.flow) {
            Some(id) => self.known_flow(now, id, parsed, known),
            None => self.new_flow(now, parsed, known),
        }
    }

    /// A flow in the table: the usual way.
    fn known_flow(&mut self, now: Stamp, id: ConnId, parsed: &Parsed, known: Known) -> Outcome {
        let Some(conn) = self.conns.get_mut(id) else {
            return Drop(DropReason::FlowTableFull, None);
        };
        if may_start_a_flow(parsed.message) {
            let idle = u128::from(now.wrapping_sub(conn.last_outbound));
            let stale = idle >= self.config.recheck_owner.as_millis();
            match &known {
                Known::NotAsked if stale => {
                    if let Some(detail) = self.rules.needs_owner(&parsed.flow) {
                        return Wait(Awaits::Owner(detail));
                    }
                }
                Known::NotAsked => {}
                Known::Answer(owner) => {
                    let same = match owner {
                        Some(o) => self.owners.is(conn.owner, o) && conn.socket == o.socket,
                        None => self.rules.needs_owner(&parsed.flow).is_none(),
                    };
                    if !same {
                        return self.replace_flow(now, id, parsed, known);
                    }
                }
            }
            let over = matches!(conn.phase, Phase::TcpClosing | Phase::TcpClosed);
            if over && matches!(parsed.message, Message::Tcp(_)) {
                return self.replace_flow(now, id, parsed, known);
            }
        }
        if conn.generation != self.generation
            && let Some(outcome) = self.revalidate(now, id, parsed, known)
        {
            return outcome;
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return Drop(DropReason::FlowTableFull, None);
        };
        conn.last_seen = now;
        conn.last_outbound = now;
        conn.phase = conn.phase.after(parsed.message, false);
        let (tunnel, owner) = (conn.tunnel, conn.owner);
        match self.tunnels.get(tunnel).map(|slot| &slot.state) {
            Some(TransportState::Up(_)) => Send(id),
            Some(TransportState::Connecting) => {
                Wait(Awaits::Tunnel(tunnel, self.owners.get(owner).cloned()))
            }
            Some(_) => Drop(DropReason::TunnelDown, Some(tunnel)),
            None => Drop(DropReason::NoSuchTunnel, None),
        }
    }

    /// The rules changed since the flow's decision was made. `None`: the flow goes on as it was.
    ///
    /// A live TCP connection keeps its tunnel when its app moves to another one, since it cannot
    /// survive a change of address; what is blocked now ends at once. Everything else moves.
    fn revalidate(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Parsed,
        known: Known,
    ) -> Option<Outcome> {
        let conn = self.conns.get(id)?;
        let owner = self.owners.get(conn.owner);
        let knows_enough = match self.rules.needs_owner(&conn.device) {
            None => true,
            Some(OwnerDetail::Uid) => owner.is_some(),
            Some(OwnerDetail::Executable) => owner.is_some_and(|o| o.executable.is_some()),
        };
        if !knows_enough && matches!(known, Known::NotAsked) {
            let detail = self.rules.needs_owner(&conn.device).unwrap_or_default();
            return Some(Wait(Awaits::Owner(detail)));
        }
        if !knows_enough {
            return Some(self.replace_flow(now, id, parsed, known));
        }
        let decision = self.rules.decide(owner, &conn.device);
        match decision.action {
            Target::Block(reason) => {
                let tunnel = conn.tunnel;
                self.remove_flow(id);
                return Some(Drop(reason, Some(tunnel)));
            }
            Target::Tunnel(tunnel) if tunnel != conn.tunnel && !conn.phase.is_live_tcp() => {
                let owner = owner.map(|o| Owner { socket: conn.socket, ..o.clone() });
                return Some(self.replace_flow(now, id, parsed, Known::Answer(owner)));
            }
            Target::Tunnel(_) => {}
        }
        let generation = self.generation;
        let conn = self.conns.get_mut(id)?;
        conn.generation = generation;
        conn.rule = decision.rule;
        None
    }

    fn remove_flow(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(id) {
            self.owners.release(conn.owner);
        }
    }

    fn replace_flow(&mut self, now: Stamp, id: ConnId, parsed: &Parsed, known: Known) -> Outcome {
        self.remove_flow(id);
        self.new_flow(now, parsed, known)
    }

    /// A flow that is not in the table.
    fn new_flow(&mut self, now: Stamp, parsed: &Parsed, known: Known) -> Outcome {
        let flow = parsed.flow;
        if !is_routable(flow.dst()) {
            return Drop(DropReason::NotRoutable, None);
        }
        if self.generation.is_cold() {
            return Drop(DropReason::RulesCold, None);
        }
        let owner = match (self.rules.needs_owner(&flow), known) {
            (Some(detail), Known::NotAsked) => return Wait(Awaits::Owner(detail)),
            (Some(_), Known::Answer(None)) => return Drop(DropReason::OwnerUnknown, None),
            (None, Known::NotAsked) => None,
            (_, Known::Answer(owner)) => owner,
        };
        let decision = self.rules.decide(owner.as_ref(), &flow);
        match decision.action {
            Target::Block(reason) => Drop(reason, None),
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
        let source = if self.config.translate { source } else { flow.src() };
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

    /// Whether a flow is a query to an address that stands for "the resolver of my tunnel": the
    /// virtual one, one the system names, or another tunnel's.
    pub(super) fn steers(&self, flow: &FlowKey) -> bool {
        let dns = flow.dst_port() == DNS_PORT
            && matches!(flow.protocol(), Protocol::UDP | Protocol::TCP);
        let resolves = |addr: IpAddr| {
            self.config.resolvers.contains(&addr)
                || self.config.steered.contains(&addr)
                || self
                    .tunnels
                    .iter()
                    .filter_map(|(_, t)| t.assigned.as_ref())
                    .any(|assigned| assigned.dns.contains(&addr))
        };
        dns && resolves(flow.dst())
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

/// Messages that a program could have sent from a socket it has only just got.
fn may_start_a_flow(message: Message) -> bool {
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
