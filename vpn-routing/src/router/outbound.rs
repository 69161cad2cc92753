//! From the device to a tunnel: owner, rule, translation.

use std::net::IpAddr;
use std::time::Instant;

use vpn_core::packet::{Message, Packet, Parsed, Rewrite, Side, tcp_flags};
use vpn_core::{
    DropReason, FlowKey, Owner, OwnerAnswer, OwnerDetail, OwnerQuery, Protocol, RuleId,
    TransportState, TunnelId,
};

use super::hold::{Awaits, Begun, Held};
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
    /// The resolver's answer, and what it was asked for; `None` if that was for another wait.
    Answer(Option<OwnerDetail>, Option<Owner>),
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
            if !self.hold.append(now, &parsed.flow, &packet) {
                self.count_drop(None, DropReason::HoldFull, 1);
            }
            return Some(packet);
        }
        let outcome = self.decide(now, &parsed, Known::NotAsked);
        self.act(now, now, &parsed, packet, outcome)
    }

    /// An owner became known: its flow's packets go on.
    pub(super) fn owner_answer(&mut self, now: Instant, query: OwnerQuery, answer: OwnerAnswer) {
        let owner = match answer {
            OwnerAnswer::Known(owner) => Some(owner),
            OwnerAnswer::Pending => return,
            OwnerAnswer::Unknown => None,
        };
        match self.hold.answered(&query) {
            Ok(Some(held)) => self.release(self.stamp(now), held, Some(query.detail), owner),
            Ok(None) => {}
            Err(again) => self.events.push_back(Event::ResolveOwner(again)),
        }
    }

    /// A tunnel came up: the packets that wait for it go on.
    pub(super) fn release_held_for(&mut self, now: Instant, tunnel: TunnelId) {
        let held = self.hold.take_waiting_for_tunnel(|_, t, _| t == tunnel);
        self.release_all(now, held);
    }

    /// The rules changed: packets that wait for a tunnel that is not theirs any more go on.
    pub(super) fn release_redirected(&mut self, now: Instant) {
        let rules = std::sync::Arc::clone(&self.rules);
        let held = self.hold.take_waiting_for_tunnel(|flow, tunnel, owner| {
            rules.decide(owner, flow).action != Target::Tunnel(tunnel)
        });
        self.release_all(now, held);
    }

    fn release_all(&mut self, now: Instant, all: Vec<Held>) {
        let stamp = self.stamp(now);
        for mut held in all {
            let Awaits::Tunnel(_, owner) = &mut held.awaits else {
                continue;
            };
            let owner = owner.take();
            self.release(stamp, held, None, owner);
        }
    }

    /// Routes what was held, each packet as of the time it came: the answer counts for the first
    /// and for those that followed too closely for the port to have changed hands.
    fn release(
        &mut self,
        now: Stamp,
        held: Held,
        asked: Option<OwnerDetail>,
        owner: Option<Owner>,
    ) {
        let (mut before, mut same) = (None, true);
        for (came, mut packet) in held.packets {
            let Ok(parsed) = packet.parse() else {
                self.count_drop(None, DropReason::Malformed, 1);
                continue;
            };
            let close = before.is_none_or(|before| !self.is_stale(came, before));
            same &= close || !may_start_a_flow(parsed.message);
            before = Some(came);
            // The first of them may have to wait for something else: the rest follows it.
            if self.hold.contains(&parsed.flow) {
                if !self.hold.append(came, &parsed.flow, &packet) {
                    self.count_drop(None, DropReason::HoldFull, 1);
                }
                continue;
            }
            let known = match same {
                true => Known::Answer(asked, owner.clone()),
                false => Known::NotAsked,
            };
            let outcome = self.decide(came, &parsed, known);
            self.act(now, came, &parsed, packet, outcome);
        }
    }

    /// Whether a port may have changed hands between two packets.
    fn is_stale(&self, now: Stamp, before: Stamp) -> bool {
        u128::from(now.wrapping_sub(before)) >= self.config.recheck_owner.as_millis()
    }

    pub(super) fn drop_held(&mut self, held: Held, reason: DropReason) {
        let tunnel = match held.awaits {
            Awaits::Tunnel(tunnel, _) => Some(tunnel),
            Awaits::Owner(_) => None,
        };
        self.count_drop(tunnel, reason, held.packets.len() as u64);
    }

    /// Does what was decided `now` about a packet that came at `came`.
    fn act(
        &mut self,
        now: Stamp,
        came: Stamp,
        parsed: &Parsed,
        packet: Packet,
        outcome: Outcome,
    ) -> Option<Packet> {
        match outcome {
            Send(id) => return self.send(id, packet),
            Wait(awaits) => {
                let flow = parsed.flow;
                let question = match awaits {
                    Awaits::Owner(detail) => Some(OwnerQuery { flow, detail }),
                    Awaits::Tunnel(..) => None,
                };
                match self.hold.begin(now, came, flow, awaits, &packet) {
                    Begun::Ask => self.events.extend(question.map(Event::ResolveOwner)),
                    Begun::Wait => {}
                    Begun::Full => {
                        if question.is_some() {
                            self.forget_doubtful(&flow);
                        }
                        self.count_drop(None, DropReason::HoldFull, 1);
                    }
                }
            }
            Drop(reason, tunnel) => self.count_drop(tunnel, reason, 1),
        }
        Some(packet)
    }

    /// Translates a packet of an entered flow and queues it for its tunnel.
    fn send(&mut self, id: ConnId, mut packet: Packet) -> Option<Packet> {
        let conn = self.conns.get(id);
        let slot = conn.and_then(|conn| self.tunnels.get_mut(conn.tunnel));
        let (Some(conn), Some(slot)) = (conn, slot) else {
            self.count_drop(None, DropReason::NoSuchTunnel, 1);
            return Some(packet);
        };
        let tunnel = conn.tunnel;
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

    fn decide(&mut self, now: Stamp, parsed: &Parsed, known: Known) -> Outcome {
        match parsed.message {
            // The rest of it could not follow: half a datagram is of no use to anybody.
            _ if parsed.first_fragment => return Drop(DropReason::Fragment, None),
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
    #[inline]
    fn known_flow(&mut self, now: Stamp, id: ConnId, parsed: &Parsed, known: Known) -> Outcome {
        let known = match may_start_a_flow(parsed.message) {
            true => match self.recheck(now, id, parsed, known) {
                Ok(known) => known,
                Err(outcome) => return outcome,
            },
            false => known,
        };
        let Some(conn) = self.conns.get_mut(id) else {
            return Drop(DropReason::FlowTableFull, None);
        };
        if conn.generation != self.generation {
            return match self.revalidate(now, id, parsed, known) {
                Some(outcome) => outcome,
                None => self.pass(now, id, parsed),
            };
        }
        self.pass(now, id, parsed)
    }

    /// A packet of a flow whose decision stands.
    #[inline]
    fn pass(&mut self, now: Stamp, id: ConnId, parsed: &Parsed) -> Outcome {
        let Some(conn) = self.conns.get_mut(id) else {
            return Drop(DropReason::FlowTableFull, None);
        };
        conn.last_seen = now;
        conn.last_outbound = now;
        conn.phase = conn.phase.after(parsed.message, false);
        let tunnel = conn.tunnel;
        match self.tunnels.get(tunnel).map(|slot| &slot.state) {
            Some(TransportState::Up(_)) => Send(id),
            Some(TransportState::Connecting) => {
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
        parsed: &Parsed,
        known: Known,
    ) -> Result<Known, Outcome> {
        let Some(conn) = self.conns.get(id) else {
            return Ok(known);
        };
        let phase = conn.phase;
        let needs = self.rules.needs_owner(&parsed.flow);
        match (&known, needs) {
            (Known::NotAsked, Some(detail)) if self.is_stale(now, conn.last_outbound) => {
                return Err(Wait(Awaits::Owner(detail)));
            }
            (Known::NotAsked, _) => {}
            (Known::Answer(_, owner), _) => {
                let same = match owner {
                    Some(o) => self.owners.is(conn.owner, o) && conn.socket == o.socket,
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

    /// The owner of a flow in the table, with the socket.
    fn owner_of(&self, id: ConnId) -> Option<Owner> {
        let conn = self.conns.get(id)?;
        let owner = self.owners.get(conn.owner)?.clone();
        Some(Owner {
            socket: conn.socket,
            ..owner
        })
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
        let needs = self.rules.needs_owner(&conn.device);
        if !knows_enough(needs, self.owners.get(conn.owner)) {
            match known {
                Known::Answer(asked, owner) if asked >= needs => {
                    if owner.is_none() {
                        self.remove_flow(id);
                        return Some(Drop(DropReason::OwnerUnknown, None));
                    }
                    if let Some(outcome) = self.learn_owner(id, owner) {
                        return Some(outcome);
                    }
                }
                _ => return Some(Wait(Awaits::Owner(needs.unwrap_or_default()))),
            }
        }
        let conn = self.conns.get(id)?;
        let decision = self.rules.decide(self.owners.get(conn.owner), &conn.device);
        match decision.action {
            Target::Block(reason) => {
                let tunnel = conn.tunnel;
                self.remove_flow(id);
                return Some(Drop(reason, Some(tunnel)));
            }
            Target::Tunnel(tunnel) if tunnel != conn.tunnel && !conn.phase.is_live_tcp() => {
                let known = Known::Answer(needs, self.owner_of(id));
                return Some(self.replace_flow(now, id, parsed, known));
            }
            Target::Tunnel(_) => {}
        }
        let generation = self.generation;
        let conn = self.conns.get_mut(id)?;
        conn.generation = generation;
        conn.rule = decision.rule;
        None
    }

    /// Counts a flow under its owner, which rules did not ask for before.
    fn learn_owner(&mut self, id: ConnId, owner: Option<Owner>) -> Option<Outcome> {
        let quota = self.config.max_flows_per_owner;
        let slot = self.owners.acquire(owner.as_ref(), quota);
        let Some(slot) = slot else {
            self.remove_flow(id);
            return Some(Drop(DropReason::OwnerQuota, None));
        };
        let conn = self.conns.get_mut(id)?;
        let old = std::mem::replace(&mut conn.owner, slot);
        conn.socket = owner.map_or(0, |o| o.socket);
        self.owners.release(old);
        None
    }

    /// What the rules in force say to an inbound packet of a flow decided under others: only
    /// whether it is blocked now. Moving is for the next outbound packet.
    pub(super) fn blocked_since(&mut self, id: ConnId) -> Option<DropReason> {
        let conn = self.conns.get_mut(id)?;
        let needs = self.rules.needs_owner(&conn.device);
        let owner = self.owners.get(conn.owner);
        if !knows_enough(needs, owner) {
            return None;
        }
        let decision = self.rules.decide(owner, &conn.device);
        match decision.action {
            Target::Block(reason) => {
                self.remove_flow(id);
                Some(reason)
            }
            Target::Tunnel(tunnel) => {
                if tunnel == conn.tunnel {
                    conn.generation = self.generation;
                    conn.rule = decision.rule;
                }
                None
            }
        }
    }

    /// A flow whose owner was in doubt, and stays so: what comes next must not be taken for the
    /// former owner's.
    pub(super) fn forget_doubtful(&mut self, flow: &FlowKey) {
        if let Some(id) = self.conns.find_outbound(flow) {
            self.remove_flow(id);
        }
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
        let needs = self.rules.needs_owner(&flow);
        let owner = match (needs, known) {
            (Some(detail), Known::NotAsked) => return Wait(Awaits::Owner(detail)),
            // Rules that came while it waited want to know more than was asked.
            (Some(detail), Known::Answer(asked, owner))
                if asked < needs && !knows_enough(needs, owner.as_ref()) =>
            {
                return Wait(Awaits::Owner(detail));
            }
            (Some(_), Known::Answer(_, None)) => return Drop(DropReason::OwnerUnknown, None),
            (None, Known::NotAsked) => None,
            (_, Known::Answer(_, owner)) => owner,
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
        let dns =
            flow.dst_port() == DNS_PORT && matches!(flow.protocol(), Protocol::UDP | Protocol::TCP);
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

/// Whether this much of an owner is known.
fn knows_enough(needs: Option<OwnerDetail>, owner: Option<&Owner>) -> bool {
    match needs {
        None => true,
        Some(OwnerDetail::Uid) => owner.is_some(),
        Some(OwnerDetail::Executable) => owner.is_some_and(|o| o.executable.is_some()),
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
