//! What goes around the device: never anything that rules would send elsewhere.

use std::net::IpAddr;

use proptest::prelude::*;
use vpn_core::{Bypass, Way};

use super::oracle::{any_flow, any_match};
use super::*;

const DIRECT: Target = Target::Tunnel(TunnelId::new(9));

/// The first entry that matches, as a system that has only the packet and the socket's user.
fn way(list: &[Bypass], uid: u32, flow: &FlowKey) -> Way {
    let ports = flow.protocol() == Protocol::TCP || flow.protocol() == Protocol::UDP;
    let meant = |entry: &&Bypass| {
        entry.uids.as_ref().is_none_or(|uids| uids.contains(&uid))
            && entry
                .destination
                .is_none_or(|net| net.contains(&flow.dst()))
            && entry
                .protocol
                .is_none_or(|protocol| protocol == flow.protocol())
            && entry
                .ports
                .is_none_or(|range| ports && range.contains(flow.dst_port()))
            && entry.family.is_none_or(|family| family == flow.family())
    };
    list.iter()
        .find(meant)
        .map_or(Way::Capture, |entry| entry.way)
}

#[test]
fn a_user_goes_around_and_others_do_not() {
    let rules = compiled(vec![
        rule(1, uid(1004), "direct"),
        rule(2, RuleMatch::default(), "uk"),
    ]);
    let key = flow([192, 0, 2, 1], 80);
    assert_eq!(way(rules.bypass(), 1004, &key), Way::Main);
    assert_eq!(way(rules.bypass(), 1005, &key), Way::Capture);
    assert_eq!(
        rules.bypass().len(),
        1,
        "what is captured last is not listed"
    );
}

/// The user's own rule beats the one for the network, so the network's must not come first.
#[test]
fn a_stronger_rule_is_captured_before_a_weaker_one_goes_around() {
    let rules = compiled(vec![
        rule(1, dst("192.0.2.0/24"), "direct"),
        rule(2, uid(1001), "uk"),
    ]);
    let key = flow([192, 0, 2, 1], 80);
    assert_eq!(way(rules.bypass(), 1001, &key), Way::Capture);
    assert_eq!(way(rules.bypass(), 1002, &key), Way::Main);
}

/// Linux refuses the number of nobody, and with it the whole plan.
#[test]
fn a_user_that_is_not_there_is_not_in_the_list() {
    let rules = compiled(vec![
        rule(1, uid(1004), "direct"),
        rule(2, uid(u32::MAX), "direct"),
        rule(3, uid(u32::MAX), "uk"),
        rule(4, RuleMatch::default(), "direct"),
    ]);
    let users: Vec<_> = rules.bypass().iter().map(|e| e.uids.clone()).collect();
    assert_eq!(users, [Some(1004..=1004), None]);
}

#[test]
fn what_the_system_cannot_tell_is_captured() {
    let rules = compiled(vec![
        rule(1, exe("/usr/bin/curl"), "uk"),
        rule(2, dst("192.0.2.0/24"), "direct"),
    ]);
    assert_eq!(rules.bypass(), [], "anybody may be that program");
    let rules = compiled(vec![
        rule(1, exe("/usr/bin/curl"), "direct"),
        rule(2, dst("192.0.2.0/24"), "direct"),
    ]);
    assert_eq!(rules.bypass().len(), 1);
}

#[test]
fn nothing_goes_around_a_packet_filter() {
    let mut snapshot = RuleSnapshot::from(vec![rule(1, RuleMatch::default(), "direct")]);
    let compile = |snapshot: &RuleSnapshot| {
        CompiledRules::compile(snapshot, &World, DEFAULT)
            .unwrap()
            .bypass()
            .len()
    };
    assert_eq!(compile(&snapshot), 1);
    snapshot.filters.push(vpn_core::FilterRule {
        id: RuleId(1),
        direction: vpn_core::rule::FilterDirection::Both,
        tunnel: None,
        family: None,
        protocol: None,
        remote: None,
        ports: None,
        icmp: None,
        fragments: false,
        action: vpn_core::rule::FilterAction::Drop,
    });
    assert_eq!(compile(&snapshot), 0);
}

#[test]
fn a_long_list_ends_in_capture() {
    let mut rules: Vec<Rule> = (0..2 * MAX_BYPASS as u64)
        .map(|id| rule(id + 10, uid(id as u32), "direct"))
        .collect();
    rules.push(rule(1, RuleMatch::default(), "uk"));
    let rules = compiled(rules);
    assert_eq!(rules.bypass().len(), MAX_BYPASS);
}

proptest! {
    /// The system lets nothing pass that the router would send into a tunnel or drop.
    #[test]
    fn what_goes_around_is_direct_by_the_rules(
        matches in prop::collection::vec((any_match(), any::<bool>()), 0..25),
        default_is_direct in any::<bool>(),
        flows in prop::collection::vec((any_flow(), 0u32..4, 0u8..4), 1..20),
        named in any::<bool>(),
    ) {
        let rules: Vec<Rule> = (1u64..)
            .zip(matches)
            .map(|(id, (m, direct))| rule(id * 7919 % 131, m, if direct { "direct" } else { "uk" }))
            .collect();
        let default = if default_is_direct { DIRECT } else { DEFAULT };
        let compiled =
            CompiledRules::compile(&RuleSnapshot::from(rules), &World, default).unwrap();
        for (key, uid, path) in flows {
            let owner = program(uid, &format!("/bin/{path}"));
            let seen = names::Seen(match (named, key.dst()) {
                (true, addr @ IpAddr::V4(_)) => vec![(addr, None, "a.b.test".parse().unwrap())],
                _ => Vec::new(),
            });
            if way(compiled.bypass(), uid, &key) == Way::Main {
                let decision = compiled.decide_named(Some(&owner), &key, &seen);
                prop_assert_eq!(decision.action, DIRECT);
            }
        }
    }
}
