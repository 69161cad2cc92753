//! Flows that somebody behind a tunnel begins: let in by rule, within a quota, and answered through
//! the tunnel they came by.
//!
//! Such a flow is for the tunnel's own address and reaches the device's address of that subnet. Its
//! answers are found by the device key and go back through its tunnel: rules about owners are not
//! asked, for they say where flows go that begin here. When the inbound rules change, it is looked
//! at again with its next packet of either direction, and ends if it would not be let in any more.
//!
//! A rule may also let in what is for machines behind this host. Such a flow keeps its addresses: the
//! device has it as the tunnel does, and the system forwards it. Never to an address or a subnet of the
//! device itself, or whoever is behind one tunnel would reach others who are.
//!
//! If two tunnels bring the same remote address and port to one address of the device, or an
//! application talks to that remote already, the remote's *port* is translated for the later one:
//! refusing it would let whoever is behind one tunnel shut out somebody behind another.
//!
//! Outsiders choose how many flows they begin. Each rule has a quota, and at the quota the oldest
//! half-open flow of that rule goes, or one that is over. They never push out a flow of another rule or
//! of an application: when the table is full, only their own rule's make room.

use std::net::IpAddr;
use std::time::Instant;

use vpn_core::packet::{Message, Packet, Parsed, TcpMarks, tcp_flags};
use vpn_core::rule::FilterAction;
use vpn_core::{DropReason, FlowKey, Protocol, RuleId, TransportState, TunnelId};

use super::Router;
use super::dns::Asking;
use super::outbound::Outcome::{self, Drop, Send};
use super::outbound::{Known, is_routable, may_start_a_flow};
use super::owners::OUTSIDER;
use crate::conn::{Conn, ConnId, DnsFlow, Origin, Phase, Socket, Stamp};
use crate::nat::Endpoint;
use crate::rules::Admitted;

impl Router {
    /// A packet from a tunnel that is of no flow: enters one, if a rule lets it in.
    pub(super) fn admit(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        parsed: &Parsed,
        packet: &Packet,
    ) -> Result<ConnId, DropReason> {
        let received = parsed.flow;
        if self.rules.inbound().is_empty() || !may_start_a_flow(parsed.message) {
            return Err(DropReason::Unsolicited);
        }
        if let Message::Tcp(flags) = parsed.message
            && flags & (tcp_flags::RST | tcp_flags::FIN) != 0
        {
            return Err(DropReason::Unsolicited);
        }
        let to = (received.dst(), received.dst_port());
        let admitted = self
            .let_in(tunnel, received.protocol(), to, received.src())
            .ok_or(DropReason::Unsolicited)?;
        let local = self
            .device_address(tunnel, received.dst())
            .ok_or(DropReason::Unsolicited)?;
        let remote = self
            .local_address(tunnel, received.src())
            .ok_or(DropReason::AddressNotAllowed)?;
        if !is_routable(remote)
            || received.src() == received.dst()
            || self.allocator.is_on_device(remote)
        {
            return Err(DropReason::AddressNotAllowed);
        }
        let device = wanted_key(parsed, (local, admitted.port), remote);
        match self.screened_guest(tunnel, &device, received.dst_port()) {
            FilterAction::Accept => {}
            FilterAction::Drop => return Err(DropReason::BlockedByFilter),
            FilterAction::Reject => {
                self.reject_to_tunnel(now, tunnel, parsed, packet);
                return Err(DropReason::BlockedByFilter);
            }
        }
        self.make_room(now, admitted.rule)?;
        self.enter_guest(now, tunnel, parsed, device, admitted.rule)
    }

    /// What the rules in force say to a flow from `remote` to an address and port in the tunnel.
    fn let_in(
        &self,
        tunnel: TunnelId,
        protocol: Protocol,
        to: (IpAddr, u16),
        remote: IpAddr,
    ) -> Option<Admitted> {
        let rules = self.rules.inbound();
        match self.allocator.place_of(tunnel, to.0) {
            Some(_) => rules.admit(tunnel, protocol, to.1, remote),
            None if self.allocator.is_in_device_subnet(to.0) || !is_routable(to.0) => None,
            None => rules.admit_behind(tunnel, protocol, to, remote),
        }
    }

