//! Precedence against a naive oracle, failing closed, and explanations.

mod around;
#[cfg(feature = "tokio")]
mod feed;
mod names;
pub(crate) mod oracle;
mod swap;

use std::path::Path;
use std::sync::Arc;

use vpn_core::flow::{FlowKey, Protocol};
use vpn_core::rule::RuleProtocol;
use vpn_core::{
    Action, DropReason, Family, GroupId, Owner, OwnerDetail, OwnerMatch, PortRange, Rule, RuleId,
    RuleMatch, RuleSnapshot, TunnelId,
};

use super::*;

pub(super) const UK: Target = Target::Tunnel(TunnelId::new(0));
pub(super) const FR: Target = Target::Tunnel(TunnelId::new(1));
pub(super) const DEFAULT: Target = Target::Block(DropReason::BlockedByDefault);

pub(super) fn tunnels(name: &str) -> Option<TunnelId> {
    let index = ["uk", "fr", "us"].iter().position(|n| *n == name)?;
    Some(TunnelId::new(index as u16))
}

pub(super) fn rule(id: u64, matches: RuleMatch, to: &str) -> Rule {
    Rule::new(
        RuleId(id),
        matches,
        match to {
            "block" => Action::Block,
            "direct" => Action::Direct,
            name => Action::Tunnel(name.into()),
        },
    )
}

pub(super) fn uid(uid: u32) -> RuleMatch {
    RuleMatch {
        owner: Some(OwnerMatch::Uid(uid)),
        ..RuleMatch::default()
    }
}

fn exe(path: &str) -> RuleMatch {
    RuleMatch {
        owner: Some(OwnerMatch::Executable(path.into())),
        ..RuleMatch::default()
    }
}

fn dst(net: &str) -> RuleMatch {
    RuleMatch {
        destination: Some(net.parse().unwrap()),
        ..RuleMatch::default()
    }
}

pub(super) fn src(net: &str) -> RuleMatch {
    RuleMatch {
        source: Some(net.parse().unwrap()),
        ..RuleMatch::default()
    }
}

pub(super) fn domain(pattern: &str) -> RuleMatch {
    RuleMatch {
        domain: Some(pattern.parse().unwrap()),
        ..RuleMatch::default()
    }
}

fn port(first: u16, last: u16) -> RuleMatch {
    RuleMatch {
        ports: PortRange::new(first, last),
        ..RuleMatch::default()
    }
}

fn proto(protocol: RuleProtocol) -> RuleMatch {
    RuleMatch {
        protocol: Some(protocol),
        ..RuleMatch::default()
    }
}

/// What names stand for: two tunnels, one group, one interface, and a way past all of them.
pub(super) struct World;

impl Names for World {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        tunnels(name)
    }
    fn group(&self, name: &str) -> Option<GroupId> {
        (name == "europe").then_some(GroupId::new(0))
    }
    fn direct(&self) -> Option<TunnelId> {
        Some(TunnelId::new(9))
    }
    fn interface(&self, name: &str) -> Option<Vec<ipnet::IpNet>> {
        (name == "docker0").then(|| vec!["10.5.0.0/24".parse().unwrap()])
    }
}

pub(super) fn compiled(rules: Vec<Rule>) -> CompiledRules {
    CompiledRules::compile(&RuleSnapshot::from(rules), &World, DEFAULT).unwrap()
}

pub(super) fn flow(dst: [u8; 4], port: u16) -> FlowKey {
    FlowKey::new(
        Protocol::TCP,
        ([10, 5, 0, 2].into(), 40_000),
        (dst.into(), port),
    )
}

fn program(uid: u32, path: &str) -> Owner {
    Owner {
        executable: Some(Arc::from(Path::new(path))),
        socket: 1,
        ..Owner::user(uid)
    }
}

/// Each rule beats those before it, although they are newer.
#[test]
fn precedence_app_destination_port_protocol_newest() {
    let both = RuleMatch {
        ports: PortRange::new(80, 90),
        ..proto(RuleProtocol::Tcp)
    };
    let ladder = [
        RuleMatch::default(),
        RuleMatch {
            family: Some(Family::V4),
            ..RuleMatch::default()
        },
        proto(RuleProtocol::Tcp),
        port(1, 1000),
        port(80, 90),
        both,
        port(80, 80),
        dst("0.0.0.0/0"),
        dst("192.0.2.0/24"),
        dst("192.0.2.1/32"),
        domain(".example.com"),
        domain("*.example.com"),
        domain(".www.example.com"),
        domain("www.example.com"),
        RuleMatch {
            domain: domain("www.example.com").domain,
            ..dst("192.0.2.0/24")
        },
        src("0.0.0.0/0"),
        src("10.5.0.0/16"),
        RuleMatch {
            interface: Some("docker0".into()),
            ..RuleMatch::default()
        },
        uid(1000),
        RuleMatch {
            owner: uid(1000).owner,
            ..dst("192.0.0.0/16")
        },
    ];
    let key = flow([192, 0, 2, 1], 80);
    for stronger in 1..ladder.len() {
        for weaker in 0..stronger {
            let rules = compiled(vec![
                rule(9, ladder[weaker].clone(), "fr"),
                rule(1, ladder[stronger].clone(), "uk"),
            ]);
            let owner = program(1000, "/bin/a");
            let decision = rules.decide_named(Some(&owner), &key, &names::www());
            assert_eq!(
                decision.rule,
                Some(RuleId(1)),
                "{} must beat {}",
                ladder[stronger],
                ladder[weaker]
            );
        }
    }
    let same = compiled(vec![rule(2, uid(1000), "uk"), rule(3, exe("/bin/a"), "fr")]);
    assert_eq!(same.decide(Some(&program(1000, "/bin/a")), &key).action, FR);
    assert_eq!(same.decide(Some(&program(1000, "/bin/b")), &key).action, UK);
}

