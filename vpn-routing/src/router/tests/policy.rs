//! Fail closed: what is not known yet waits within bounds, what may not go is dropped and counted.

use std::time::Duration;

use proptest::prelude::*;
use vpn_core::{DropReason, Protocol, TransportState};

use super::world::{SITE, SITE6, World, tcp, udp};
use crate::router::RouterConfig;

const TWO: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/32", "fd00:5::2/128"]),
    ("fr", &["10.5.0.2/32"]),
];

fn app(world: &mut World, port: u16, uid: u32) {
    for protocol in [Protocol::UDP, Protocol::TCP] {
        world.socket(protocol, ("10.5.0.2", port), uid, u64::from(port));
        world.socket(protocol, ("fd00:5::2", port), uid, u64::from(port));
    }
}

fn nothing_sent(world: &mut World) {
    assert!(world.sent("uk").is_empty());
    assert!(world.sent("fr").is_empty());
}

/// N-7: without rules everything went directly.
#[test]
fn cold_rules_drop() {
    let mut router = crate::Router::new(RouterConfig::default(), std::time::Instant::now());
    let mut batch = vpn_core::PacketBatch::new(1, 100);
    let packet = udp(("10.5.0.2", 1), (SITE, 7), b"");
    batch.push(vpn_core::Packet::from_slice(&packet)).unwrap();
    router.handle_device(std::time::Instant::now(), &mut batch);
    assert_eq!(router.accounts().drops.get(DropReason::RulesCold), 1);
}

/// N-7, N-30, S-21: what cannot go where it should, what a rule blocks, and what is for nobody in
/// particular, goes nowhere.
#[test]
fn every_reason_not_to_send_is_a_counted_drop() {
    let mut world = World::new(TWO);
    world.rule(1, "uk");
    world.rule(2, "block");
    world.rule(3, "mars");
    world.rule(4, "fr");
    for (port, uid) in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)] {
        app(&mut world, port, uid);
    }
    world.send([udp(("10.5.0.2", 2), (SITE, 7), b"")]);
    assert_eq!(world.drops(DropReason::BlockedByRule), 1);
    world.send([udp(("10.5.0.2", 3), (SITE, 7), b"")]);
    assert_eq!(world.drops(DropReason::NoSuchTunnel), 1);
    world.send([udp(("10.5.0.2", 5), (SITE, 7), b"")]);
    assert_eq!(world.drops(DropReason::BlockedByDefault), 1);
    world.send([udp(("10.5.0.2", 99), (SITE, 7), b"")]);
    assert_eq!(world.drops(DropReason::OwnerUnknown), 1);
    world.send([udp(("fd00:5::2", 4), (SITE6, 7), b"")]);
    assert_eq!(world.drops(DropReason::FamilyNotCarried), 1);
    world.send([udp(("10.5.0.2", 1), ("224.0.0.251", 5353), b"")]);
    assert_eq!(world.drops(DropReason::NotRoutable), 1);
    world.down("uk");
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    assert_eq!(world.drops(DropReason::TunnelDown), 1);
    nothing_sent(&mut world);
    assert_eq!(world.router.accounts().drops.total(), 7);
}

/// N-26: what waits goes in its order.
#[test]
fn packets_wait_for_their_owner_in_order() {
    let mut world = World::new(TWO);
    world.rule(1, "uk");
    app(&mut world, 1, 1);
    world.slow_owners = true;
    let packets: Vec<_> = (0..5u8)
        .map(|i| udp(("10.5.0.2", 1), (SITE, 7), &[i]))
        .collect();
    world.send(packets.clone());
    assert_eq!(world.asked.len(), 1, "asked once");
    nothing_sent(&mut world);
    world.answer_owners();
    assert_eq!(world.sent("uk"), packets);
}

#[test]
fn an_owner_that_is_not_found_in_time_is_a_drop_and_a_late_answer_does_nothing() {
    let mut world = World::new(TWO);
    world.rule(1, "uk");
    app(&mut world, 1, 1);
    world.slow_owners = true;
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    world.advance(Duration::from_millis(499));
    assert_eq!(world.drops(DropReason::OwnerTimeout), 0);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.drops(DropReason::OwnerTimeout), 1);
    world.answer_owners();
    nothing_sent(&mut world);
}

/// N-26: what waited had no bound in bytes.
#[test]
fn what_is_held_is_bounded() {
    let config = RouterConfig::default();
    let mut world = World::new(TWO);
    world.rule(1, "uk");
    world.slow_owners = true;
    let one_flow = config.hold.flow_packets as u64;
    for i in 0..40u8 {
        world.send([udp(("10.5.0.2", 1), (SITE, 7), &[i])]);
    }
    assert_eq!(world.router.accounts().held, one_flow);
    assert_eq!(world.drops(DropReason::HoldFull), 40 - one_flow);
    for port in 2..6000u16 {
        world.send([udp(("10.5.0.2", port), (SITE, 7), &[0; 1000])]);
    }
    let held = world.router.accounts().held;
    assert!(
        held * 1000 <= config.hold.bytes as u64 + 1000,
        "{held} packets held"
    );
}

