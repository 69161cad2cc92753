//! Groups of tunnels: what the choice of a member does to new and to live flows.

use std::time::Duration;

use vpn_core::{DropReason, OnChange, Owner, Protocol, TransportState};

use super::world::{SITE, World, tcp, udp};
use crate::group::{GroupConfig, GroupError, HashBy, Policy, Reason};

const THREE: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/32"]),
    ("fr", &["10.5.0.2/32"]),
    ("de", &["10.5.0.2/32"]),
];

fn world(policy: Policy) -> World {
    let mut world = World::new(THREE);
    let members = ["uk", "fr", "de"].map(|name| world.id(name));
    world.groups(vec![GroupConfig::new("any", members).policy(policy)]);
    world.rule(1, "any");
    for port in 1..200 {
        world.socket(Protocol::UDP, ("10.5.0.2", port), 1, u64::from(port));
        world.socket(Protocol::TCP, ("10.5.0.2", port), 1, u64::from(port));
    }
    world
}

fn datagram(port: u16) -> Vec<u8> {
    udp(("10.5.0.2", port), (SITE, 7), b"")
}

fn connect(world: &mut World, port: u16, tunnel: &str) {
    world.send([tcp(("10.5.0.2", port), (SITE, 80), "S")]);
    assert_eq!(world.sent(tunnel).len(), 1);
    world.receive(tunnel, &tcp((SITE, 80), ("10.5.0.2", port), "SA"));
    assert_eq!(world.delivered().len(), 1);
}

#[test]
fn flows_fail_over_at_once_and_go_back_after_the_delay() {
    let mut world = world(Policy::Ordered);
    connect(&mut world, 1, "uk");
    world.send([datagram(2)]);
    assert_eq!(world.sent("uk").len(), 1);
    world.down("uk");
    world.send([datagram(2), datagram(3)]);
    assert_eq!(world.sent("fr").len(), 2, "the old flow and a new one");
    let ack = tcp(("10.5.0.2", 1), (SITE, 80), "A");
    world.send([ack.clone()]);
    assert_eq!(world.drops(DropReason::TunnelDown), 1, "kept where it is");
    world.up("uk", &["10.5.0.2/32"], &[]);
    world.send([ack]);
    assert_eq!(world.sent("uk").len(), 1, "and it goes on there");
    world.send([datagram(2), datagram(4)]);
    assert_eq!(world.sent("fr").len(), 2, "nothing goes back yet");
    world.advance(Duration::from_secs(10));
    world.send([datagram(2), datagram(5)]);
    assert_eq!(world.sent("uk").len(), 2);
    assert!(world.sent("fr").is_empty());
}

#[test]
fn what_waits_for_a_member_goes_by_another_that_comes_up() {
    let mut world = World::new(THREE);
    for name in ["uk", "fr", "de"] {
        world.state(name, TransportState::Connecting);
    }
    let members = ["uk", "fr", "de"].map(|name| world.id(name));
    world.groups(vec![GroupConfig::new("any", members)]);
    world.rule(1, "any");
    world.socket(Protocol::UDP, ("10.5.0.2", 1), 1, 1);
    world.send([datagram(1)]);
    assert_eq!(world.router.accounts().held, 1);
    world.down("uk");
    assert_eq!(world.router.accounts().held, 1, "now it waits for another");
    world.up("de", &["10.5.0.2/32"], &[]);
    assert_eq!(world.sent("de").len(), 1);
    world.down("de");
    world.down("fr");
    world.send([datagram(1)]);
    assert_eq!(world.drops(DropReason::TunnelDown), 1);
}

#[test]
fn load_is_spread_and_a_member_that_leaves_moves_only_its_own() {
    let mut world = world(Policy::Weighted(vec![1, 1, 2]));
    let ports = 1..60u16;
    let shares = |world: &mut World| {
        world.send(ports.clone().map(datagram));
        ["uk", "fr", "de"].map(|name| {
            let sent = world.sent(name);
            sent.iter()
                .map(|p| u16::from_be_bytes([p[20], p[21]]))
                .collect::<Vec<_>>()
        })
    };
    let before = shares(&mut world);
    assert!(before[2].len() > before[0].len() && !before[1].is_empty());
    assert_eq!(shares(&mut world), before, "each flow keeps its member");
    world.down("fr");
    let after = shares(&mut world);
    assert!(after[1].is_empty());
    for place in [0, 2] {
        assert!(before[place].iter().all(|port| after[place].contains(port)));
    }
}

