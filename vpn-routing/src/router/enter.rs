//! New flows: owner, rule, translation, entry.

use vpn_core::packet::{Message, Parsed, TcpMarks, tcp_flags};
use vpn_core::{DropReason, Owner, Protocol, RuleId, TransportState, TunnelId};

use super::Router;
use super::dns::Asking;
use super::hold::Awaits;
use super::outbound::Outcome::{self, Drop, Send, Wait};
use super::outbound::{Known, is_routable, may_start_a_flow};
use super::resolve::Way;
use super::revalidate::knows_enough;
use super::screen::filter_outcome;
use crate::conn::{Conn, InsertError, Origin, Phase, Socket, Stamp};

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
        if self.is_left_over(parsed) {
            return Drop(DropReason::Unsolicited, None);
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
        match self.resolve(&decision, &flow, owner.as_ref()) {
            Way::Block(reason) => Drop(reason, None),
            Way::Down(tunnel) => Drop(DropReason::TunnelDown, tunnel),
            Way::Through(tunnel) => match self.worker_of(tunnel) {
                None => self.enter(now, parsed, owner, tunnel, decision.rule),
                Some(worker) => Outcome::Elsewhere(worker, Known::Answer(needs, owner)),
            },
        }
    }

    /// Whether this belongs to a connection that somebody behind a tunnel began, and that is not
    /// known any more: its own server's tunnel may be another one.
    fn is_left_over(&self, parsed: &Parsed) -> bool {
        let (flow, message) = (&parsed.flow, parsed.message);
        let begins = may_start_a_flow(message);
        let served = || self.rules.inbound().serves(Protocol::TCP, flow.src_port());
        matches!(message, Message::Tcp(_))
            && (answers_a_syn(message) || !begins && served())
            // What came by another interface has that one's address, and may be answered directly.
            && self.allocator.is_on_device(flow.src())
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
        if let Some(outcome) = filter_outcome(self.screened(tunnel, &flow), tunnel) {
            return outcome;
        }
        match slot.state {
            TransportState::Up(_) => {}
            _ if Self::is_awaited(&slot.state) => return Wait(Awaits::Tunnel(tunnel, owner)),
            _ => return Drop(DropReason::TunnelDown, Some(tunnel)),
        }
        let Some(source) = slot.address(flow.family()) else {
            return Drop(DropReason::FamilyNotCarried, Some(tunnel));
        };
        let keeps = |source| self.rules.inbound().is_behind(tunnel, source);
        let source = if self.config.translate && !keeps(flow.src()) {
            source
        } else {
            flow.src()
        };
        let remote = match self.steers(&flow) {
            true => match slot.resolver(flow.family()) {
                Some(resolver) => resolver,
                None => return Drop(DropReason::NoResolver, Some(tunnel)),
            },
            false => slot.options.prefix_maps.to_remote(flow.dst()),
        };
        let wanted = flow
            .with_source(source, flow.src_port())
            .with_destination(remote, flow.dst_port());
        let (wire, mapping) = match self.wire_key(tunnel, &flow, wanted) {
            Ok(found) => found,
            Err(reason) => return Drop(reason, Some(tunnel)),
        };
        let quota = self.config.max_flows_per_owner;
        let Some(owner_slot) = self.owners.acquire(owner.as_ref(), quota) else {
            self.unmap(mapping);
            return Drop(DropReason::OwnerQuota, Some(tunnel));
        };
        let usage = self.usages.acquire(owner_slot, tunnel);
        if !self.claim(flow) {
            self.account_gone(usage);
            self.unmap(mapping);
            return Drop(DropReason::Elsewhere, Some(tunnel));
        }
        let conn = Conn {
            device: flow,
            wire,
            tunnel,
            marks: TcpMarks::default(),
            generation: self.generation,
            rule,
            usage,
            socket: Socket::new(owner.map_or(0, |o| o.socket)),
            phase: Phase::first(parsed.message),
            dns: self.dns_flow(&flow),
            last_seen: now,
            last_outbound: now,
            answered: false,
            origin: Origin::Device,
            mapping,
        };
        let entered = self.conns.insert(conn, now, &mut self.removed);
        self.release_removed();
        match entered {
            Ok(id) => Send(id),
            Err(error) => {
                self.let_go(&flow);
                self.account_gone(usage);
                self.unmap(mapping);
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
}

/// Whether this answers a connection that somebody else began. Of a flow that is gone, it must not be
/// taken for a new one: whoever began that would see by which tunnel the application goes out.
fn answers_a_syn(message: Message) -> bool {
    const BOTH: u8 = tcp_flags::SYN | tcp_flags::ACK;
    matches!(message, Message::Tcp(flags) if flags & BOTH == BOTH)
}
