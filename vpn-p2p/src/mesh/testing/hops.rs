//! Several hubs in a line and in a ring: who reaches whom, by how many of them, and what ends.

use std::time::Duration;

use super::nat::NatKind;
use super::world::{At, Weather, World};
use crate::mesh::way::{HubId, Way};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// So many hubs in a line, each of which allows so many hops; a member behind a NAT of this kind at
/// both ends.
fn line(hubs: usize, max_hops: u8, kind: NatKind) -> World {
    let mut world = World::new(Weather::default(), 7);
    for number in 0..hubs {
        world.add_hub();
        world.limit_hub(number, max_hops, false);
    }
    for number in 1..hubs {
        world.join_hubs(number - 1, number);
    }
    world.run(s(2));
    for hub in [0, hubs - 1] {
        let site = world.add_site(kind);
        let at = world.add_member(site);
        world.start_at(at, &[hub], |_| {});
    }
    world.run(s(3));
    world
}

#[test]
fn four_nodes_in_a_line_reach_each_other() {
    let mut world = line(2, 3, NatKind::Symmetric);
    for hub in 0..2 {
        let neighbours = world.hub(hub).neighbours();
        assert!(neighbours[0].origin.is_some(), "{neighbours:?}");
    }
    world.start_flow(At(0), At(1), ms(100), s(10));
    world.start_flow(At(1), At(0), ms(100), s(10));
    world.run(s(11));
    for (from, to) in [(At(0), At(1)), (At(1), At(0))] {
        let flow = world.flow_of(from, to);
        assert_eq!(flow.received, flow.sent, "held, not lost: {flow:?}");
        assert_eq!(world.way(from, to), Some(Way::Relay(HubId(0))));
    }
}

#[test]
fn who_is_too_many_hops_away_is_not_found() {
    for (hubs, max_hops, reached) in [(2, 2, false), (3, 3, false), (3, 4, true), (4, 4, false)] {
        let mut world = line(hubs, max_hops, NatKind::Symmetric);
        world.start_flow(At(0), At(1), ms(100), s(5));
        world.run(s(6));
        let flow = world.flow_of(At(0), At(1));
        assert_eq!(
            flow.received > 40,
            reached,
            "{hubs} hubs, {max_hops} hops: {flow:?}"
        );
        assert_eq!(world.way(At(0), At(1)).is_some(), reached);
    }
}

#[test]
fn members_of_different_hubs_are_direct_where_their_nats_allow_it() {
    let mut world = line(3, 4, NatKind::Easy);
    world.start_flow(At(0), At(1), ms(100), s(10));
    world.run(s(4));
    assert!(
        world.is_direct(At(0), At(1)),
        "{:?}",
        world.way(At(0), At(1))
    );
    let carried = |world: &World| world.hub(1).status().map(|status| status.carried_packets);
    let before = carried(&world);
    world.run(s(7));
    assert_eq!(carried(&world), before, "no hub is in the way any more");
    let flow = world.flow_of(At(0), At(1));
    assert_eq!(flow.received, flow.sent);
}

/// Three hubs, each a neighbour of both others, and a member of each.
fn ring(max_hops: u8) -> World {
    let mut world = World::new(Weather::default(), 11);
    for number in 0..3 {
        world.add_hub();
        world.limit_hub(number, max_hops, false);
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        world.join_hubs(from, to);
    }
    world.run(s(3));
    for hub in 0..3 {
        let site = world.add_site(NatKind::Symmetric);
        let at = world.add_member(site);
        world.start_at(at, &[hub], |_| {});
    }
    world.run(s(3));
    world
}

