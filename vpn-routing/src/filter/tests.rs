//! Each kind of filter rule, both directions, and order.

use std::net::IpAddr;

use vpn_core::rule::{FilterAction, FilterDirection, IcmpMatch, RuleProtocol};
use vpn_core::{Family, FilterRule, FlowKey, GroupId, PortRange, Protocol, RuleId, TunnelId};

use super::*;
use crate::rules::{Names, RuleError};

const UK: TunnelId = TunnelId::new(0);
const FR: TunnelId = TunnelId::new(1);
const EUROPE: GroupId = GroupId::new(0);

#[derive(Debug)]
struct Two;

impl Names for Two {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        match name {
            "uk" => Some(UK),
            "fr" => Some(FR),
            _ => None,
        }
    }

    fn group(&self, name: &str) -> Option<GroupId> {
        (name == "europe").then_some(EUROPE)
    }
}

fn rule(action: FilterAction) -> FilterRule {
    FilterRule {
        id: RuleId(1),
        direction: FilterDirection::Both,
        tunnel: None,
        family: None,
        protocol: None,
        remote: None,
        ports: None,
        icmp: None,
        fragments: false,
        action,
    }
}

fn compile(rules: &[FilterRule]) -> (Filters, Vec<RuleError>) {
    let mut problems = Vec::new();
    let filters = Filters::compile(rules, &Two, &mut problems).unwrap();
    (filters, problems)
}

fn flow(protocol: Protocol, src: &str, dst: &str) -> FlowKey {
    let end = |text: &str| -> (IpAddr, u16) {
        let socket: std::net::SocketAddr = text.parse().unwrap();
        (socket.ip(), socket.port())
    };
    FlowKey::new(protocol, end(src), end(dst))
}

fn outbound(protocol: Protocol, dst: &str) -> Subject {
    let src = if dst.starts_with('[') {
        "[fd00::2]:5000"
    } else {
        "10.5.0.2:5000"
    };
    Subject::flow(FilterDirection::Outbound, UK, flow(protocol, src, dst))
}

fn inbound(protocol: Protocol, src: &str, dst: &str) -> Subject {
    Subject::flow(FilterDirection::Inbound, UK, flow(protocol, src, dst))
}

fn drops(rule: FilterRule, subject: &Subject) -> bool {
    let (filters, problems) = compile(&[rule]);
    assert!(problems.is_empty(), "{problems:?}");
    filters.judge(subject, |_| false).action == FilterAction::Drop
}

#[test]
fn each_condition_narrows_the_rule() {
    let web = outbound(Protocol::TCP, "203.0.113.10:80");
    let web6 = outbound(Protocol::TCP, "[2001:db8::1]:80");
    let dns = outbound(Protocol::UDP, "203.0.113.10:53");
    let guest = inbound(Protocol::TCP, "203.0.113.10:5000", "10.6.0.2:80");
    let base = || rule(FilterAction::Drop);
    let cases: [(FilterRule, [bool; 4]); 9] = [
        (base(), [true, true, true, true]),
        (
            FilterRule {
                direction: FilterDirection::Inbound,
                ..base()
            },
            [false, false, false, true],
        ),
        (
            FilterRule {
                direction: FilterDirection::Outbound,
                ..base()
            },
            [true, true, true, false],
        ),
        (
            FilterRule {
                protocol: Some(RuleProtocol::Udp),
                ..base()
            },
            [false, false, true, false],
        ),
        (
            FilterRule {
                family: Some(Family::V6),
                ..base()
            },
            [false, true, false, false],
        ),
        (
            FilterRule {
                ports: PortRange::new(79, 81),
                ..base()
            },
            [true, true, false, true],
        ),
        (
            FilterRule {
                remote: Some("203.0.113.0/24".parse().unwrap()),
                ..base()
            },
            [true, false, true, true],
        ),
        (
            FilterRule {
                remote: Some("10.0.0.0/8".parse().unwrap()),
                ..base()
            },
            [false, false, false, false],
        ),
        (
            FilterRule {
                fragments: true,
                ..base()
            },
            [false; 4],
        ),
    ];
    for (rule, expected) in cases {
        for (subject, dropped) in [web, web6, dns, guest].iter().zip(expected) {
            assert_eq!(
                drops(rule.clone(), subject),
                dropped,
                "{rule:?} {subject:?}"
            );
        }
    }
}

