//! Routes that tunnels advertise: after rules, before the default, and only if admitted.

use std::sync::Arc;

use vpn_core::{Assigned, DropReason, Protocol, TransportState};

use super::world::{SITE, World, flow_of, tcp, udp};
use crate::routes::{RoutePolicy, RouteRefusal};

const TWO: &[(&str, &[&str])] = &[("uk", &["10.5.0.2/32"]), ("fr", &["10.5.0.2/32"])];

fn world() -> World {
    let mut world = World::new(TWO);
    for protocol in [Protocol::UDP, Protocol::TCP] {
        world.socket(protocol, ("10.5.0.2", 1), 1, 1);
        world.socket(protocol, ("10.5.0.2", 2), 2, 2);
    }
    world
}

fn advertise(world: &mut World, tunnel: &str, routes: &[&str]) {
    let assigned = Assigned {
        addresses: vec!["10.5.0.2/32".parse().unwrap()],
        mtu: 1420,
        routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        ..Assigned::default()
    };
    world.state(tunnel, TransportState::Up(Arc::new(assigned)));
}

fn admit(world: &mut World, tunnel: &str, policy: RoutePolicy) {
    let (id, now) = (world.id(tunnel), world.now);
    world.router.set_route_policy(now, id, policy);
}

fn datagram(port: u16) -> Vec<u8> {
    udp(("10.5.0.2", port), (SITE, 7), b"")
}

/// N-10: one pushed default route took every app.
#[test]
fn a_rule_beats_a_pushed_default_route() {
    let mut world = world();
    world.rule(1, "uk");
    admit(&mut world, "fr", RoutePolicy::All);
    advertise(&mut world, "fr", &["0.0.0.0/0"]);
    world.send([datagram(1), datagram(2)]);
    assert_eq!(world.sent("uk").len(), 1, "the rule's");
    assert_eq!(
        world.sent("fr").len(),
        1,
        "what only the default would decide"
    );
}

/// L-19: nobody asked for it.
#[test]
fn an_unsolicited_default_route_is_refused_and_reported() {
    let mut world = world();
    world.rule(1, "uk");
    for policy in [RoutePolicy::None, RoutePolicy::AllButDefault] {
        admit(&mut world, "fr", policy);
        advertise(&mut world, "fr", &["0.0.0.0/0"]);
        world.send([datagram(2)]);
        assert!(world.sent("fr").is_empty());
    }
    assert_eq!(world.drops(DropReason::BlockedByDefault), 2);
    let reasons: Vec<_> = world.reports.iter().map(|r| r.refusals[0].1).collect();
    assert_eq!(reasons, [RouteRefusal::Policy, RouteRefusal::Default]);
}

#[test]
fn the_longest_prefix_wins_and_flows_follow_a_change() {
    let mut world = world();
    world.rule(1, "uk");
    for tunnel in ["uk", "fr"] {
        admit(&mut world, tunnel, RoutePolicy::AllButDefault);
    }
    advertise(&mut world, "uk", &["203.0.0.0/16"]);
    world.send([datagram(2)]);
    assert_eq!(world.sent("uk").len(), 1);
    advertise(&mut world, "fr", &["203.0.113.0/24"]);
    world.send([datagram(2)]);
    assert_eq!(world.sent("fr").len(), 1, "the live flow as well");
    let told = world.router.explain(None, flow_of(&datagram(2)));
    assert_eq!(
        told.route, None,
        "with whose rule, if the owner is not known?"
    );
    let owner = vpn_core::Owner::user(2);
    let told = world.router.explain(Some(&owner), flow_of(&datagram(2)));
    assert_eq!(told.route, Some("203.0.113.0/24".parse().unwrap()));
    world.down("fr");
    world.send([datagram(2)]);
    assert!(world.sent("uk").is_empty(), "not to the shorter one");
    assert_eq!(world.drops(DropReason::TunnelDown), 1);
    let (fr, now) = (world.id("fr"), world.now);
    world.router.remove_tunnel(now, fr);
    world.send([datagram(2)]);
    assert_eq!(
        world.sent("uk").len(),
        1,
        "with the tunnel its route is gone"
    );
}

#[test]
fn a_live_connection_keeps_its_tunnel_when_a_route_appears() {
    let mut world = world();
    for tunnel in ["uk", "fr"] {
        admit(&mut world, tunnel, RoutePolicy::All);
    }
    advertise(&mut world, "uk", &["0.0.0.0/0"]);
    world.send([tcp(("10.5.0.2", 2), (SITE, 80), "S")]);
    world.receive("uk", &tcp((SITE, 80), ("10.5.0.2", 2), "SA"));
    advertise(&mut world, "fr", &["203.0.113.0/24"]);
    world.send([tcp(("10.5.0.2", 2), (SITE, 80), "A")]);
    assert_eq!(world.sent("uk").len(), 2);
}

#[test]
fn without_rules_no_route_counts() {
    let now = std::time::Instant::now();
    let mut router = crate::Router::new(crate::RouterConfig::default(), now);
    let id = router.add_tunnel("uk").unwrap();
    router.set_route_policy(now, id, RoutePolicy::All);
    let assigned = Assigned {
        addresses: vec!["10.5.0.2/32".parse().unwrap()],
        routes: vec!["0.0.0.0/0".parse().unwrap()],
        ..Assigned::default()
    };
    let state = TransportState::Up(Arc::new(assigned));
    router.handle_update(now, crate::router::Update::Tunnel(id, state));
    let mut batch = vpn_core::PacketBatch::new(1, 100);
    batch
        .push(vpn_core::Packet::from_slice(&datagram(1)))
        .unwrap();
    router.handle_device(now, &mut batch);
    assert_eq!(router.accounts().drops.get(DropReason::RulesCold), 1);
}