#[test]
fn packets_wait_for_a_connecting_tunnel_and_only_that_one() {
    let mut world = World::new(TWO);
    world.rule(1, "uk");
    world.rule(2, "fr");
    app(&mut world, 1, 1);
    app(&mut world, 2, 2);
    world.state("uk", TransportState::Connecting);
    let first = tcp(("10.5.0.2", 1), (SITE, 80), "S");
    world.send([first.clone(), udp(("10.5.0.2", 2), (SITE, 7), b"")]);
    assert!(world.sent("uk").is_empty());
    assert_eq!(world.sent("fr").len(), 1);
    world.up("uk", &["10.5.0.2/32"], &[]);
    assert_eq!(world.sent("uk"), [first]);
    world.state("uk", TransportState::Connecting);
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    world.advance(Duration::from_secs(5));
    assert_eq!(world.drops(DropReason::TunnelConnecting), 1);
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    world.down("uk");
    assert_eq!(world.drops(DropReason::TunnelDown), 1);
}

/// N-21: a changed rule moves what can move, keeps live connections and ends what is blocked.
#[test]
fn a_changed_rule_moves_new_connections() {
    let mut world = World::new(TWO);
    world.rule(1, "uk");
    for port in 1..4 {
        app(&mut world, port, 1);
    }
    let syn = |port| tcp(("10.5.0.2", port), (SITE, 80), "S");
    let ack = tcp(("10.5.0.2", 1), (SITE, 80), "A");
    let datagram = udp(("10.5.0.2", 3), (SITE, 7), b"");
    world.send([syn(1), syn(2), datagram.clone()]);
    world.receive("uk", &tcp((SITE, 80), ("10.5.0.2", 1), "SA"));
    assert_eq!(world.sent("uk").len(), 3);
    for _ in 0..10 {
        world.rule(1, "fr");
        world.send([ack.clone(), datagram.clone()]);
        assert_eq!(
            world.sent("uk"),
            std::slice::from_ref(&ack),
            "the live connection stays"
        );
        assert_eq!(
            world.sent("fr"),
            std::slice::from_ref(&datagram),
            "the rest moves"
        );
        world.rule(1, "uk");
        world.send([datagram.clone()]);
        assert_eq!(world.sent("uk"), std::slice::from_ref(&datagram));
    }
    world.rule(1, "fr");
    world.send([syn(2)]);
    assert_eq!(world.sent("fr").len(), 1, "half-open: not a connection yet");
    world.rule(1, "block");
    world.send([ack, datagram]);
    nothing_sent(&mut world);
    assert_eq!(world.drops(DropReason::BlockedByRule), 2);
}

#[test]
fn one_owner_cannot_take_the_whole_table() {
    let config = RouterConfig {
        max_flows: 20,
        max_flows_per_owner: 10,
        ..Default::default()
    };
    let mut world = World::with_config(config, TWO);
    world.rule(1, "uk");
    world.rule(2, "uk");
    for port in 0..30 {
        app(&mut world, 100 + port, 1);
        world.send([udp(("10.5.0.2", 100 + port), (SITE, 7), b"")]);
    }
    assert_eq!(world.drops(DropReason::OwnerQuota), 20);
    app(&mut world, 1, 2);
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    assert_eq!(world.sent("uk").len(), 11);
}

#[test]
fn silent_flows_are_forgotten() {
    let mut world = World::new(TWO);
    world.rule(1, "uk");
    app(&mut world, 1, 1);
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    assert_eq!(world.router.status().flows, 1);
    world.advance(RouterConfig::default().timeouts.udp);
    for _ in 0..20 {
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.router.status().flows, 0);
    assert_eq!(world.router.flows(10).len(), 0);
}

proptest! {
    /// Any bytes, from the device and from tunnels: a verdict for each, and an exact account.
    #[test]
    fn any_bytes_give_a_verdict(
        packets in prop::collection::vec(
            (any::<bool>(), prop_oneof![
                prop::collection::vec(any::<u8>(), 0..100),
                (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, value)| {
                    let mut bytes = udp(("10.5.0.2", 1), (SITE, 7), b"some payload");
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                    bytes
                }),
            ]),
            1..40,
        )
    ) {
        let mut world = World::new(TWO);
        world.rule(1, "uk");
        app(&mut world, 1, 1);
        for (inbound, bytes) in packets {
            if inbound {
                world.receive("uk", &bytes);
            } else {
                world.send([bytes]);
            }
        }
        world.sent("uk");
        world.delivered();
        // Longer than fragments wait for each other.
        world.advance(Duration::from_secs(20));
        let accounts = world.router.accounts();
        prop_assert!(accounts.balance());
        prop_assert_eq!(accounts.held + accounts.queued, 0);
    }

    /// One bad packet leaves its batch-mates untouched.
    #[test]
    fn batch_mates_of_a_bad_packet_go_through(bad in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut world = World::new(TWO);
        world.rule(1, "uk");
        app(&mut world, 1, 1);
        let good = udp(("10.5.0.2", 1), (SITE, 7), b"good");
        prop_assume!(vpn_core::Packet::from_slice(&bad).parse().is_err());
        world.send([good.clone(), bad, good.clone()]);
        prop_assert_eq!(world.sent("uk"), vec![good.clone(), good]);
        prop_assert_eq!(world.drops(DropReason::Malformed), 1);
    }
}
