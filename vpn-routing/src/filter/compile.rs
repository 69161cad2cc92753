//! Filter rules with their names resolved, and the search for the first that matches.

use vpn_core::rule::{FilterAction, FilterDirection, RuleProtocol};
use vpn_core::{FilterRule, GroupId, Protocol};

use super::{Judgement, Scope, Subject};
use crate::rules::{Names, RuleError};

/// How many filter rules one snapshot may have: a new flow may look at all of them, which takes
/// microseconds.
pub const MAX_FILTER_RULES: usize = 1024;

/// The filter rules of a snapshot, in order.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    rules: Vec<(Scope, FilterRule)>,
}

impl Filters {
    /// Resolves the names in `rules`. One that names nothing, or makes no sense, matches nothing
    /// and is told in `problems`; one that would drop drops everything it could mean.
    pub fn compile(
        rules: &[FilterRule],
        names: &dyn Names,
        problems: &mut Vec<RuleError>,
    ) -> Result<Self, RuleError> {
        if rules.len() > MAX_FILTER_RULES {
            return Err(RuleError::TooManyInOrder {
                what: "filter",
                count: rules.len(),
                most: MAX_FILTER_RULES,
            });
        }
        let mut compiled = Vec::with_capacity(rules.len());
        for rule in rules {
            match check(rule) {
                Ok(()) => {}
                Err(problem) => {
                    problems.push(problem);
                    // Never more open than what was meant.
                    if rule.action == FilterAction::Accept {
                        continue;
                    }
                    compiled.push((scope_of(rule, names, problems), without_nonsense(rule)));
                    continue;
                }
            }
            compiled.push((scope_of(rule, names, problems), rule.clone()));
        }
        Ok(Self { rules: compiled })
    }

    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the first rule that matches says. `is_member` tells whether the subject's tunnel is of
    /// a group.
    pub fn judge(&self, subject: &Subject, is_member: impl Fn(GroupId) -> bool) -> Judgement {
        let found = self.rules.iter().find(|(scope, rule)| {
            let here = match *scope {
                Scope::Everywhere => true,
                Scope::Tunnel(tunnel) => tunnel == subject.tunnel,
                Scope::Group(group) => is_member(group),
                Scope::Nowhere => false,
            };
            here && matches(rule, subject)
        });
        match found {
            None => Judgement::PASSES,
            Some((_, rule)) => Judgement {
                action: rule.action,
                rule: Some(rule.id),
            },
        }
    }
}

fn matches(rule: &FilterRule, subject: &Subject) -> bool {
    let flow = &subject.flow;
    let protocol = flow.protocol();
    let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP) && !is_later(subject);
    let remote = match subject.direction {
        FilterDirection::Inbound => flow.src(),
        _ => flow.dst(),
    };
    let direction = rule.direction == FilterDirection::Both || rule.direction == subject.direction;
    let icmp = |wanted: vpn_core::rule::IcmpMatch| {
        subject.icmp.is_some_and(|(kind, code)| {
            wanted.kind == kind && wanted.code.is_none_or(|wanted| wanted == code)
        })
    };
    direction
        && (!rule.fragments || subject.fragment)
        && rule.family.is_none_or(|family| family == flow.family())
        && rule.protocol.is_none_or(|wanted| wanted.matches(protocol))
        && rule.remote.is_none_or(|net| net.contains(&remote))
        && rule
            .ports
            .is_none_or(|ports| has_ports && ports.contains(flow.dst_port()))
        && rule.icmp.is_none_or(icmp)
}

/// A fragment without ports: the parser says 0 for both.
fn is_later(subject: &Subject) -> bool {
    subject.fragment && subject.flow.src_port() == 0 && subject.flow.dst_port() == 0
}

fn scope_of(rule: &FilterRule, names: &dyn Names, problems: &mut Vec<RuleError>) -> Scope {
    let Some(name) = &rule.tunnel else {
        return Scope::Everywhere;
    };
    if let Some(group) = names.group(name) {
        return Scope::Group(group);
    }
    match names.tunnel(name) {
        Some(tunnel) => Scope::Tunnel(tunnel),
        None => {
            problems.push(RuleError::NoSuchTunnelOfFilter {
                rule: rule.id,
                tunnel: name.clone(),
            });
            Scope::Nowhere
        }
    }
}

/// Whether what the rule says can be true of any packet.
fn check(rule: &FilterRule) -> Result<(), RuleError> {
    let bad = |what| {
        Err(RuleError::BadPorts {
            rule: rule.id,
            what,
        })
    };
    let is_icmp = rule.protocol.is_none_or(|p| p == RuleProtocol::Icmp);
    if rule.ports.is_some() && (rule.protocol == Some(RuleProtocol::Icmp) || rule.icmp.is_some()) {
        return bad("ICMP has no ports");
    }
    if rule.icmp.is_some() && !is_icmp {
        return bad("only ICMP has types");
    }
    Ok(())
}

fn without_nonsense(rule: &FilterRule) -> FilterRule {
    FilterRule {
        ports: None,
        icmp: None,
        ..rule.clone()
    }
}
