//! Domains, sources, groups, direct: what names in rules stand for.

use std::net::IpAddr;

use vpn_core::{DomainName, OnChange, OnDown};

use super::*;

/// Answers that were seen.
#[derive(Debug, Default)]
pub(super) struct Seen(pub(super) Vec<(IpAddr, Option<TunnelId>, DomainName)>);

impl Domains for Seen {
    fn visit(&self, addr: IpAddr, found: &mut dyn FnMut(Option<TunnelId>, &DomainName)) {
        for (_, tunnel, name) in self.0.iter().filter(|(a, ..)| *a == addr) {
            found(*tunnel, name);
        }
    }
}

pub(super) fn seen(addr: [u8; 4], tunnel: Option<u16>, name: &str) -> Seen {
    let tunnel = tunnel.map(TunnelId::new);
    Seen(vec![(addr.into(), tunnel, name.parse().unwrap())])
}

/// 192.0.2.1 is www.example.com, whoever is asked.
pub(super) fn www() -> Seen {
    seen([192, 0, 2, 1], None, "www.example.com")
}

#[test]
fn a_domain_rule_takes_the_word_of_its_own_tunnel_only() {
    let rules = compiled(vec![rule(1, domain("www.example.com"), "uk")]);
    let key = flow([192, 0, 2, 1], 443);
    let decide =
        |tunnel| rules.decide_named(None, &key, &seen([192, 0, 2, 1], tunnel, "www.example.com"));
    assert_eq!(decide(Some(0)).action, UK);
    assert_eq!(decide(Some(1)).action, DEFAULT, "fr says so");
    assert_eq!(rules.decide(None, &key).action, DEFAULT, "nobody says so");
}

#[test]
fn what_blocks_takes_anybodys_word() {
    let rules = compiled(vec![
        rule(1, domain(".example.com"), "block"),
        rule(2, RuleMatch::default(), "uk"),
    ]);
    let key = flow([192, 0, 2, 1], 443);
    let decision = rules.decide_named(
        None,
        &key,
        &seen([192, 0, 2, 1], Some(1), "www.example.com"),
    );
    assert_eq!(decision.action, Target::Block(DropReason::BlockedByRule));
}

#[test]
fn a_query_is_decided_as_what_it_asks_for() {
    let rules = compiled(vec![
        rule(1, domain("*.example.com"), "fr"),
        rule(2, RuleMatch::default(), "uk"),
    ]);
    let key = flow([100, 127, 255, 53], 53);
    let ask = |name: &str| {
        rules
            .decide_named(None, &key, &Asked(&name.parse().unwrap()))
            .action
    };
    assert_eq!(ask("www.example.com"), FR);
    assert_eq!(ask("example.com"), UK);
}

/// Enough of them that they are indexed by domain.
#[test]
fn many_domains_are_found_by_their_longest() {
    let mut rules: Vec<Rule> = (0u64..50)
        .map(|i| rule(i + 10, domain(&format!(".d{i}.example.com")), "uk"))
        .collect();
    rules.push(rule(1, domain(".example.com"), "fr"));
    let rules = compiled(rules);
    let key = flow([192, 0, 2, 1], 443);
    let of = |name: &str| rules.decide_named(None, &key, &seen([192, 0, 2, 1], None, name));
    assert_eq!(of("a.d7.example.com").rule, Some(RuleId(17)));
    assert_eq!(of("a.other.example.com").rule, Some(RuleId(1)));
    assert_eq!(of("example.org").rule, None);
}

/// Containers have no socket here; their source says whose they are.
#[test]
fn an_unknown_owner_is_decided_by_a_rule_that_names_the_source_and_by_no_other() {
    let rules = compiled(vec![
        rule(1, uid(1000), "uk"),
        rule(2, RuleMatch::default(), "uk"),
        rule(3, src("172.17.0.0/16"), "fr"),
    ]);
    let from =
        |src: [u8; 4]| FlowKey::new(Protocol::TCP, (src.into(), 1), ([192, 0, 2, 1].into(), 80));
    let unknown = Target::Block(DropReason::OwnerUnknown);
    assert_eq!(rules.decide(None, &from([172, 17, 0, 2])).action, FR);
    assert_eq!(rules.decide(None, &from([10, 5, 0, 2])).action, unknown);
    let owner = Owner::user(1000);
    assert_eq!(
        rules.decide(Some(&owner), &from([172, 17, 0, 2])).action,
        UK
    );
}

#[test]
fn an_interface_stands_for_its_prefixes_and_an_unknown_one_blocks() {
    let by = |name: &str| RuleMatch {
        interface: Some(name.into()),
        ..RuleMatch::default()
    };
    let rules = compiled(vec![
        rule(1, by("docker0"), "fr"),
        rule(2, RuleMatch::default(), "uk"),
    ]);
    let key = flow([192, 0, 2, 1], 80);
    assert_eq!(rules.decide(None, &key).action, FR);
    let rules = compiled(vec![rule(1, by("nonesuch"), "fr")]);
    assert!(matches!(
        rules.problems(),
        [RuleError::NoSuchInterface { .. }]
    ));
    assert_eq!(
        rules.decide(None, &key).action,
        Target::Block(DropReason::BlockedByRule)
    );
}

