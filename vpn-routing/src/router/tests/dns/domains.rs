//! Rules with domains: from the query to the first connection after it.

use std::time::Duration;

use super::*;

/// R11: the rule applies to the query, and to the first connection after the lookup.
#[test]
fn a_domain_rule_takes_the_query_and_the_first_connection_after_it() {
    let mut world = two_regions();
    world.rule_for_domain(1001, ".example.com", "fr");
    assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some("uk"));
    look_up(&mut world, 1001, "fr", "www.Example.com", "192.0.2.1", 60);
    assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some("fr"));
    assert_eq!(
        way(&mut world, 1001, "192.0.2.2"),
        Some("uk"),
        "another address"
    );
    assert_eq!(way(&mut world, 1002, "192.0.2.1"), Some("fr"));
}

#[test]
fn exact_suffix_and_wildcard_and_the_longest_wins() {
    let cases = [
        ("example.com", "example.com", true),
        ("example.com", "www.example.com", false),
        (".example.com", "example.com", true),
        (".example.com", "a.b.example.com", true),
        (".example.com", "badexample.com", false),
        ("*.example.com", "example.com", false),
        ("*.example.com", "www.example.com", true),
    ];
    for (pattern, name, matches) in cases {
        let mut world = two_regions();
        world.rule_for_domain(1001, pattern, "fr");
        let tunnel = if matches { "fr" } else { "uk" };
        look_up(&mut world, 1001, tunnel, name, "192.0.2.1", 60);
        assert_eq!(
            way(&mut world, 1001, "192.0.2.1"),
            Some(tunnel),
            "{pattern} {name}"
        );
    }
    let mut world = two_regions();
    world.rule_for_domain(1001, "www.example.com", "uk");
    world.rule_for_domain(1001, ".example.com", "fr");
    world.rule_for_domain(1001, ".com", "block");
    look_up(&mut world, 1001, "uk", "www.example.com", "192.0.2.1", 60);
    look_up(&mut world, 1001, "fr", "a.example.com", "192.0.2.2", 60);
    assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some("uk"));
    assert_eq!(way(&mut world, 1001, "192.0.2.2"), Some("fr"));
}

/// One address, two names, two tunnels: what one tunnel's resolver says moves nobody to another.
#[test]
fn names_of_one_address_in_two_tunnels_stay_apart() {
    let mut world = two_regions();
    world.rule_for_domain(1001, "a.example", "fr");
    world.rule_for_domain(1002, "b.example", "uk");
    // The uk's resolver is asked for b by 1002 and answers with the address that fr's gives for a.
    look_up(&mut world, 1002, "uk", "b.example", "192.0.2.1", 60);
    assert_eq!(
        way(&mut world, 1001, "192.0.2.1"),
        Some("uk"),
        "a is not known yet"
    );
    look_up(&mut world, 1001, "fr", "a.example", "192.0.2.1", 60);
    assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some("fr"));
    assert_eq!(way(&mut world, 1002, "192.0.2.1"), Some("uk"));
    // What the uk's resolver says of a name whose rule leads to fr is not heard there.
    let mut world = two_regions();
    world.rule(1003, "uk");
    world.rule_for_domain(1001, "a.example", "fr");
    look_up(&mut world, 1003, "uk", "a.example", "192.0.2.7", 60);
    assert_eq!(way(&mut world, 1001, "192.0.2.7"), Some("uk"));
}

/// One socket asks for names of two tunnels: the flow moves, and what it asked before is not
/// waited for any more.
#[test]
fn a_query_for_a_name_of_another_tunnel_moves_the_flow() {
    let mut world = two_regions();
    world.rule_for_domain(1001, "example.com", "fr");
    world.rule_for_domain(1001, "blocked.example", "block");
    ask(&mut world, 1001, 1, VIRTUAL, &query(1, "other.example", A));
    ask(
        &mut world,
        1001,
        1,
        VIRTUAL,
        &query(2, "blocked.example", A),
    );
    assert_eq!(world.drops(DropReason::BlockedByRule), 1);
    reply(&mut world, "uk", 1, &answer(1, "other.example", A, &[]));
    assert_eq!(
        world.delivered().len(),
        1,
        "a blocked name disturbs no other query"
    );
    ask(&mut world, 1001, 1, VIRTUAL, &query(3, "other.example", A));
    ask(&mut world, 1001, 1, VIRTUAL, &query(4, "example.com", A));
    assert_eq!(world.sent("uk").len(), 2);
    assert_eq!(world.sent("fr").len(), 1);
    reply(&mut world, "uk", 1, &answer(3, "other.example", A, &[]));
    reply(&mut world, "fr", 1, &answer(3, "other.example", A, &[]));
    assert!(world.delivered().is_empty());
    reply(&mut world, "fr", 1, &answer(4, "example.com", A, &[]));
    assert_eq!(world.delivered().len(), 1);
}

