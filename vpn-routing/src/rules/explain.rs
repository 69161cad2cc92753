//! Says why a flow is decided as it is, for people. Not for the packet path.

use std::fmt;

use vpn_core::flow::FlowKey;
use vpn_core::{Owner, RuleId, RuleMatch};

use super::compile::{CompiledRules, Decision, Target};

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
        let decision = self.decide(owner, flow);
        let mut found: Vec<u32> = Vec::new();
        let (uid, executable) = owner.map_or((None, None), |owner| self.tables_of(owner));
        for table in [uid, executable, Some(&self.anybody)].into_iter().flatten() {
            table.for_each(&mut |index| {
                if self.entries[index as usize].matches_flow(flow) {
                    found.push(index);
                }
            });
        }
        found.sort_by_key(|&index| std::cmp::Reverse(self.entries[index as usize].rank()));
        let mut candidates = found.into_iter().map(|index| {
            let entry = &self.entries[index as usize];
            Candidate {
                id: entry.id,
                matches: entry.matches.clone(),
                target: entry.target,
            }
        });
        Explanation {
            decision,
            winner: decision.rule.and_then(|_| candidates.next()),
            beaten: candidates.collect(),
        }
    }
}
