//! The whole mesh in a world: who gets together how, what survives, and how quiet it is.

use std::time::Duration;

use super::nat::NatKind;
use super::world::{At, Weather, World};
use crate::mesh::way::Way;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A hub and one member behind each of these NATs, all running and registered.
fn world(kinds: &[NatKind], seed: u64) -> World {
    let mut world = World::new(Weather::default(), seed);
    world.add_hub();
    for kind in kinds {
        let site = world.add_site(*kind);
        let at = world.add_member(site);
        world.start(at);
    }
    world.run(s(3));
    world
}

/// Whether two members behind NATs of these kinds can be direct: not if each sends from a port that
/// the other cannot know, and not where no UDP gets out.
fn can_be_direct(a: NatKind, b: NatKind) -> bool {
    use NatKind::{Easy, NoUdp, Open, Symmetric};
    match (a, b) {
        (NoUdp, _) | (_, NoUdp) => false,
        (Symmetric, Symmetric | Easy) | (Easy, Symmetric) => false,
        (Open | Easy, Open | Easy) | (Open, Symmetric) | (Symmetric, Open) => true,
    }
}

const KINDS: [NatKind; 4] = [
    NatKind::Open,
    NatKind::Easy,
    NatKind::Symmetric,
    NatKind::NoUdp,
];

/// L-13, L-15: these NATs choose ports of their own. Who sends from one that nobody could know is
/// answered there, and where no hole can be punched the relay carries.
#[test]
fn every_pair_of_nats_is_connected_by_the_best_way_there_is() {
    for a in KINDS {
        for b in KINDS {
            let mut world = world(&[a, b], 1);
            // Where no UDP gets out, TLS is tried after a second.
            world.run(s(5));
            world.start_flow(At(0), At(1), ms(100), s(20));
            world.start_flow(At(1), At(0), ms(100), s(20));
            world.run(s(3));
            let (there, back) = (world.flow_of(At(0), At(1)), world.flow_of(At(1), At(0)));
            let on_the_way = 2;
            for flow in [there, back] {
                assert!(
                    flow.received + on_the_way >= flow.sent,
                    "{a:?} {b:?}: {flow:?}: the first packets are held, not lost"
                );
            }
            assert_eq!(
                world.is_direct(At(0), At(1)),
                can_be_direct(a, b),
                "{a:?} {b:?}: {:?}",
                world.way(At(0), At(1))
            );
            world.run(s(20));
        }
    }
}

#[test]
fn two_in_one_site_are_direct_without_leaving_it() {
    let mut world = World::new(Weather::default(), 1);
    world.add_hub();
    let site = world.add_site(NatKind::Symmetric);
    for _ in 0..2 {
        let at = world.add_member(site);
        world.start(at);
    }
    world.run(s(3));
    world.start_flow(At(0), At(1), ms(100), s(5));
    world.run(s(5));
    let Some(Way::Direct(to)) = world.way(At(0), At(1)) else {
        panic!("{:?}", world.way(At(0), At(1)));
    };
    assert!(to.to_string().starts_with("10."), "{to}");
}

#[test]
fn a_hub_that_restarts_costs_direct_pairs_nothing_and_relayed_ones_little() {
    let mut world = world(&[NatKind::Easy, NatKind::Easy, NatKind::Symmetric], 3);
    world.start_flow(At(0), At(1), ms(20), s(120));
    world.start_flow(At(0), At(2), ms(20), s(120));
    // Who only receives finds out that the hub forgot it when it next says something.
    world.start_flow(At(2), At(0), ms(20), s(120));
    world.run(s(10));
    let _ = (world.flow_of(At(0), At(1)), world.flow_of(At(0), At(2)));
    world.stop_hub(0);
    world.run(s(1));
    world.start_hub(0);
    world.run(s(30));
    let direct = world.flow_of(At(0), At(1));
    assert!(direct.gap <= ms(60), "{direct:?}");
    let relayed = world.flow_of(At(0), At(2));
    assert!(relayed.gap <= s(5), "{relayed:?}");
    assert!(world.way(At(0), At(2)).is_some_and(|way| !way.is_direct()));
    // Gone for good: the direct pair lives on, past renewals of its session.
    world.stop_hub(0);
    world.start_flow(At(0), At(1), ms(20), s(600));
    let _ = world.flow_of(At(0), At(1));
    world.run(s(600));
    let direct = world.flow_of(At(0), At(1));
    assert!(direct.gap <= ms(60), "{direct:?}");
    assert!(world.is_direct(At(0), At(1)));
}

#[test]
fn a_nat_that_restarts_costs_less_than_two_seconds() {
    let mut world = world(&[NatKind::Easy, NatKind::Easy], 4);
    world.start_flow(At(0), At(1), ms(20), s(100));
    world.start_flow(At(1), At(0), ms(20), s(100));
    world.run(s(10));
    assert!(world.is_direct(At(0), At(1)));
    let _ = (world.flow_of(At(0), At(1)), world.flow_of(At(1), At(0)));
    let site = world.member(At(0)).site();
    world.restart_nat(site);
    world.run(s(40));
    for (from, to) in [(At(0), At(1)), (At(1), At(0))] {
        let flow = world.flow_of(from, to);
        assert!(flow.gap <= s(2), "{from:?}: {flow:?}");
    }
    assert!(world.is_direct(At(0), At(1)));
}

