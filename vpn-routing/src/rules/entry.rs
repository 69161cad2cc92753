//! One rule while it is compiled: what it matches, how it ranks, where it leads.

use std::cmp::Reverse;

use ipnet::IpNet;
use vpn_core::domain::{DomainPattern, DomainScope};
use vpn_core::flow::FlowKey;
use vpn_core::{DropReason, OnChange, PortRange, Rule, RuleId, RuleMatch, TunnelId};

use super::decide::Target;
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

    pub(super) fn rank(&self) -> Rank {
        rank(&self.matches, self.id)
    }

    /// What precedence compares among all rules, an input interface apart.
    pub(super) fn precedence(&self) -> (bool, u8, Rank) {
        let source = self.matches.source.map_or(0, |net| net.prefix_len() + 1);
        (self.matches.owner.is_some(), source, self.rank())
    }

    pub(super) fn single_port(&self) -> Option<u16> {
        single_port(&self.matches)
    }

    /// The same rule, leading nowhere.
    pub(super) fn blocked(rule: &Rule, reason: DropReason) -> Self {
        Self::new(rule, Target::Block(reason), None)
    }
}

pub(super) fn rank(matches: &RuleMatch, id: RuleId) -> Rank {
    let m = matches;
    let width = |ports: PortRange| ports.last() - ports.first();
    (
        m.domain.as_ref().map_or(0, specificity),
        // A destination of length 0 is longer than none; 128 + 1 fits.
        m.destination.map_or(0, |net| net.prefix_len() + 1),
        m.ports.is_some(),
        Reverse(m.ports.map_or(0, width)),
        m.protocol.is_some(),
        m.family.is_some(),
        id,
    )
}

/// Whether a rule that leads to `target` is for this flow, its owner and source apart.
pub(super) fn matches(matches: &RuleMatch, target: Target, question: Question<'_>) -> bool {
    matches.matches_flow(question.flow)
        && match &matches.domain {
            None => true,
            Some(pattern) => is_known_as(pattern, target, question),
        }
}

/// Whether the destination is known under a name of the pattern. What one tunnel's resolver
/// says counts for rules that lead to that tunnel; rules that lead to none, or to a choice of
/// several, take anybody's word.
fn is_known_as(pattern: &DomainPattern, target: Target, question: Question<'_>) -> bool {
    let mut known = false;
    let counts = |tunnel: Option<TunnelId>| match (tunnel, target) {
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

/// The port, if a rule names exactly one.
pub(super) fn single_port(matches: &RuleMatch) -> Option<u16> {
    let ports = matches.ports?;
    (ports.first() == ports.last()).then_some(ports.first())
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
