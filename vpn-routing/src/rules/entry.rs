//! One compiled rule: what it matches, how it ranks, what it decides.

use std::cmp::Reverse;

use ipnet::IpNet;
use vpn_core::domain::{DomainPattern, DomainScope};
use vpn_core::flow::FlowKey;
use vpn_core::{DropReason, OnChange, PortRange, Rule, RuleId, RuleMatch, TunnelId};

use super::decide::{Decision, Target};
use super::names::Domains;

/// One rule, its names resolved.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: RuleId,
    pub(super) matches: RuleMatch,
    pub(super) target: Target,
    pub(super) on_change: OnChange,
    pub(super) on_down: Option<Target>,
}

/// What precedence compares within one owner and one source; larger wins.
pub(super) type Rank = (u16, u8, bool, Reverse<u16>, bool, bool, RuleId);

/// What is asked of rules.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) flow: &'a FlowKey,
    pub(super) domains: &'a dyn Domains,
}

impl Entry {
    pub(super) fn new(rule: &Rule, target: Target, on_down: Option<Target>) -> Self {
        Self {
            id: rule.id,
            matches: rule.matches.clone(),
            target,
            on_change: rule.on_change,
            on_down,
        }
    }

    pub(super) fn decision(&self) -> Decision {
        Decision {
            action: self.target,
            rule: Some(self.id),
            on_change: self.on_change,
            on_down: self.on_down,
        }
    }

    pub(super) fn rank(&self) -> Rank {
        let m = &self.matches;
        let width = |ports: PortRange| ports.last() - ports.first();
        (
            m.domain.as_ref().map_or(0, specificity),
            // A destination of length 0 is longer than none; 128 + 1 fits.
            m.destination.map_or(0, |net| net.prefix_len() + 1),
            m.ports.is_some(),
            Reverse(m.ports.map_or(0, width)),
            m.protocol.is_some(),
            m.family.is_some(),
            self.id,
        )
    }

    /// What precedence compares among all rules, an input interface apart.
    pub(super) fn precedence(&self) -> (bool, u8, Rank) {
        let source = self.matches.source.map_or(0, |net| net.prefix_len() + 1);
        (self.matches.owner.is_some(), source, self.rank())
    }

    /// Whether the rule is for this flow, its owner and source apart.
    pub(super) fn matches(&self, question: Question<'_>) -> bool {
        self.matches.matches_flow(question.flow)
            && match &self.matches.domain {
                None => true,
                Some(pattern) => self.knows_as(pattern, question),
            }
    }

    /// Whether the destination is known under a name of the pattern. What one tunnel's resolver
    /// says counts for rules that lead to that tunnel; rules that lead to none, or to a choice of
    /// several, take anybody's word.
    fn knows_as(&self, pattern: &DomainPattern, question: Question<'_>) -> bool {
        let mut known = false;
        let counts = |tunnel: Option<TunnelId>| match (tunnel, self.target) {
            (Some(said), Target::Tunnel(to)) => said == to,
            _ => true,
        };
        question
            .domains
            .visit(question.flow.dst(), &mut |tunnel, name| {
                known |= counts(tunnel) && pattern.matches(name);
            });
        known
    }

    pub(super) fn single_port(&self) -> Option<u16> {
        let ports = self.matches.ports?;
        (ports.first() == ports.last()).then_some(ports.first())
    }

    /// The same rule, leading nowhere.
    pub(super) fn blocked(rule: &Rule, reason: DropReason) -> Self {
        Self::new(rule, Target::Block(reason), None)
    }
}

/// More labels are more specific; of one domain the name itself is, then what is below it.
fn specificity(pattern: &DomainPattern) -> u16 {
    let labels = pattern.domain().as_str().split('.').count() as u16;
    labels * 4
        + match pattern.scope() {
            DomainScope::Exact => 3,
            DomainScope::Below => 2,
            DomainScope::Whole => 1,
        }
}

/// The source prefixes a rule is for: one if it names none.
pub(super) type Sources = Vec<Option<IpNet>>;
