//! What applications move is counted by tunnel, and goes with their flows.

use std::time::Duration;

use vpn_core::Protocol;

use super::world::{SITE, World, tcp, udp};
use crate::conn::Origin;

const TUNNELS: &[(&str, &[&str])] = &[("uk", &["10.5.0.2/32"]), ("fr", &["10.5.0.2/32"])];

/// User, tunnel, flows, and bytes out and in, sorted.
fn told(world: &World) -> Vec<(Option<u32>, &'static str, usize, u64, u64)> {
    let apps = world.router.apps(usize::MAX).into_iter().map(|app| {
        assert_eq!(app.origin, Origin::Device);
        let tunnel = match app.tunnel == world.id("uk") {
            true => "uk",
            false => "fr",
        };
        let uid = app.owner.map(|owner| owner.uid);
        (uid, tunnel, app.flows, app.tx_bytes, app.rx_bytes)
    });
    let mut apps: Vec<_> = apps.collect();
    apps.sort_unstable();
    apps
}

#[test]
fn bytes_are_counted_by_application_and_tunnel() {
    let mut world = World::new(TUNNELS);
    world.rule(1001, "uk");
    world.rule(1002, "fr");
    assert!(told(&world).is_empty());
    let mut sent = 0;
    for port in [4000, 4001] {
        world.socket(Protocol::UDP, ("10.5.0.2", port), 1001, 1);
        let packet = udp(("10.5.0.2", port), (SITE, 7), b"question");
        sent += packet.len() as u64;
        world.send([packet]);
    }
    world.socket(Protocol::TCP, ("10.5.0.2", 5000), 1002, 2);
    let syn = tcp(("10.5.0.2", 5000), (SITE, 80), "S");
    world.send([syn.clone()]);
    let answer = udp((SITE, 7), ("10.5.0.2", 4000), b"a longer answer");
    world.receive("uk", &answer);
    // By the wrong tunnel it is nobody's.
    world.receive("fr", &answer);
    let mine = (Some(1001), "uk", 2, sent, answer.len() as u64);
    assert_eq!(
        told(&world),
        [mine, (Some(1002), "fr", 1, syn.len() as u64, 0)]
    );
    // The one that moved most is told first.
    let first = world.router.apps(1);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].owner.as_ref().map(|owner| owner.uid), Some(1001));

    // A flow of them that ends takes nothing back; the last one ends the account.
    world.rule(1001, "fr");
    let moved = udp(("10.5.0.2", 4000), (SITE, 7), b"question");
    world.send([moved.clone()]);
    let here = (Some(1001), "uk", 1, sent, answer.len() as u64);
    let there = (Some(1001), "fr", 1, moved.len() as u64, 0);
    assert!(told(&world).contains(&here), "{:?}", told(&world));
    assert!(told(&world).contains(&there), "{:?}", told(&world));
    world.advance(Duration::from_secs(3 * 3600));
    assert!(told(&world).is_empty(), "{:?}", told(&world));
}

#[test]
fn what_was_nobodys_is_the_owners_once_a_rule_asks() {
    let mut world = World::new(TUNNELS);
    world.rule_for_all("uk");
    world.socket(Protocol::UDP, ("10.5.0.2", 4000), 1001, 1);
    let packet = udp(("10.5.0.2", 4000), (SITE, 7), b"question");
    world.send([packet.clone()]);
    let bytes = packet.len() as u64;
    assert_eq!(told(&world), [(None, "uk", 1, bytes, 0)]);
    world.rule(1001, "uk");
    world.send([packet]);
    assert_eq!(told(&world), [(Some(1001), "uk", 1, bytes, 0)]);
}
