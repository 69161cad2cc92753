//! Says why a flow is decided as it is, for people. Not for the packet path.

use std::fmt;

use vpn_core::flow::FlowKey;
use vpn_core::{Owner, RuleId, RuleMatch};

use super::compile::CompiledRules;
use super::decide::{Decision, Target};
use super::entry::Question;
use super::names::{Domains, NoDomains};
use super::who::Hit;

/// A rule that matches a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The rule.
    pub id: RuleId,
    /// What it matches.
    pub matches: RuleMatch,
    /// Where it sends the flow.
    pub target: Target,
}

/// Why a flow is decided as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The rule that decided; `None` if it is the default, or the owner is unknown.
    pub winner: Option<Candidate>,
    /// The other rules that match, best first.
    pub beaten: Vec<Candidate>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.id, self.matches, self.target)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.winner {
            Some(winner) => write!(f, "{winner}")?,
            None => write!(f, "no rule -> {}", self.decision.action)?,
        }
        for candidate in &self.beaten {
            write!(f, "\n  beaten: {candidate}")?;
        }
        Ok(())
    }
}

impl CompiledRules {
    /// The decision of [`decide`](Self::decide), the rule that made it and the rules it beat.
    pub fn explain(&self, owner: Option<&Owner>, flow: &FlowKey) -> Explanation {
        self.explain_named(owner, flow, &NoDomains)
    }

    /// The decision of [`decide_named`](Self::decide_named), the rule that made it and the rules
    /// it beat.
    pub fn explain_named(
        &self,
        owner: Option<&Owner>,
        flow: &FlowKey,
        domains: &dyn Domains,
    ) -> Explanation {
        let question = Question { flow, domains };
        let decision = self.decide_named(owner, flow, domains);
        let mut found: Vec<(bool, Hit)> = Vec::new();
        let mut visit = |owned, hit: Hit| {
            if self.entries.matches(hit.index, question) {
                found.push((owned, hit));
            }
        };
        if let Some(owner) = owner {
            let users = &self.users;
            let of_user = &mut |hit| visit(true, hit);
            users.for_each(&self.entries, owner.uid, question, of_user);
            for who in self.of_process(owner).chain(self.of_cgroups(owner)) {
                who.for_each(question, &mut |hit| visit(true, hit));
            }
        }
        self.anybody
            .for_each(question, &mut |hit| visit(false, hit));
        found.sort_by_key(|&(owned, hit)| {
            let rank = self.entries.rank(hit.index);
            std::cmp::Reverse((owned, hit.source, rank))
        });
        // A rule for an interface may be listed for several prefixes.
        found.dedup_by_key(|(_, hit)| hit.index);
        let candidates = found.into_iter().map(|(_, hit)| Candidate {
            id: self.entries.id(hit.index),
            matches: self.entries.written(hit.index),
            target: self.entries.target(hit.index),
        });
        // Where the owner is unknown, a rule of a source may win past others that match.
        let (winner, beaten): (Vec<_>, Vec<_>) =
            candidates.partition(|candidate| decision.rule == Some(candidate.id));
        Explanation {
            decision,
            winner: winner.into_iter().next(),
            beaten,
        }
    }
}