#[test]
fn an_application_stays_together() {
    let mut world = world(Policy::Hash(HashBy::Owner));
    world.send((1..50).map(datagram));
    let used = ["uk", "fr", "de"].map(|name| world.sent(name).len());
    assert_eq!(used.iter().filter(|n| **n > 0).count(), 1, "{used:?}");
}

#[test]
fn the_fastest_member_is_used() {
    let tolerance = Duration::from_millis(10);
    let mut world = world(Policy::Latency { tolerance });
    world.round_trip("uk", 80);
    world.round_trip("fr", 30);
    world.send([datagram(1)]);
    assert_eq!(world.sent("fr").len(), 1);
    world.round_trip("de", 25);
    world.send([datagram(1)]);
    assert_eq!(world.sent("fr").len(), 1, "not enough better");
}

#[test]
fn an_explanation_names_the_group_the_member_and_the_reason() {
    let mut world = world(Policy::Ordered);
    world.down("uk");
    let flow = super::world::flow_of(&datagram(1));
    let told = world.router.explain(Some(&Owner::user(1)), flow);
    assert_eq!(told.group, Some(("any".to_owned(), Some(Reason::First))));
    assert_eq!(told.tunnel.as_deref(), Some("fr"));
    let status = world.router.status();
    assert_eq!(status.groups[0].chosen, Some(world.id("fr")));
    assert!(!status.groups[0].members[0].in_use);
}

#[test]
fn groups_that_make_no_sense_leave_those_in_force() {
    let mut world = world(Policy::Ordered);
    let uk = world.id("uk");
    let now = world.now;
    let taken = |group: &str| GroupError::NameTaken {
        group: group.to_owned(),
    };
    for (configs, error) in [
        (vec![GroupConfig::new("fr", [uk])], taken("fr")),
        (
            vec![GroupConfig::new("a", [uk]), GroupConfig::new("a", [uk])],
            taken("a"),
        ),
    ] {
        assert_eq!(world.router.set_groups(now, configs), Err(error));
    }
    world.send([datagram(1)]);
    assert_eq!(world.sent("uk").len(), 1);
}

/// Rules that were compiled before groups changed must not lead to another group.
#[test]
fn an_id_belongs_to_its_name() {
    let mut world = world(Policy::Ordered);
    let (fr, now) = (world.id("fr"), world.now);
    let other = vec![GroupConfig::new("other", [fr])];
    world.router.set_groups(now, other).unwrap();
    world.send([datagram(1)]);
    assert_eq!(world.drops(DropReason::NoSuchTunnel), 1);
    assert!(world.sent("fr").is_empty());
}

/// A removed tunnel is no member any more, and nothing of it is in the way.
#[test]
fn a_member_that_is_removed_hands_over() {
    let mut world = world(Policy::Ordered);
    world.send([datagram(1)]);
    assert_eq!(world.sent("uk").len(), 1);
    let (uk, now) = (world.id("uk"), world.now);
    world.router.remove_tunnel(now, uk);
    world.send([datagram(1)]);
    assert_eq!(world.sent("fr").len(), 1);
}

#[test]
fn a_dropped_connection_goes_nowhere_until_it_starts_anew() {
    let mut world = world(Policy::Ordered);
    world.rule_with(1, "any", |rule| rule.on_change(OnChange::Drop));
    connect(&mut world, 1, "uk");
    world.down("uk");
    let ack = tcp(("10.5.0.2", 1), (SITE, 80), "A");
    world.send([ack.clone(), ack]);
    assert_eq!(world.drops(DropReason::FlowEnded), 2);
    assert!(world.sent("fr").is_empty() && world.delivered().is_empty());
    world.up("uk", &["10.5.0.2/32"], &[]);
    world.receive("uk", &tcp((SITE, 80), ("10.5.0.2", 1), "A"));
    assert_eq!(
        world.drops(DropReason::FlowEnded),
        3,
        "the server's as well"
    );
    world.send([tcp(("10.5.0.2", 1), (SITE, 80), "S")]);
    assert_eq!(world.sent("fr").len(), 1, "a new one takes the new way");
}