#[test]
fn ports_match_only_protocols_that_have_them() {
    let rules = compiled(vec![rule(1, port(0, 65535), "uk")]);
    let ping = FlowKey::new(
        Protocol::ICMP,
        ([10, 5, 0, 2].into(), 7),
        ([192, 0, 2, 1].into(), 0),
    );
    assert_eq!(rules.decide(None, &ping).action, DEFAULT);
    assert_eq!(rules.decide(None, &flow([192, 0, 2, 1], 9)).action, UK);
}

#[test]
fn what_cannot_be_carried_out_blocks_and_is_reported() {
    let snapshot = RuleSnapshot::from(vec![
        rule(1, RuleMatch::default(), "fr"),
        rule(2, uid(1000), "nowhere"),
        rule(3, uid(1001), "direct"),
    ]);
    let rules = CompiledRules::compile(&snapshot, &tunnels, DEFAULT).unwrap();
    let key = flow([192, 0, 2, 1], 80);
    let decide = |uid| rules.decide(Some(&Owner::user(uid)), &key).action;
    assert_eq!(decide(1000), Target::Block(DropReason::NoSuchTunnel));
    assert_eq!(decide(1001), Target::Block(DropReason::BlockedByRule));
    assert_eq!(decide(1002), FR);
    let missing = RuleError::NoSuchTunnel {
        rule: RuleId(2),
        tunnel: "nowhere".into(),
    };
    let direct = RuleError::DirectUnavailable { rule: RuleId(3) };
    assert_eq!(rules.problems(), [missing, direct]);
}

#[test]
fn too_many_rules_are_refused_whole() {
    let one = rule(1, RuleMatch::default(), "uk");
    let rules = vec![one; MAX_RULES + 1];
    let errors = CompiledRules::check(&RuleSnapshot::from(rules), &tunnels);
    assert!(matches!(errors[..], [RuleError::TooMany { .. }]));
}

/// N-1: an unknown owner was given to the first rule in the map.
#[test]
fn an_unknown_owner_is_nobodys_and_blocked_only_where_it_matters() {
    let with_port = RuleMatch {
        owner: uid(1000).owner,
        ..port(443, 443)
    };
    let rules = compiled(vec![
        rule(1, RuleMatch::default(), "fr"),
        rule(2, with_port, "uk"),
    ]);
    let web = flow([192, 0, 2, 1], 443);
    let unknown = Target::Block(DropReason::OwnerUnknown);
    assert_eq!(rules.needs_owner(&web), Some(OwnerDetail::Uid));
    assert_eq!(rules.decide(None, &web).action, unknown);
    let other = flow([192, 0, 2, 1], 80);
    assert_eq!(rules.needs_owner(&other), None);
    assert_eq!(rules.decide(None, &other).action, FR);
    assert_eq!(rules.wants(), Some(OwnerDetail::Uid));

    let rules = compiled(vec![rule(1, exe("/bin/a"), "uk"), rule(2, uid(0), "fr")]);
    assert_eq!(rules.needs_owner(&web), Some(OwnerDetail::Process));
    assert_eq!(rules.decide(Some(&Owner::user(0)), &web).action, unknown);
    assert_eq!(rules.decide(Some(&program(0, "/x")), &web).action, FR);
    assert_eq!(compiled(vec![]).wants(), None);
}

#[test]
fn explain_names_the_winner_and_the_beaten_in_order() {
    let rules = compiled(vec![
        rule(1, RuleMatch::default(), "fr"),
        rule(2, uid(1000), "uk"),
        rule(3, dst("192.0.2.0/24"), "block"),
        rule(4, dst("198.51.100.0/24"), "us"),
    ]);
    let why = rules.explain(Some(&Owner::user(1000)), &flow([192, 0, 2, 1], 80));
    assert_eq!(why.winner.as_ref().unwrap().id, RuleId(2));
    let beaten: Vec<u64> = why.beaten.iter().map(|c| c.id.0).collect();
    assert_eq!(beaten, [3, 1]);
    assert!(why.to_string().starts_with("rule#2: uid 1000 -> tunnel#0"));
    assert!(
        rules
            .explain(None, &flow([192, 0, 2, 1], 80))
            .winner
            .is_none()
    );
}

#[test]
fn a_rule_is_small() {
    assert!(size_of::<super::entry::Entry>() <= 192);
}