#[test]
fn a_way_dead_in_one_direction_is_left_though_the_other_still_delivers() {
    let mut world = world(&[NatKind::Easy, NatKind::Easy], 5);
    world.start_flow(At(0), At(1), ms(20), s(100));
    world.start_flow(At(1), At(0), ms(20), s(100));
    world.run(s(10));
    let _ = (world.flow_of(At(0), At(1)), world.flow_of(At(1), At(0)));
    world.cut(At(0), At(1), true);
    world.run(s(10));
    let flow = world.flow_of(At(0), At(1));
    assert!(flow.gap <= s(2), "{flow:?}");
    assert!(matches!(world.way(At(0), At(1)), Some(Way::Relay(_))));
    assert!(world.way(At(1), At(0)).is_some_and(Way::is_direct));
    let back = world.flow_of(At(1), At(0));
    assert!(back.gap <= ms(60), "{back:?}");
    world.cut(At(0), At(1), false);
    world.run(s(40));
    assert!(world.is_direct(At(0), At(1)));
}

/// Behind a firewall that lets a first answer in and nothing after it: UDP is tried each minute, and
/// what is relayed finds its way back to the stream.
#[test]
fn a_firewall_that_lets_first_answers_in_costs_two_seconds_a_minute_at_most() {
    let mut world = world(&[NatKind::Easy, NatKind::Symmetric], 10);
    world.deafen(At(0), true);
    world.stop(At(0), false);
    world.start(At(0));
    // The handshake by UDP gets five seconds, the pause after it two.
    world.run(s(9));
    world.start_flow(At(1), At(0), ms(20), s(300));
    world.run(s(5));
    let _ = world.flow_of(At(1), At(0));
    world.run(s(250));
    let flow = world.flow_of(At(1), At(0));
    assert!(flow.gap <= s(2), "{flow:?}");
    assert!(flow.gap >= s(1), "it was tried: {flow:?}");
}

/// L-11: messages of each member within 100 s, idle and settled, all of them counted: keepalives,
/// renewals of sessions, and what keeps the hub.
#[test]
fn idle_pairs_exchange_at_most_one_packet_per_path_direction_and_25_seconds() {
    let mut world = world(&[NatKind::Easy, NatKind::Easy], 6);
    world.send(At(0), At(1));
    world.run(s(100));
    assert!(world.is_direct(At(0), At(1)));
    for _ in 0..10 {
        let before = [At(0), At(1)].map(|at| world.member(at).counters);
        // A peer without packets is let go after ten minutes: it has one now and then.
        world.run(s(100));
        for (at, before) in [At(0), At(1)].into_iter().zip(before) {
            let after = world.member(at).counters;
            let direct = after.direct[0] - before.direct[0];
            let to_hub = after.to_hubs[0] - before.to_hubs[0];
            assert!(direct <= 4, "{at:?}: {direct} to the peer");
            assert!(to_hub <= 4, "{at:?}: {to_hub} to the hub");
        }
    }
}

#[test]
fn a_hundred_that_join_at_once_are_no_storm() {
    let mut world = World::new(Weather::default(), 7);
    world.add_hub();
    for number in 0..100 {
        let site = world.add_site(KINDS[number % 3]);
        world.add_member(site);
    }
    for at in world.members() {
        world.start(at);
    }
    world.run(s(10));
    for at in world.members() {
        let sent = world.member(at).counters.messages();
        assert!(sent <= 10, "{at:?}: {sent} to register");
        world.send(at, At((at.0 + 1) % 100));
    }
    let before: Vec<u64> = world
        .members()
        .map(|at| world.member(at).counters.messages())
        .collect();
    world.run(s(30));
    for at in world.members() {
        let sent = world.member(at).counters.messages() - before[at.0];
        // Two peers each: a question, introductions, handshakes, and rounds of challenges.
        assert!(sent <= 120, "{at:?}: {sent} for two peers");
    }
    let hub = world.hub(0).status().unwrap();
    assert_eq!(hub.online, 100);
}

/// L-20: neither can be told the other's new address at once: a record is told until it was had.
#[test]
fn two_nats_that_restart_together_cost_a_direct_way_for_a_minute_only() {
    let mut world = world(&[NatKind::Easy, NatKind::Easy], 9);
    world.send(At(0), At(1));
    world.run(s(71));
    assert!(world.is_direct(At(0), At(1)));
    for at in [At(0), At(1)] {
        let site = world.member(at).site();
        world.restart_nat(site);
    }
    world.start_flow(At(0), At(1), s(1), s(120));
    world.run(s(100));
    assert!(world.is_direct(At(0), At(1)));
}

