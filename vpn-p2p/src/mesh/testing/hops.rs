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