    /// The address on the device that stands for an address in this tunnel: one that is not the
    /// tunnel's stands for itself.
    fn device_address(&self, tunnel: TunnelId, addr: IpAddr) -> Option<IpAddr> {
        let slot = self.tunnels.get(tunnel)?;
        if !matches!(slot.state, TransportState::Up(_)) {
            return None;
        }
        Some(match self.allocator.place_of(tunnel, addr) {
            Some(place) if self.config.translate => place.on_device.addr(),
            _ => addr,
        })
    }

    fn enter_guest(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        parsed: &Parsed,
        wanted: FlowKey,
        rule: RuleId,
    ) -> Result<ConnId, DropReason> {
        let wire = parsed.flow.reversed();
        let device = self.free_device_key(wanted)?;
        if !self.claim(device) {
            return Err(DropReason::PortsExhausted);
        }
        let mapping = match parsed.message {
            Message::Udp => {
                let ends = [device, wire].map(|k| Endpoint::new(k.src(), k.src_port()));
                let space = (tunnel, wire.protocol());
                let exact = self.nat.acquire_exact(space, ends[0], ends[1]);
                // Another socket had the port before the rule came, and has it as long as it talks.
                Some(exact.ok_or_else(|| {
                    self.let_go(&device);
                    DropReason::PortsExhausted
                })?)
            }
            _ => None,
        };
        let usage = self.usages.acquire(OUTSIDER, tunnel);
        let conn = Conn {
            device,
            wire,
            tunnel,
            generation: self.generation,
            rule: Some(rule),
            usage,
            socket: Socket::default(),
            phase: Phase::asked(parsed.message),
            dns: DnsFlow::No,
            last_seen: now,
            last_outbound: now,
            answered: true,
            origin: Origin::Tunnel,
            marks: TcpMarks::default(),
            mapping,
        };
        let entered = self.conns.insert(conn, now, &mut self.removed);
        self.release_removed();
        match entered {
            Ok(id) => {
                let most = self.config.max_flows_per_inbound_rule;
                self.guests
                    .entered(&self.conns, rule, (id, tunnel, wire), most);
                Ok(id)
            }
            Err(_) => {
                self.let_go(&device);
                self.usages.release(usage);
                self.unmap(mapping);
                Err(DropReason::FlowTableFull)
            }
        }
    }

    /// The wanted device key, or the same with another port of the remote if a flow has it.
    fn free_device_key(&mut self, wanted: FlowKey) -> Result<FlowKey, DropReason> {
        let key = |port| wanted.with_destination(wanted.dst(), port);
        let (conns, shard) = (&self.conns, self.shard.as_deref());
        let elsewhere = |key: &FlowKey| shard.is_some_and(|shard| shard.is_elsewhere(key));
        let free = |port| conns.find_outbound(&key(port)).is_none() && !elsewhere(&key(port));
        Ok(match wanted.dst_port() {
            port if free(port) => key(port),
            _ => key(self.nat.ports().draw(free)?),
        })
    }

    /// Whether somebody behind a tunnel began this flow.
    pub(super) fn is_guest(&self, id: ConnId) -> bool {
        let conn = self.conns.get(id);
        conn.is_some_and(|conn| conn.origin == Origin::Tunnel)
    }

    /// Whether a packet from the device answers somebody behind a tunnel.
    pub(super) fn answers_guest(&self, flow: &FlowKey) -> bool {
        let found = self.conns.find_outbound(flow);
        found.is_some_and(|id| self.is_guest(id))
    }