#[test]
fn a_name_holds_for_its_ttl_and_at_least_a_minute() {
    for (ttl, seconds) in [(1, 60), (300, 300)] {
        let mut world = two_regions();
        world.rule_for_domain(1001, "example.com", "fr");
        look_up(&mut world, 1001, "fr", "example.com", "192.0.2.1", ttl);
        world.advance(Duration::from_millis(seconds * 1000 - 1));
        assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some("fr"));
        world.advance(Duration::from_millis(1));
        assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some("uk"), "{ttl}");
    }
}

/// A flow that outlives the TTL must not be handed to the next rule when rules change.
#[test]
fn a_live_flow_keeps_the_name_it_was_looked_up_by() {
    let mut world = two_regions();
    world.rule_for_domain(1001, "example.com", "fr");
    look_up(&mut world, 1001, "fr", "example.com", "192.0.2.1", 60);
    world.socket(Protocol::UDP, (APP, 9), 1001, 9);
    for _ in 0..20 {
        world.send([udp((APP, 9), ("192.0.2.1", 443), b"more")]);
        assert_eq!(world.sent("fr").len(), 1);
        for _ in 0..10 {
            world.advance(Duration::from_secs(1));
        }
    }
    world.rule(1002, "uk");
    world.send([udp((APP, 9), ("192.0.2.1", 443), b"more")]);
    assert_eq!(world.sent("fr").len(), 1);
    assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some("fr"));
}

/// A rule whose tunnel is down blocks: its names are remembered, or the next rule would have the
/// flow.
#[test]
fn a_domain_whose_tunnel_is_down_is_blocked_and_a_removed_tunnels_is_forgotten() {
    let mut world = two_regions();
    world.rule_for_domain(1001, "example.com", "fr");
    look_up(&mut world, 1001, "fr", "example.com", "192.0.2.1", 60);
    world.down("fr");
    assert_eq!(way(&mut world, 1001, "192.0.2.1"), None);
    assert_eq!(world.drops(DropReason::TunnelDown), 1);
    ask(&mut world, 1001, 1, VIRTUAL, &query(1, "example.com", A));
    assert_eq!(world.drops(DropReason::TunnelDown), 2);
    let fr = world.id("fr");
    let now = world.now;
    world.router.remove_tunnel(now, fr);
    assert_eq!(world.router.status().dns.names, 0);
}

#[test]
fn a_blocked_domain_is_blocked_as_query_and_as_address_whoever_gave_it() {
    let mut world = two_regions();
    look_up(&mut world, 1001, "uk", "ads.example", "192.0.2.1", 60);
    world.rule_for_domain(1001, ".ads.example", "block");
    ask(&mut world, 1001, 1, VIRTUAL, &query(1, "x.ads.example", A));
    assert_eq!(way(&mut world, 1001, "192.0.2.1"), None);
    assert_eq!(world.drops(DropReason::BlockedByRule), 2);
}

/// An app with a resolver of its own has domain rules too, if it asks in plain DNS.
#[test]
fn a_chosen_resolver_feeds_the_rules_and_only_with_answers_that_were_asked_for() {
    let mut world = two_regions();
    world.rule_for_domain(1001, "example.com", "fr");
    let chosen = "192.0.2.99";
    ask(&mut world, 1001, 1, chosen, &query(7, "example.com", A));
    assert_eq!(flow_of(&world.sent("fr")[0]).dst(), addr(chosen));
    for (id, way_after) in [(8, "uk"), (7, "fr")] {
        let says = [Says::Address("example.com", "192.0.2.1", 60)];
        let message = answer(id, "example.com", A, &says);
        world.receive("fr", &udp((chosen, 53), (FR.0, 1), &message));
        assert_eq!(world.delivered().len(), 1);
        assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some(way_after));
    }
}

#[test]
fn the_book_is_bounded_and_the_oldest_goes() {
    let mut world = with_limits(DnsLimits {
        tunnel_names: 2,
        ..DnsLimits::default()
    });
    world.rule_for_domain(1001, ".example.com", "fr");
    for (name, address) in [
        ("a.example.com", "192.0.2.1"),
        ("b.example.com", "192.0.2.2"),
        ("c.example.com", "192.0.2.3"),
    ] {
        look_up(&mut world, 1001, "fr", name, address, 60);
    }
    assert_eq!(world.router.status().dns.names, 2);
    assert_eq!(way(&mut world, 1001, "192.0.2.1"), Some("uk"));
    assert_eq!(way(&mut world, 1001, "192.0.2.3"), Some("fr"));
}

/// Where only a domain is allowed, an answer that comes back under new rules is still judged by
/// the name it is about.
#[test]
fn an_answer_under_new_rules_is_judged_by_its_name() {
    let mut world = two_regions();
    world.rule(1003, "block");
    world.rule_for_domain(1003, "example.com", "fr");
    ask(&mut world, 1003, 1, VIRTUAL, &query(1, "example.com", A));
    assert_eq!(world.sent("fr").len(), 1);
    world.rule(1001, "uk");
    reply(&mut world, "fr", 1, &answer(1, "example.com", A, &[]));
    assert_eq!(world.delivered().len(), 1);
}

