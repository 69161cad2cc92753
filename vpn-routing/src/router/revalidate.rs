//! Flows that were decided under other rules: what becomes of them under those in force.

use vpn_core::{DomainName, DropReason, Owner, OwnerDetail};

use super::Router;
use super::dns::Asking;
use super::hold::Awaits;
use super::outbound::{Known, Outcome};
use super::resolve::Way;
use crate::conn::{Conn, ConnId, DnsFlow, Origin, Socket, Stamp};
use crate::rules::{Decision, Target};

use Outcome::{Drop, Wait};

impl Router {
    /// The owner of a flow in the table, with the socket.
    pub(super) fn owner_of(&self, id: ConnId) -> Option<Owner> {
        let conn = self.conns.get(id)?;
        let owner = self.owner_named(&conn)?.clone();
        Some(Owner {
            socket: conn.socket.number(),
            ..owner
        })
    }

    /// The application of a flow.
    pub(super) fn owner_named(&self, conn: &Conn) -> Option<&Owner> {
        self.owners.get(self.usages.owner(conn.usage))
    }

    /// The rules changed since the flow's decision was made. `None`: the flow goes on as it was.
    ///
    /// A live TCP connection keeps its tunnel when its app moves to another one, since it cannot
    /// survive a change of address; what is blocked now ends at once. Everything else moves.
    pub(super) fn revalidate(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Asking<'_>,
        known: Known,
    ) -> Option<Outcome> {
        let conn = self.conns.get(id)?;
        let needs = self.needs_owner(now, &conn.device, parsed.name());
        if !knows_enough(needs, self.owner_named(&conn)) {
            match known {
                Known::Answer(asked, owner) if asked >= needs => {
                    // Only a rule that names its source decides what nobody owns.
                    let nobodys = owner.is_none().then_some(conn.device);
                    if let Some(flow) = nobodys
                        && let Target::Block(reason) =
                            self.decision(now, None, &flow, parsed.name()).action
                    {
                        self.remove_flow(id);
                        return Some(Drop(reason, None));
                    }
                    if let Some(outcome) = self.learn_owner(id, owner) {
                        return Some(outcome);
                    }
                }
                _ => return Some(Wait(Awaits::Owner(needs.unwrap_or_default()))),
            }
        }
        let conn = self.conns.get(id)?;
        let owner = self.owner_named(&conn);
        let decision = self.decision(now, owner, &conn.device, parsed.name());
        match self.resolve(&decision, &conn.device, owner) {
            Way::Block(reason) => {
                let tunnel = conn.tunnel;
                self.remove_flow(id);
                return Some(Drop(reason, Some(tunnel)));
            }
            Way::Through(tunnel) if tunnel == conn.tunnel => {}
            way => {
                let known = Known::Answer(needs, self.owner_of(id));
                if let Some(outcome) = self.moved(now, id, parsed, known, &decision, way) {
                    return Some(outcome);
                }
            }
        }
        if let Some(outcome) = self.filtered_since(now, id) {
            return Some(outcome);
        }
        self.decided(id, &decision);
        None
    }

    /// A flow's decision was made again, under the rules in force, and is this one.
    pub(super) fn decided(&mut self, id: ConnId, decision: &Decision) {
        let generation = self.generation;
        self.conns.change(id, |conn| {
            conn.generation = generation;
            conn.rule = decision.rule;
        });
    }

    /// Counts a flow under its owner, which rules did not ask for before.
    fn learn_owner(&mut self, id: ConnId, owner: Option<Owner>) -> Option<Outcome> {
        let quota = self.config.max_flows_per_owner;
        let slot = self.owners.acquire(owner.as_ref(), quota);
        let Some(slot) = slot else {
            self.remove_flow(id);
            return Some(Drop(DropReason::OwnerQuota, None));
        };
        let before = self.conns.get(id)?;
        let usage = self.usages.acquire(slot, before.tunnel);
        self.conns.change(id, |conn| {
            conn.usage = usage;
            conn.socket = Socket::new(owner.map_or(0, |o| o.socket));
        });
        self.account_gone(before.usage);
        None
    }

    /// What the rules in force say to an inbound packet of a flow decided under others: only
    /// whether it is blocked now. Moving is for the next outbound packet.
    pub(super) fn blocked_since(
        &mut self,
        now: Stamp,
        id: ConnId,
        asked: Option<&DomainName>,
    ) -> Option<DropReason> {
        let conn = self.conns.get(id)?;
        if conn.phase.is_ended() {
            return Some(DropReason::FlowEnded);
        }
        if conn.origin == Origin::Tunnel {
            return self.expelled(now, id);
        }
        let needs = self.needs_owner(now, &conn.device, asked);
        let owner = self.owner_named(&conn);
        if !knows_enough(needs, owner) {
            return None;
        }
        let decision = self.decision(now, owner, &conn.device, asked);
        let way = self.resolve(&decision, &conn.device, owner);
        if self.filtered_since(now, id).is_some() {
            return Some(DropReason::BlockedByFilter);
        }
        let conn = self.conns.get(id)?;
        match way {
            Way::Block(reason) => {
                // One name is blocked; other queries of the socket still wait for their answers.
                if conn.dns == DnsFlow::No {
                    self.remove_flow(id);
                }
                return Some(reason);
            }
            Way::Through(tunnel) if tunnel == conn.tunnel => {
                self.decided(id, &decision);
            }
            Way::Through(_) | Way::Down(_) => {}
        }
        None
    }
}

/// Whether this much of an owner is known.
pub(super) fn knows_enough(needs: Option<OwnerDetail>, owner: Option<&Owner>) -> bool {
    needs <= owner.map(Owner::detail)
}