    /// A packet from the device of a flow that began behind a tunnel.
    pub(super) fn answer_guest(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Asking<'_>,
        known: Known,
    ) -> Outcome {
        // What begins here, on the ports of a flow that began there, is no answer to it. In UDP
        // that cannot be told.
        if parsed.message != Message::Udp && may_start_a_flow(parsed.message) {
            return self.replace_flow(now, id, parsed, known);
        }
        if let Some(outcome) = self.after_the_end(now, id) {
            return outcome;
        }
        let stale = |c: Conn| c.generation != self.generation;
        if self.conns.get(id).is_some_and(stale)
            && let Some(outcome) = self.filtered_since(now, id)
        {
            return outcome;
        }
        if let Some(reason) = self.expelled(now, id) {
            return Drop(reason, None);
        }
        let sent = self.conns.change(id, |conn| {
            conn.saw_outbound(now, parsed.message);
            conn.tunnel
        });
        let Some(tunnel) = sent else {
            return Drop(DropReason::FlowTableFull, None);
        };
        match self.tunnels.get(tunnel).map(|slot| &slot.state) {
            Some(TransportState::Up(_)) => Send(id),
            Some(TransportState::Connecting) => Drop(DropReason::TunnelConnecting, Some(tunnel)),
            Some(_) => Drop(DropReason::TunnelDown, Some(tunnel)),
            None => Drop(DropReason::NoSuchTunnel, None),
        }
    }

    /// A flow may not go on. If it is a connection from behind a tunnel, its entry stays: what the
    /// server here still sends would be a new flow, through the tunnel that the server itself uses.
    pub(super) fn dismiss(&mut self, now: Stamp, id: ConnId) {
        let connection = |c: Conn| c.wire.protocol() == Protocol::TCP;
        if !self.is_guest(id) || !self.conns.get(id).is_some_and(connection) {
            return self.remove_flow(id);
        }
        self.end(now, id, Phase::TcpDropped);
        // It takes no place of its rule any more.
        let rule = self.conns.change(id, |conn| conn.rule.take()).flatten();
        if let Some(rule) = rule {
            self.guests.left(rule);
        }
    }

    /// The same for all from behind tunnels that are `gone`.
    pub(super) fn dismiss_guests(&mut self, now: Instant, gone: impl Fn(&Conn) -> bool) {
        let now = self.stamp(now);
        for slot in 0..self.conns.slots() {
            let id = self.conns.in_slot(slot).filter(|&id| self.is_guest(id));
            let found = id.and_then(|id| Some((id, self.conns.get(id)?)));
            if let Some((id, conn)) = found
                && !conn.phase.is_ended()
                && gone(&conn)
            {
                self.dismiss(now, id);
            }
        }
    }

    /// Whether somebody begins a connection anew on the ports of one that was ended.
    pub(super) fn begins_anew(&self, id: ConnId, message: Message) -> bool {
        let ended = self.conns.get(id).is_some_and(|c| c.phase.is_ended());
        ended && self.is_guest(id) && may_start_a_flow(message)
    }

    /// Looks again at a flow from behind a tunnel that other rules admitted; ends it if those in
    /// force would not let it in, to the same place.
    pub(super) fn expelled(&mut self, now: Stamp, id: ConnId) -> Option<DropReason> {
        let conn = self.conns.get(id)?;
        if conn.generation == self.generation {
            return None;
        }
        let (tunnel, device, wire) = (conn.tunnel, conn.device, conn.wire);
        if self.filtered_since(now, id).is_some() {
            return Some(DropReason::BlockedByFilter);
        }
        let to = (wire.src(), wire.src_port());
        let admitted = self.let_in(tunnel, wire.protocol(), to, wire.dst());
        match admitted.filter(|now| now.port == device.src_port()) {
            None => {
                self.dismiss(now, id);
                Some(DropReason::Unsolicited)
            }
            Some(admitted) => {
                let generation = self.generation;
                let before = self.conns.change(id, |conn| {
                    conn.generation = generation;
                    conn.rule.replace(admitted.rule)
                });
                if let Some(before) = before? {
                    self.guests.moved(before, admitted.rule);
                }
                None
            }
        }
    }
}

/// The key of a flow from behind a tunnel as the device has it.
fn wanted_key(parsed: &Parsed, local: (IpAddr, u16), remote: IpAddr) -> FlowKey {
    let answer = parsed.flow.reversed();
    answer
        .with_source(local.0, local.1)
        .with_destination(remote, answer.dst_port())
}