/// A name that is blocked by now: its answer does not pass, and disturbs no other of the socket's.
#[test]
fn an_answer_about_a_name_that_is_blocked_since_is_dropped_alone() {
    let mut world = two_regions();
    for (id, name) in [(1, "a.example"), (2, "b.example"), (3, "c.example")] {
        ask(&mut world, 1001, 1, VIRTUAL, &query(id, name, A));
    }
    world.rule_for_domain(1001, "b.example", "block");
    ask(&mut world, 1001, 1, VIRTUAL, &query(4, "b.example", A));
    assert_eq!(world.sent("uk").len(), 3);
    for (id, name, passes) in [
        (1, "a.example", 1),
        (2, "b.example", 0),
        (3, "c.example", 1),
    ] {
        reply(&mut world, "uk", 1, &answer(id, name, A, &[]));
        assert_eq!(world.delivered().len(), passes, "{name}");
    }
    assert_eq!(world.drops(DropReason::BlockedByRule), 2);
}

/// Queries wait for a connecting tunnel and are decided again, each by its own name, when rules
/// change meanwhile.
#[test]
fn a_waiting_query_goes_where_new_rules_send_its_name() {
    let mut world = two_regions();
    world.rule_for_domain(1001, "example.com", "fr");
    world.state("fr", vpn_core::TransportState::Connecting);
    ask(&mut world, 1001, 1, VIRTUAL, &query(1, "example.com", A));
    world.rule(1002, "uk");
    assert_eq!(world.router.accounts().held, 1, "nothing changed for it");
    world.advance(Duration::from_secs(3));
    world.rule(1002, "fr");
    world.advance(Duration::from_secs(2));
    assert_eq!(
        world.drops(DropReason::TunnelConnecting),
        1,
        "nor its patience"
    );
    ask(&mut world, 1001, 1, VIRTUAL, &query(1, "example.com", A));
    world.rule_for_domain(1001, "example.com", "uk");
    assert_eq!(world.sent("uk").len(), 1);
    reply(&mut world, "uk", 1, &answer(1, "example.com", A, &[]));
    assert_eq!(world.delivered().len(), 1);
}

#[test]
fn a_flow_is_explained_with_the_names_of_its_destination() {
    let mut world = two_regions();
    world.rule_for_domain(1001, "example.com", "fr");
    look_up(&mut world, 1001, "fr", "example.com", "192.0.2.1", 60);
    let flow =
        |to: &str, port| vpn_core::FlowKey::new(Protocol::UDP, (addr(APP), 9), (addr(to), port));
    let owner = vpn_core::Owner::user(1001);
    let told = world.router.explain(Some(&owner), flow("192.0.2.1", 443));
    assert_eq!(told.tunnel.as_deref(), Some("fr"));
    let names = told
        .names
        .iter()
        .map(|(tunnel, name)| (*tunnel, name.as_str()));
    assert_eq!(names.collect::<Vec<_>>(), [(world.id("fr"), "example.com")]);
    let told = world.router.explain(Some(&owner), flow(VIRTUAL, 53));
    assert_eq!(told.resolver, Some(addr(UK.1)));
    let name = "example.com".parse().unwrap();
    let told = world
        .router
        .explain_query(Some(&owner), flow(VIRTUAL, 53), &name);
    assert_eq!(told.resolver, Some(addr(FR.1)));
}

/// The rules ask for nobody, until a name comes along that one user has a rule for.
#[test]
fn an_owner_is_asked_for_when_the_name_makes_it_matter() {
    let config = RouterConfig {
        resolvers: vec![addr(VIRTUAL)],
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, &[("uk", &[]), ("fr", &[])]);
    world.up("uk", &["10.5.0.2/32"], &[UK.1]);
    world.up("fr", &["10.5.0.2/32"], &[FR.1]);
    world.rule_for_all("uk");
    world.rule_for_domain(1001, "example.com", "fr");
    world.slow_owners = true;
    // The same socket, within the millisecond in which its owner cannot change.
    ask(&mut world, 1001, 1, VIRTUAL, &query(1, "other.example", A));
    ask(&mut world, 1001, 1, VIRTUAL, &query(2, "example.com", A));
    assert_eq!((world.sent("uk").len(), world.asked.len()), (1, 1));
    world.answer_owners();
    assert_eq!(world.sent("fr").len(), 1);
    // A user without a rule for the name follows the rule for all.
    ask(&mut world, 1002, 2, VIRTUAL, &query(3, "example.com", A));
    world.answer_owners();
    assert_eq!(world.sent("uk").len(), 1);
}
