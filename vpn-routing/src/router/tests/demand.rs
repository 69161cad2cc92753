//! Tunnels on demand: the first packet wakes, a pause lets rest.

use std::time::Duration;

use vpn_core::{DropReason, Protocol, TransportState};

use super::world::{SITE, World, udp};

const ONE: &[(&str, &[&str])] = &[("uk", &["10.5.0.2/32"])];

fn world() -> World {
    let mut world = World::new(ONE);
    world.rule(1, "uk");
    for port in 1..10 {
        world.socket(Protocol::UDP, ("10.5.0.2", port), 1, u64::from(port));
    }
    world
}

fn datagram(port: u16) -> Vec<u8> {
    udp(("10.5.0.2", port), (SITE, 7), b"")
}

#[test]
fn the_first_packet_wakes_the_tunnel_and_is_not_lost() {
    let mut world = world();
    world.state("uk", TransportState::Dormant);
    assert!(world.woken.is_empty());
    world.send([datagram(1), datagram(2), datagram(1)]);
    assert_eq!(world.woken, [world.id("uk")], "once");
    world.state("uk", TransportState::Connecting);
    world.up("uk", &["10.5.0.2/32"], &[]);
    assert_eq!(world.sent("uk").len(), 3);
}

/// The call may have been lost on a transport that was about to rest.
#[test]
fn a_tunnel_that_sleeps_on_is_woken_again() {
    let mut world = world();
    world.state("uk", TransportState::Dormant);
    world.send([datagram(1)]);
    world.advance(Duration::from_secs(5));
    assert_eq!(world.drops(DropReason::TunnelConnecting), 1);
    world.send([datagram(1)]);
    assert_eq!(world.woken.len(), 2);
}

#[test]
fn a_tunnel_without_packets_rests_and_its_flows_wake_it() {
    let mut world = world();
    let uk = world.id("uk");
    world
        .router
        .set_idle_limit(uk, Some(Duration::from_secs(30)));
    for _ in 0..100 {
        world.send([datagram(1)]);
        world.advance(Duration::from_secs(1));
    }
    world.sent("uk");
    assert!(world.rested.is_empty(), "it is in use");
    for _ in 0..29 {
        world.advance(Duration::from_secs(1));
    }
    assert!(world.rested.is_empty());
    world.advance(Duration::from_secs(1));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.rested, [uk]);
    world.state("uk", TransportState::Dormant);
    world.send([datagram(1)]);
    assert_eq!(world.woken, [uk]);
    world.up("uk", &["10.5.0.2/32"], &[]);
    assert_eq!(world.sent("uk").len(), 1, "the flow goes on");
}

#[test]
fn without_a_limit_a_tunnel_stays_up() {
    let mut world = world();
    for _ in 0..1000 {
        world.advance(Duration::from_secs(1));
    }
    assert!(world.rested.is_empty());
}