#[test]
fn the_first_that_matches_decides() {
    let open = FilterRule {
        id: RuleId(1),
        ports: Some(PortRange::single(443)),
        ..rule(FilterAction::Accept)
    };
    let closed = FilterRule {
        id: RuleId(2),
        ..rule(FilterAction::Reject)
    };
    let (filters, _) = compile(&[open.clone(), closed.clone()]);
    let judge = |filters: &Filters, dst| filters.judge(&outbound(Protocol::TCP, dst), |_| false);
    assert_eq!(judge(&filters, "203.0.113.10:443").rule, Some(RuleId(1)));
    assert_eq!(
        judge(&filters, "203.0.113.10:80").action,
        FilterAction::Reject
    );
    let (filters, _) = compile(&[closed, open]);
    assert_eq!(judge(&filters, "203.0.113.10:443").rule, Some(RuleId(2)));
    let (none, _) = compile(&[]);
    assert_eq!(judge(&none, "203.0.113.10:443"), Judgement::PASSES);
}

/// S-15: a group's rule is for its members, not for everybody.
#[test]
fn a_rule_of_a_group_is_for_its_members() {
    let of_group = FilterRule {
        tunnel: Some("europe".to_owned()),
        ..rule(FilterAction::Drop)
    };
    let (filters, problems) = compile(&[of_group]);
    assert!(problems.is_empty());
    let subject = outbound(Protocol::TCP, "203.0.113.10:80");
    for member in [true, false] {
        let judged = filters.judge(&subject, |group| group == EUROPE && member);
        assert_eq!(judged.action == FilterAction::Drop, member);
    }
    let of_tunnel = |name: &str| FilterRule {
        tunnel: Some(name.to_owned()),
        ..rule(FilterAction::Drop)
    };
    assert!(drops(of_tunnel("uk"), &subject));
    assert!(!drops(of_tunnel("fr"), &subject));
    let (filters, problems) = compile(&[of_tunnel("mars")]);
    assert_eq!(problems.len(), 1);
    assert_eq!(filters.judge(&subject, |_| true), Judgement::PASSES);
}

/// S-16: ICMP has a type and a code, and no port.
#[test]
fn icmp_is_told_by_type_and_code() {
    let message = |kind, code| Subject {
        icmp: Some((kind, code)),
        ..outbound(Protocol::ICMP, "203.0.113.10:0")
    };
    let by = |kind, code| FilterRule {
        icmp: Some(IcmpMatch { kind, code }),
        ..rule(FilterAction::Drop)
    };
    assert!(drops(by(3, None), &message(3, 4)));
    assert!(drops(by(3, Some(4)), &message(3, 4)));
    assert!(!drops(by(3, Some(4)), &message(3, 3)));
    assert!(!drops(by(3, None), &message(11, 0)));
    assert!(!drops(
        by(8, None),
        &outbound(Protocol::TCP, "203.0.113.10:8")
    ));
    let ping = outbound(Protocol::ICMP, "203.0.113.10:0");
    assert!(drops(by(8, None), &ping));
    let ping6 = outbound(Protocol::ICMPV6, "[2001:db8::1]:0");
    assert!(drops(by(128, None), &ping6));
}

/// S-13: a fragment has no port, so a rule with ports cannot take it for another one.
#[test]
fn fragments_match_their_own_rules_only() {
    let later = Subject {
        fragment: true,
        ..outbound(Protocol::UDP, "203.0.113.10:0")
    };
    let later = Subject {
        flow: later.flow.with_source(later.flow.src(), 0),
        ..later
    };
    let any_port = FilterRule {
        ports: PortRange::new(0, u16::MAX),
        ..rule(FilterAction::Drop)
    };
    let fragments = FilterRule {
        fragments: true,
        ..rule(FilterAction::Drop)
    };
    assert!(!drops(any_port, &later));
    assert!(drops(fragments.clone(), &later));
    let first = Subject {
        fragment: true,
        ..outbound(Protocol::UDP, "203.0.113.10:53")
    };
    assert!(drops(fragments, &first));
}

/// What makes no sense is told, and is never more open than what was meant.
#[test]
fn nonsense_fails_closed() {
    let nonsense = |action| FilterRule {
        protocol: Some(RuleProtocol::Icmp),
        ports: Some(PortRange::single(8)),
        ..rule(action)
    };
    let ping = outbound(Protocol::ICMP, "203.0.113.10:0");
    let (filters, problems) = compile(&[nonsense(FilterAction::Drop)]);
    assert_eq!(problems.len(), 1);
    assert_eq!(filters.judge(&ping, |_| false).action, FilterAction::Drop);
    let (filters, problems) = compile(&[nonsense(FilterAction::Accept), rule(FilterAction::Drop)]);
    assert_eq!(problems.len(), 1);
    assert_eq!(filters.judge(&ping, |_| false).action, FilterAction::Drop);
    let many = vec![rule(FilterAction::Drop); MAX_FILTER_RULES + 1];
    assert!(Filters::compile(&many, &Two, &mut Vec::new()).is_err());
}