#[test]
fn in_a_ring_nothing_circulates() {
    let mut world = ring(8);
    for to in [1, 2] {
        world.start_flow(At(0), At(to), ms(100), s(10));
    }
    world.run(s(11));
    for to in [1, 2] {
        let flow = world.flow_of(At(0), At(to));
        assert_eq!(flow.received, flow.sent, "{flow:?}");
    }
    // Somebody who does not exist: every hub is asked once by every other, not more.
    let asked = |world: &World| -> u64 {
        let status = (0..3).filter_map(|hub| world.hub(hub).status());
        status.map(|status| status.finds_beyond).sum()
    };
    let before = asked(&world);
    world.connect_to(At(0), vpn_core::PeerId([9; 32]));
    world.run(s(4));
    let questions = asked(&world) - before;
    assert!((2..=4).contains(&questions), "{questions}");
    // One that goes: what is on its way to it ends, and costs a bounded number of datagrams.
    world.stop(At(1), true);
    let handled = |world: &World| (0..3).map(|hub| world.hub(hub).handled[0]).sum::<u64>();
    let before = handled(&world);
    world.start_flow(At(0), At(1), ms(100), s(5));
    world.run(s(10));
    let cost = handled(&world) - before;
    assert!(cost < 400, "{cost} datagrams for 50 packets to nobody");
}

#[test]
fn a_hub_in_the_middle_that_restarts_is_gone_for_a_moment() {
    let mut world = line(3, 4, NatKind::Symmetric);
    world.start_flow(At(0), At(1), ms(50), s(60));
    world.run(s(5));
    let _ = world.flow_of(At(0), At(1));
    world.stop_hub(1);
    world.run(ms(500));
    world.start_hub(1);
    world.run(s(30));
    let flow = world.flow_of(At(0), At(1));
    assert!(flow.gap < s(6), "{flow:?}");
    world.run(s(5));
    assert!(world.flow_of(At(0), At(1)).gap < ms(200));
}

#[test]
fn a_member_that_moves_to_another_hub_is_found_there() {
    let mut world = line(2, 3, NatKind::Symmetric);
    world.start_flow(At(0), At(1), ms(100), s(60));
    world.run(s(5));
    world.stop(At(1), true);
    world.run(s(2));
    world.start_at(At(1), &[0], |_| {});
    world.run(s(10));
    let _ = world.flow_of(At(0), At(1));
    world.run(s(5));
    let flow = world.flow_of(At(0), At(1));
    assert!(flow.gap < ms(300), "{flow:?}");
}

#[test]
fn who_is_isolated_at_either_hub_stays_so() {
    for isolated in [0, 1] {
        let mut world = line(2, 3, NatKind::Symmetric);
        world.limit_hub(isolated, 3, true);
        world.stop_hub(isolated);
        world.start_hub(isolated);
        world.run(s(40));
        for (from, to) in [(At(0), At(1)), (At(1), At(0))] {
            world.start_flow(from, to, ms(200), s(5));
        }
        world.run(s(6));
        for (from, to) in [(At(0), At(1)), (At(1), At(0))] {
            assert_eq!(
                world.flow_of(from, to).received,
                0,
                "isolated at {isolated}"
            );
        }
    }
}

#[test]
fn hubs_that_join_each_other_are_back_soon_after_one_restarts() {
    let mut world = line(2, 3, NatKind::Symmetric);
    world.join_hubs(1, 0);
    world.run(s(5));
    for hub in 0..2 {
        let neighbours = world.hub(hub).neighbours();
        assert!(neighbours[0].joined, "{neighbours:?}");
    }
    for (from, to) in [(At(0), At(1)), (At(1), At(0))] {
        world.start_flow(from, to, ms(50), s(60));
    }
    world.run(s(5));
    world.start_hub(1);
    world.run(s(6));
    for (from, to) in [(At(0), At(1)), (At(1), At(0))] {
        let _ = world.flow_of(from, to);
    }
    world.run(s(10));
    for (from, to) in [(At(0), At(1)), (At(1), At(0))] {
        let flow = world.flow_of(from, to);
        assert!(flow.gap < ms(200), "{flow:?}");
    }
}
