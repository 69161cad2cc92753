//! Precedence against a naive oracle, failing closed, and explanations.

#[cfg(feature = "tokio")]
mod feed;
mod swap;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use vpn_core::flow::{FlowKey, Protocol};
use vpn_core::rule::RuleProtocol;
use vpn_core::{
    Action, DropReason, Owner, OwnerDetail, OwnerMatch, PortRange, Rule, RuleId, RuleMatch,
    RuleSnapshot, TunnelId,
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
    Rule {
        id: RuleId(id),
        matches,
        action: match to {
            "block" => Action::Block,
            "direct" => Action::Direct,
            name => Action::Tunnel(name.into()),
        },
    }
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

pub(super) fn compiled(rules: Vec<Rule>) -> CompiledRules {
    CompiledRules::compile(&RuleSnapshot { rules }, &tunnels, DEFAULT).unwrap()
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
        proto(RuleProtocol::Tcp),
        port(1, 1000),
        port(80, 90),
        both,
        port(80, 80),
        dst("0.0.0.0/0"),
        dst("192.0.2.0/24"),
        dst("192.0.2.1/32"),
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
            let decision = rules.decide(Some(&program(1000, "/bin/a")), &key);
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
    let rules = compiled(vec![
        rule(1, RuleMatch::default(), "fr"),
        rule(2, uid(1000), "nowhere"),
        rule(3, uid(1001), "direct"),
    ]);
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
    let errors = CompiledRules::check(&RuleSnapshot { rules }, &tunnels);
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
    assert!(size_of::<super::table::Entry>() <= 96);
}

/// The precedence of the module's essay, written down a second time and searched in order.
fn oracle(rules: &[Rule], owner: &Owner, key: &FlowKey) -> Option<RuleId> {
    let mut best: Option<&Rule> = None;
    for rule in rules {
        let m = &rule.matches;
        let owned = match &m.owner {
            None => true,
            Some(OwnerMatch::Uid(uid)) => *uid == owner.uid,
            Some(OwnerMatch::Executable(path)) => owner.executable.as_deref() == Some(path),
            Some(_) => false,
        };
        if !owned || !m.matches_flow(key.protocol(), key.dst(), key.dst_port()) {
            continue;
        }
        let beats = |old: &Rule| {
            let o = &old.matches;
            let length = |m: &RuleMatch| m.destination.map_or(-1, |n| i32::from(n.prefix_len()));
            let width = |m: &RuleMatch| {
                m.ports
                    .map_or(65_536, |p| i32::from(p.last()) - i32::from(p.first()))
            };
            if m.owner.is_some() != o.owner.is_some() {
                m.owner.is_some()
            } else if length(m) != length(o) {
                length(m) > length(o)
            } else if width(m) != width(o) {
                width(m) < width(o)
            } else if m.protocol.is_some() != o.protocol.is_some() {
                m.protocol.is_some()
            } else {
                rule.id > old.id
            }
        };
        if best.is_none_or(beats) {
            best = Some(rule);
        }
    }
    best.map(|rule| rule.id)
}

fn any_match() -> impl Strategy<Value = RuleMatch> {
    let owner = prop_oneof![
        Just(None),
        (0u32..3).prop_map(|uid| Some(OwnerMatch::Uid(uid))),
        (0u8..3).prop_map(|n| Some(OwnerMatch::Executable(PathBuf::from(format!("/bin/{n}"))))),
    ];
    let v4 = (0u8..2, 0u8..4, 0u8..=32).prop_map(|(c, d, len)| {
        ipnet::IpNet::new(std::net::IpAddr::from([192, 0, c, d]), len).unwrap()
    });
    let v6 = (0u16..4, 0u8..=128).prop_map(|(d, len)| {
        let addr = std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, d]);
        ipnet::IpNet::new(addr, len).unwrap()
    });
    let ports = (0u16..6, 0u16..6).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)));
    let protocol = prop_oneof![
        Just(RuleProtocol::Tcp),
        Just(RuleProtocol::Udp),
        Just(RuleProtocol::Icmp)
    ];
    (
        owner,
        prop::option::of(prop_oneof![v4, v6]),
        prop_oneof![Just(None), ports],
        prop::option::of(protocol),
    )
        .prop_map(|(owner, destination, ports, protocol)| RuleMatch {
            owner,
            destination,
            ports,
            protocol,
        })
}

fn any_flow() -> impl Strategy<Value = FlowKey> {
    let protocol = prop_oneof![
        Just(Protocol::TCP),
        Just(Protocol::UDP),
        Just(Protocol::ICMP),
        Just(Protocol(47))
    ];
    (protocol, any::<bool>(), 0u8..2, 0u8..4, 0u16..7).prop_map(|(p, v6, c, d, port)| {
        if v6 {
            let dst = [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(d)];
            let src = [0xfd00, 0, 0, 0, 0, 0, 0, 2u16];
            FlowKey::new(p, (src.into(), 1), (dst.into(), port))
        } else {
            FlowKey::new(p, ([10, 5, 0, 2].into(), 1), ([192, 0, c, d].into(), port))
        }
    })
}

proptest! {
    /// Up to 120 rules: lists as well as tries and buckets with many ports.
    #[test]
    fn the_index_decides_like_the_oracle(
        matches in prop::collection::vec(any_match(), 0..120),
        flows in prop::collection::vec((any_flow(), 0u32..4, 0u8..4), 1..20),
    ) {
        let rules: Vec<Rule> = matches
            .into_iter()
            .zip(1u64..)
            .map(|(matches, id)| rule(id * 7919 % 131, matches, "uk"))
            .collect();
        let compiled = compiled(rules.clone());
        for (key, uid, path) in flows {
            let owner = program(uid, &format!("/bin/{path}"));
            let decision = compiled.decide(Some(&owner), &key);
            prop_assert_eq!(decision.rule, oracle(&rules, &owner, &key));
            let why = compiled.explain(Some(&owner), &key);
            prop_assert_eq!(why.winner.map(|c| c.id), decision.rule);
            // Whoever owns it, the answer is the same if the rules say the owner does not matter.
            if compiled.needs_owner(&key).is_none() {
                prop_assert_eq!(compiled.decide(None, &key), decision);
            }
        }
    }
}
