//! How many flows each inbound rule has, and which of them give their place to another.

use std::collections::VecDeque;

use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashSet};
use vpn_core::{DropReason, FlowKey, RuleId, TunnelId};

use super::Router;
use crate::conn::{Conn, ConnId, ConnTable, Origin, Stamp};

/// The flows that inbound rules admitted, by rule.
#[derive(Debug, Default)]
pub(super) struct Guests {
    by_rule: HashMap<RuleId, OfRule, RandomState>,
}

#[derive(Debug, Default)]
struct OfRule {
    flows: usize,
    /// Those that may go, oldest first: half-open when they were entered, or found finished. They
    /// may be gone or open by now.
    may_go: VecDeque<Guest>,
    /// When finished ones were last looked for.
    looked: Option<Stamp>,
}

/// How often the table is looked through for finished flows of one rule, in milliseconds: a look at
/// a million entries takes a few.
const LOOK_EVERY: Stamp = 1000;

type Guest = (ConnId, TunnelId, FlowKey);

impl OfRule {
    /// Looks for connections that are over, if that was not done just now.
    fn look(&mut self, now: Stamp, conns: &ConnTable, rule: RuleId) -> Option<Guest> {
        if self
            .looked
            .is_some_and(|at| now.wrapping_sub(at) < LOOK_EVERY)
        {
            return None;
        }
        self.looked = Some(now);
        let all = (0..conns.slots()).filter_map(|slot| conns.in_slot(slot));
        let guests = all.filter_map(|id| conns.get(id).map(|c| (id, c.tunnel, c.wire)));
        self.may_go
            .extend(guests.filter(|guest| makes_room(conns, guest, rule)));
        self.may_go.pop_front()
    }
}

impl Guests {
    fn flows(&self, rule: RuleId) -> usize {
        self.by_rule.get(&rule).map_or(0, |of| of.flows)
    }

    /// How many flows there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_rule.values().map(|of| of.flows).sum()
    }

    /// How many are remembered as those that may go.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.by_rule.values().map(|of| of.may_go.len()).sum()
    }

    /// A flow of a rule that may have `most` was entered.
    pub(super) fn entered(&mut self, conns: &ConnTable, rule: RuleId, guest: Guest, most: usize) {
        let of = self.by_rule.entry(rule).or_default();
        of.flows += 1;
        of.may_go.push_back(guest);
        if of.may_go.len() > 2 * most {
            // A flow that went and came back at the same place is remembered once.
            let mut seen = HashSet::with_hasher(RandomState::default());
            of.may_go
                .retain(|guest| makes_room(conns, guest, rule) && seen.insert(guest.0));
        }
    }

    /// A flow of an inbound rule is gone.
    pub(super) fn left(&mut self, rule: RuleId) {
        if let Some(of) = self.by_rule.get_mut(&rule) {
            of.flows = of.flows.saturating_sub(1);
            if of.flows == 0 {
                self.by_rule.remove(&rule);
            }
        }
    }

    /// A flow counts under another rule from now on.
    pub(super) fn moved(&mut self, from: RuleId, to: RuleId) {
        if from != to {
            self.left(from);
            self.by_rule.entry(to).or_default().flows += 1;
        }
    }
}

impl Router {
    /// Sees that one more flow of this rule has a place, at the cost of its own only, and of those
    /// that are half-open or over.
    pub(super) fn make_room(&mut self, now: Stamp, rule: RuleId) -> Result<(), DropReason> {
        let most = self.config.max_flows_per_inbound_rule;
        let reason = match self.guests.flows(rule) >= most {
            true => DropReason::InboundQuota,
            false if self.conns.is_full() => DropReason::FlowTableFull,
            false => return Ok(()),
        };
        loop {
            let of = self.guests.by_rule.get_mut(&rule).ok_or(reason)?;
            let guest = match of.may_go.pop_front() {
                Some(guest) => guest,
                None => of.look(now, &self.conns, rule).ok_or(reason)?,
            };
            if makes_room(&self.conns, &guest, rule) {
                self.remove_flow(guest.0);
                return Ok(());
            }
        }
    }
}

/// Whether a flow that was entered half-open is so still, or was reset: its place may be another's
/// by now.
fn makes_room(conns: &ConnTable, &(id, tunnel, wire): &Guest, rule: RuleId) -> bool {
    let same = |c: &Conn| c.tunnel == tunnel && c.wire == wire && c.rule == Some(rule);
    let conn = conns.get(id).filter(same);
    conn.is_some_and(|c| c.origin == Origin::Tunnel && c.phase.makes_room())
}
