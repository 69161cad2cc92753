//! The index against the precedence of the module's essay, written down a second time and searched
//! in order.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::path::PathBuf;

use proptest::prelude::*;
use vpn_core::DomainPattern;
use vpn_core::domain::DomainScope;

use super::names::Seen;
use super::*;

/// How the essay ranks a rule.
pub(crate) fn rank(rule: &Rule) -> impl Ord + use<> {
    let m = &rule.matches;
    let length = |net: Option<ipnet::IpNet>| net.map_or(-1, |n| i32::from(n.prefix_len()));
    let labels = |p: &DomainPattern| p.domain().as_str().split('.').count();
    let scope = |p: &DomainPattern| match p.scope() {
        DomainScope::Exact => 3,
        DomainScope::Below => 2,
        DomainScope::Whole => 1,
    };
    let width = m
        .ports
        .map_or(65_536, |p| i32::from(p.last()) - i32::from(p.first()));
    (
        m.owner.is_some(),
        length(m.source),
        m.domain.as_ref().map(|p| (labels(p), scope(p))),
        length(m.destination),
        Reverse(width),
        m.protocol.is_some(),
        m.family.is_some(),
        rule.id,
    )
}

fn oracle(rules: &[Rule], owner: &Owner, key: &FlowKey, seen: &Seen) -> Option<RuleId> {
    let meant = |rule: &&Rule| {
        let m = &rule.matches;
        let owned = match &m.owner {
            None => true,
            Some(OwnerMatch::Uid(uid)) => *uid == owner.uid,
            Some(OwnerMatch::Executable(path)) => owner.executable.as_deref() == Some(path),
            Some(_) => false,
        };
        let named = m.domain.as_ref().is_none_or(|pattern| {
            // All rules lead to the first tunnel.
            seen.0.iter().any(|(addr, tunnel, name)| {
                *addr == key.dst()
                    && tunnel.is_none_or(|t| Target::Tunnel(t) == UK)
                    && pattern.matches(name)
            })
        });
        owned && named && m.matches_flow(key)
    };
    let best = rules.iter().filter(meant).max_by_key(|rule| rank(rule));
    best.map(|rule| rule.id)
}

fn any_net() -> impl Strategy<Value = ipnet::IpNet> {
    let v4 = (0u8..2, 0u8..4, 0u8..=32)
        .prop_map(|(c, d, len)| ipnet::IpNet::new(IpAddr::from([192, 0, c, d]), len).unwrap());
    let v6 = (0u16..4, 0u8..=128).prop_map(|(d, len)| {
        let addr = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, d]);
        ipnet::IpNet::new(addr, len).unwrap()
    });
    prop_oneof![v4, v6]
}

const NAMES: [&str; 5] = ["a.b.test", "b.test", "c.b.test", "test", "x.a.b.test"];

pub(super) fn any_match() -> impl Strategy<Value = RuleMatch> {
    let owner = prop_oneof![
        Just(None),
        (0u32..3).prop_map(|uid| Some(OwnerMatch::Uid(uid))),
        (0u8..3).prop_map(|n| Some(OwnerMatch::Executable(PathBuf::from(format!("/bin/{n}"))))),
    ];
    let ports = (0u16..6, 0u16..6).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)));
    let protocol = prop_oneof![
        Just(RuleProtocol::Tcp),
        Just(RuleProtocol::Udp),
        Just(RuleProtocol::Icmp)
    ];
    let source = (0u8..2, 8u8..=32)
        .prop_map(|(d, len)| ipnet::IpNet::new(IpAddr::from([10, 5, 0, d]), len).unwrap());
    let pattern = (0usize..NAMES.len(), 0usize..3).prop_map(|(i, scope)| {
        format!("{}{}", ["", ".", "*."][scope], NAMES[i])
            .parse()
            .unwrap()
    });
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    (
        owner,
        prop::option::of(any_net()),
        prop_oneof![Just(None), ports],
        prop::option::of(protocol),
        prop::option::weighted(0.2, source),
        prop::option::weighted(0.3, pattern),
        prop::option::weighted(0.2, family),
    )
        .prop_map(
            |(owner, destination, ports, protocol, source, domain, family)| RuleMatch {
                owner,
                source,
                interface: None,
                destination,
                domain,
                family,
                ports,
                protocol,
            },
        )
}

pub(super) fn any_flow() -> impl Strategy<Value = FlowKey> {
    let protocol = prop_oneof![
        Just(Protocol::TCP),
        Just(Protocol::UDP),
        Just(Protocol::ICMP),
        Just(Protocol(47))
    ];
    (protocol, any::<bool>(), 0u8..2, 0u8..4, 0u16..7, 0u8..3).prop_map(|(p, v6, c, d, port, s)| {
        if v6 {
            let dst = [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(d)];
            let src = [0xfd00, 0, 0, 0, 0, 0, 0, 2u16];
            FlowKey::new(p, (src.into(), 1), (dst.into(), port))
        } else {
            FlowKey::new(p, ([10, 5, 0, s].into(), 1), ([192, 0, c, d].into(), port))
        }
    })
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let answer =
        (any::<bool>(), 0u8..4, 0u16..3, 0usize..NAMES.len()).prop_map(|(v6, d, tunnel, name)| {
            let addr = if v6 {
                IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(d)])
            } else {
                IpAddr::from([192, 0, 1, d])
            };
            let tunnel = tunnel.checked_sub(1).map(TunnelId::new);
            (addr, tunnel, NAMES[name].parse().unwrap())
        });
    prop::collection::vec(answer, 0..12).prop_map(Seen)
}

proptest! {
    /// Up to 120 rules: lists as well as tries and buckets with many ports.
    #[test]
    fn the_index_decides_like_the_oracle(
        matches in prop::collection::vec(any_match(), 0..120),
        seen in any_seen(),
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
            let decision = compiled.decide_named(Some(&owner), &key, &seen);
            prop_assert_eq!(decision.rule, oracle(&rules, &owner, &key, &seen));
            let why = compiled.explain_named(Some(&owner), &key, &seen);
            prop_assert_eq!(why.winner.map(|c| c.id), decision.rule);
            // Whoever owns it, the answer is the same if the rules say the owner does not matter.
            if compiled.needs_owner_named(&key, &seen).is_none() {
                prop_assert_eq!(compiled.decide_named(None, &key, &seen), decision);
            }
        }
    }
}