#[test]
fn direct_is_a_tunnel_of_the_host_or_a_problem() {
    let rules = compiled(vec![rule(1, RuleMatch::default(), "direct")]);
    let key = flow([192, 0, 2, 1], 80);
    assert_eq!(
        rules.decide(None, &key).action,
        Target::Tunnel(TunnelId::new(9))
    );
    let snapshot = RuleSnapshot::from(vec![rule(1, RuleMatch::default(), "direct")]);
    let without = CompiledRules::compile(&snapshot, &tunnels, DEFAULT).unwrap();
    assert_eq!(
        without.problems(),
        [RuleError::DirectUnavailable { rule: RuleId(1) }]
    );
    assert_eq!(
        without.decide(None, &key).action,
        Target::Block(DropReason::BlockedByRule)
    );
}

#[test]
fn a_decision_says_what_live_flows_do_and_where_to_while_down() {
    let group = Rule::new(
        RuleId(1),
        RuleMatch::default(),
        Action::Group("europe".into()),
    )
    .on_change(OnChange::Reset)
    .on_down(OnDown::Fallback("fr".into()));
    let rules = compiled(vec![group]);
    let decision = rules.decide(None, &flow([192, 0, 2, 1], 80));
    assert_eq!(decision.action, Target::Group(GroupId::new(0)));
    assert_eq!(decision.on_change, OnChange::Reset);
    assert_eq!(decision.on_down, Some(FR));
    let lost = Rule::new(
        RuleId(1),
        RuleMatch::default(),
        Action::Group("asia".into()),
    );
    let rules = compiled(vec![lost]);
    assert!(matches!(rules.problems(), [RuleError::NoSuchGroup { .. }]));
}

/// What people write does not tell a group from a tunnel.
#[test]
fn a_name_is_that_of_a_tunnel_or_else_of_a_group() {
    let any = RuleMatch::default();
    let named = |name: &str| Action::Tunnel(name.into());
    let rules = compiled(vec![Rule::new(RuleId(1), any.clone(), named("europe"))]);
    let group = Target::Group(GroupId::new(0));
    let decide = |rules: &CompiledRules| rules.decide(None, &flow([192, 0, 2, 1], 80));
    assert_eq!(decide(&rules).action, group);
    let fallback = OnDown::Fallback("europe".into());
    let rules = compiled(vec![
        Rule::new(RuleId(1), any.clone(), named("uk")).on_down(fallback),
    ]);
    let decision = decide(&rules);
    assert_eq!((decision.action, decision.on_down), (UK, Some(group)));
    let rules = compiled(vec![Rule::new(RuleId(1), any, named("asia"))]);
    assert_eq!(
        decide(&rules).action,
        Target::Block(DropReason::NoSuchTunnel)
    );
}

/// A rule added while the program runs is newer than every rule of its file.
#[test]
fn an_added_rule_wins_a_tie_with_one_of_the_file() {
    let of_file = Rule::new(RuleId::of_file(7), uid(1), Action::Tunnel("fr".into()));
    let later = Rule::new(RuleId::of_file(8), uid(2), Action::Tunnel("fr".into()));
    let earlier = Rule::new(RuleId::of_file(3), uid(2), Action::Tunnel("uk".into()));
    let rules = compiled(vec![rule(1, uid(1), "uk"), of_file, later, earlier]);
    let key = flow([192, 0, 2, 1], 80);
    assert_eq!(rules.decide(Some(&Owner::user(1)), &key).action, UK);
    assert_eq!(rules.decide(Some(&Owner::user(2)), &key).action, FR);
}

#[test]
fn a_cgroup_means_those_below_it_and_the_nearest_wins() {
    let of = |path: &str| RuleMatch {
        owner: Some(OwnerMatch::Cgroup(path.into())),
        ..RuleMatch::default()
    };
    let rules = compiled(vec![
        rule(1, of("/user.slice/app"), "fr"),
        rule(2, of("/user.slice"), "uk"),
    ]);
    let decide = |path: &str| {
        let owner = Owner {
            cgroup: Some(Arc::from(Path::new(path))),
            ..Owner::user(7)
        };
        rules.decide(Some(&owner), &flow([192, 0, 2, 1], 80)).action
    };
    assert_eq!(decide("/user.slice/app/scope"), FR);
    assert_eq!(decide("/user.slice/application"), UK);
    assert_eq!(decide("/system.slice"), DEFAULT);
    let unknown = Target::Block(DropReason::OwnerUnknown);
    let key = flow([192, 0, 2, 1], 80);
    assert_eq!(rules.decide(Some(&Owner::user(7)), &key).action, unknown);
}

#[test]
fn a_package_is_what_the_host_says() {
    let of = |name: &str| RuleMatch {
        owner: Some(OwnerMatch::Package(name.into())),
        ..RuleMatch::default()
    };
    let rules = compiled(vec![rule(1, of("org.example.browser"), "fr")]);
    let owner = |name: &str| Owner {
        package: Some(name.into()),
        ..Owner::user(10_001)
    };
    let key = flow([192, 0, 2, 1], 80);
    assert_eq!(
        rules
            .decide(Some(&owner("org.example.browser")), &key)
            .action,
        FR
    );
    assert_eq!(
        rules.decide(Some(&owner("org.example.mail")), &key).action,
        DEFAULT
    );
}
