//! By UDP or by TLS, on this network and the next one.

use super::*;

#[test]
fn tls_is_tried_after_a_second_and_udp_comes_back_without_a_gap() {
    let mut world = World::new();
    world.udp = false;
    world.run(1.2);
    assert_eq!(world.tls_opens, [Duration::from_secs(1)]);
    assert_eq!(world.link.way(), Some((Carrier::Tls, at(HUB))));
    let status = world.link.status();
    assert_eq!(status.why, "UDP is not answered");
    assert_eq!(status.observed, None);
    world.run(130.0);
    let hellos = world.hellos(Carrier::Udp);
    assert_eq!(hellos.len(), 3 * 3 * 2, "a minute apart: {hellos:?}");
    world.udp = true;
    world.run(70.0);
    assert_eq!(world.link.way(), Some((Carrier::Udp, at(HUB))));
    assert!(!world.tls_open, "closed after the change");
    assert_eq!(world.downs(), 0);
    assert_eq!(world.link.status().counters.returns, 1);
    assert_eq!(world.link.status().why, "");
}

/// A network that lets a first answer in and nothing after it.
#[test]
fn where_only_hellos_are_answered_by_udp_the_next_round_is_by_tls() {
    let mut world = World::new();
    world.deaf = true;
    world.run(8.5);
    assert_eq!(world.link.way(), Some((Carrier::Tls, at(HUB))));
    world.run(60.0);
    let by_tls = |it: &&(Carrier, ToHub)| matches!(it, (Carrier::Tls, ToHub::Ping { .. }));
    assert_eq!(
        world
            .hub
            .heard
            .last()
            .iter()
            .filter(|it| by_tls(it))
            .count(),
        1
    );
    assert_eq!(world.downs(), 0);
    world.deaf = false;
    world.run(60.0);
    assert_eq!(world.link.way(), Some((Carrier::Udp, at(HUB))));
}

#[test]
fn on_the_same_network_tls_is_tried_at_once_and_on_another_it_is_not() {
    let mut world = World::new();
    world.udp = false;
    world.run(10.0);
    world.link.tls_failed(world.now);
    world.tls_open = false;
    world.run(0.5);
    assert!(world.is_up(), "TLS was opened at once");
    world.udp = true;
    world.link.network_changed(world.now);
    world.run(1.0);
    assert_eq!(world.link.way(), Some((Carrier::Udp, at(HUB))));
}

#[test]
fn what_is_not_allowed_is_not_tried() {
    let mut world = World::with(|config| config.tls = false);
    world.udp = false;
    world.run(60.0);
    assert!(world.tls_opens.is_empty() && !world.is_up());
    let mut world = World::with(|config| config.udp = false);
    world.run(0.2);
    assert_eq!(world.link.way(), Some((Carrier::Tls, at(HUB))));
    world.run(200.0);
    assert!(world.hellos(Carrier::Udp).is_empty());
}

#[test]
fn another_network_is_asked_at_once() {
    let mut world = World::new();
    (world.udp, world.tls) = (false, false);
    world.run(100.0);
    assert_eq!(world.link.status().state, LinkState::Waiting);
    world.udp = true;
    world.link.network_changed(world.now);
    world.run(0.1);
    assert!(world.is_up());
    world.run(30.0);
    let before = world.hub.heard.len();
    world.link.network_changed(world.now);
    world.run(0.1);
    assert_eq!(world.hub.heard.len(), before + 1, "a question");
    (world.udp, world.tls) = (false, true);
    world.link.network_changed(world.now);
    world.run(2.5);
    assert_eq!(world.link.way().map(|it| it.0), Some(Carrier::Tls));
}

#[test]
fn other_endpoints_are_asked_at_once_and_the_same_in_another_order_are_not() {
    let mut world = World::new();
    (world.udp, world.tls) = (false, false);
    world.run(300.0);
    assert_eq!(world.link.status().state, LinkState::Waiting);
    let before = world.sent.len();
    world
        .link
        .set_endpoints(vec![at(HUB_V6), at(HUB)], world.now);
    world.flush();
    assert_eq!(world.sent.len(), before);
    world
        .link
        .set_endpoints(vec![at("192.0.2.9:51820")], world.now);
    world.flush();
    assert_eq!(world.sent.len(), before + 1);
}

/// A café where UDP is blocked is not asked about it for a second at each visit.
#[test]
fn a_network_that_blocks_udp_is_known_when_it_is_seen_again() {
    let mut world = World::new();
    let [office, home] = ["192.168.1.7", "192.168.2.7"].map(|ip| ip.parse().unwrap());
    world.link.leaves_by(office, world.now);
    world.udp = false;
    world.run(10.0);
    assert_eq!(world.link.way().map(|it| it.0), Some(Carrier::Tls));
    for (network, known) in [(home, false), (office, true)] {
        // On the way nothing works.
        world.link.tls_failed(world.now);
        (world.tls, world.tls_open) = (false, false);
        world.run(60.0);
        assert_eq!(world.link.status().state, LinkState::Waiting);
        world.tls = true;
        world.link.network_changed(world.now);
        world.link.leaves_by(network, world.now);
        world.run(0.5);
        assert_eq!(world.is_up(), known, "{network}");
    }
}

/// It refuses connections for a moment; who is told by TLS alone when it is back must not wait for the
/// next round.
#[test]
fn a_hub_that_restarts_is_found_by_tls_within_the_round() {
    let mut world = World::new();
    world.udp = false;
    world.run(10.0);
    assert!(world.is_up());
    world.tls = false;
    world.link.tls_failed(world.now);
    world.tls_open = false;
    // The pause after it is between one and two seconds; the first try is in vain.
    let opens = world.tls_opens.len();
    while world.tls_opens.len() == opens {
        world.run(0.05);
    }
    world.tls = true;
    world.run(1.3);
    assert!(world.is_up());
}