/// The second one begins with the same number as the first, which made some more since.
#[test]
fn a_member_that_is_started_again_within_a_second_is_believed() {
    let mut world = world(&[NatKind::Easy, NatKind::Easy], 8);
    world.set_weather(Weather {
        delay: (ms(5), ms(6)),
        ..Weather::default()
    });
    for _ in 0..2 {
        world.stop(At(0), false);
        world.start(At(0));
        world.run(ms(400));
    }
    let own = world.member(At(0)).status(world.now()).unwrap().own;
    let known = world.hub(0).known(world.member(At(0)).id(), world.now());
    assert_eq!(known, Some(own));
    world.run(s(5));
    let own = world.member(At(0)).status(world.now()).unwrap().own;
    assert_eq!(own.candidates.len(), 2, "inside, and as the hub sees it");
    assert_eq!(
        world.hub(0).known(world.member(At(0)).id(), world.now()),
        Some(own)
    );
    world.start_flow(At(1), At(0), ms(100), s(5));
    world.run(s(5));
    assert!(world.is_direct(At(0), At(1)));
}

/// Members behind all kinds of NATs that come, go, and talk in pairs, with loss; at the end everything
/// was quiet for two minutes.
fn churned(seed: u64, count: usize) -> (World, Vec<(At, At)>) {
    let mut world = World::new(Weather::default(), seed);
    world.add_hub();
    for _ in 0..count {
        let kind = match world.draw() % 10 {
            0 => NatKind::Open,
            1..=6 => NatKind::Easy,
            7 | 8 => NatKind::Symmetric,
            _ => NatKind::NoUdp,
        };
        let site = world.add_site(kind);
        world.add_member(site);
    }
    world.set_weather(Weather {
        loss: 0.1,
        ..Weather::default()
    });
    let all: Vec<At> = world.members().collect();
    for at in &all {
        world.start(*at);
    }
    let mut pairs = Vec::new();
    for at in &all {
        for _ in 0..2 {
            let to = At(world.draw() as usize % count);
            if to != *at && !pairs.contains(&(*at, to)) && !pairs.contains(&(to, *at)) {
                pairs.push((*at, to));
            }
        }
    }
    let forever = s(100_000);
    for (a, b) in &pairs {
        world.start_flow(*a, *b, s(2), forever);
        world.start_flow(*b, *a, s(2), forever);
    }
    // Churn: members end with and without a word and come back, NATs forget, loss comes and goes.
    for round in 0..10 {
        for _ in 0..10 {
            let at = At(world.draw() as usize % count);
            match world.draw() % 3 {
                0 => {
                    let site = world.member(at).site();
                    world.restart_nat(site);
                }
                polite => {
                    world.stop(at, polite == 1);
                    world.run(ms(500));
                    world.start(at);
                }
            }
        }
        if round == 5 {
            world.stop_hub(0);
            world.run(s(2));
            world.start_hub(0);
        }
        world.run(s(5));
    }
    world.set_weather(Weather::default());
    world.run(s(120));
    (world, pairs)
}

#[test]
fn the_same_seed_is_the_same_world() {
    let counted = |seed| {
        let (world, _) = churned(seed, 24);
        // Not bytes: the numbers of challenges can't be guessed, and are of different lengths.
        let of = |at| world.member(at).counters.messages();
        let members: Vec<u64> = world.members().map(of).collect();
        (members, world.hub(0).handled, world.lost())
    };
    let first = counted(3);
    assert_eq!(first, counted(3));
    assert_ne!(first, counted(4));
}

/// What cannot be bought: all that can be direct is, and nobody is lost while the hub lives.
fn two_hundred(seed: u64) {
    let (mut world, pairs) = churned(seed, 200);
    for (a, b) in &pairs {
        let kinds = [*a, *b].map(|at| world.kind(at));
        let direct = world.is_direct(*a, *b);
        assert_eq!(
            direct,
            can_be_direct(kinds[0], kinds[1]),
            "{a:?} {b:?} {kinds:?}: {:?}, {:?}",
            world.way(*a, *b),
            world.way(*b, *a)
        );
    }
    let before: Vec<_> = pairs
        .iter()
        .map(|(a, b)| [world.flow_of(*a, *b), world.flow_of(*b, *a)])
        .collect();
    world.run(s(20));
    for ((a, b), before) in pairs.iter().zip(before) {
        let after = [world.flow_of(*a, *b), world.flow_of(*b, *a)];
        for (before, after) in before.iter().zip(after) {
            let got = after.received - before.received;
            assert!(got >= 9, "{a:?} {b:?}: {got} of 10");
        }
    }
}

#[test]
fn two_hundred_members_with_nats_loss_and_churn() {
    two_hundred(1);
}

#[test]
#[ignore = "minutes: the same with other seeds"]
fn two_hundred_members_with_nats_loss_and_churn_again() {
    for seed in 2..12 {
        two_hundred(seed);
    }
}
