//! Answers what rules say about one flow.

use std::fmt;

use vpn_core::flow::FlowKey;
use vpn_core::{DropReason, GroupId, OnChange, Owner, OwnerDetail, RuleId, TunnelId};

use super::compile::CompiledRules;
use super::entry::Question;
use super::names::{Domains, NoDomains};
use super::who::{Hit, Who};

/// Where a decision sends a flow. "Direct" is the tunnel that [`Names::direct`] names: without
/// one, nothing can leave past the tunnels.
///
/// [`Names::direct`]: super::Names::direct
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Through this tunnel and nowhere else.
    Tunnel(TunnelId),
    /// Through whichever tunnel of this group is chosen, and nowhere else.
    Group(GroupId),
    /// Nowhere, for this reason.
    Block(DropReason),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel(tunnel) => write!(f, "{tunnel}"),
            Self::Group(group) => write!(f, "{group}"),
            Self::Block(reason) => write!(f, "block ({reason})"),
        }
    }
}

/// What rules say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it goes.
    pub action: Target,
    /// The rule that says so; `None` if it is the default, or that the owner is unknown.
    pub rule: Option<RuleId>,
    /// What a live flow does when its decision changes.
    pub on_change: OnChange,
    /// Where it goes while `action` is down; `None` is nowhere.
    pub on_down: Option<Target>,
}

impl Decision {
    /// A decision that no rule made.
    pub const fn default_of(action: Target) -> Self {
        Self {
            action,
            rule: None,
            on_change: OnChange::Keep,
            on_down: None,
        }
    }
}

impl CompiledRules {
    /// Decides a flow whose destination is known under no name: [`decide_named`] without names.
    ///
    /// [`decide_named`]: Self::decide_named
    pub fn decide(&self, owner: Option<&Owner>, flow: &FlowKey) -> Decision {
        self.decide_named(owner, flow, &NoDomains)
    }

    /// Decides a flow. `owner` is `None` if it is unknown, `flow` as the application sees it,
    /// `domains` says under which names its destination is known.
    ///
    /// Where the owner matters (see [`needs_owner`](Self::needs_owner)) and is not known well
    /// enough, only a rule that names a source and no owner decides, since traffic of containers
    /// and of the local network has no owner here; else the answer is
    /// [`DropReason::OwnerUnknown`], never a guess.
    pub fn decide_named(
        &self,
        owner: Option<&Owner>,
        flow: &FlowKey,
        domains: &dyn Domains,
    ) -> Decision {
        // Where only users are named, knowing the owner is knowing enough.
        if let Some(owner) = owner.filter(|_| self.only_users)
            && let Some(decision) = self.users.unconditional(&self.entries, owner.uid)
        {
            return decision;
        }
        let question = Question { flow, domains };
        let hit = if self.knows_enough(owner, question) {
            let of_owner = owner.and_then(|owner| self.best_of_owner(owner, question));
            of_owner.or_else(|| self.anybody.best(&self.entries, question))
        } else {
            match self.anybody.best_of_source(&self.entries, question) {
                Some(hit) if owner.is_none() => Some(hit),
                _ => return Decision::default_of(Target::Block(DropReason::OwnerUnknown)),
            }
        };
        match hit {
            Some(hit) => self.entries.decision(hit.index),
            None => Decision::default_of(self.default_action()),
        }
    }

    /// How much of the owner the decision of this flow depends on; `None` if nothing does. As
    /// [`needs_owner_named`](Self::needs_owner_named) without names.
    pub fn needs_owner(&self, flow: &FlowKey) -> Option<OwnerDetail> {
        self.needs_owner_named(flow, &NoDomains)
    }

    /// How much of the owner the decision of this flow depends on; `None` if nothing does.
    pub fn needs_owner_named(&self, flow: &FlowKey, domains: &dyn Domains) -> Option<OwnerDetail> {
        let question = Question { flow, domains };
        let meant = |who: &Who| who.best(&self.entries, question).is_some();
        if meant(&self.process_flows) {
            Some(OwnerDetail::Process)
        } else if meant(&self.uid_flows) {
            Some(OwnerDetail::Uid)
        } else {
            None
        }
    }

    /// Whether every rule that could be meant is for somebody who is known.
    fn knows_enough(&self, owner: Option<&Owner>, question: Question<'_>) -> bool {
        let known = owner.map(Owner::detail);
        // No flow needs more than all rules together: mostly that answers it without a search.
        self.wants() <= known || self.needs_owner_named(question.flow, question.domains) <= known
    }

    fn best_of_owner(&self, owner: &Owner, question: Question<'_>) -> Option<Hit> {
        let rank = |hit: &Hit| (hit.source, self.entries.rank(hit.index));
        let best = |who: &Who| who.best(&self.entries, question);
        let of_cgroup = self.of_cgroups(owner).find_map(best);
        let of_user = self.users.best(&self.entries, owner.uid, question);
        let others = self.of_process(owner).filter_map(best);
        others.chain(of_cgroup).chain(of_user).max_by_key(rank)
    }
}
