//! Two machines behind NATs, and a relay in public.

use std::time::{Duration, Instant};

use vpn_lab::{HUB4, NatKind, NatLab, NatPlan, Side};

use super::traffic::{iperf3, iperf3_server, pings};
use super::world::{Network, Node, inner, until};

/// A bootstrap node that relays is in public, and two nodes are behind NATs of these kinds.
fn behind(a: NatKind, b: NatKind) -> Option<(NatLab, Network, [Node; 3])> {
    if vpn_lab::skip(&NatPlan::PROGRAMS) {
        return None;
    }
    let lab = NatLab::start(NatPlan::of(a, b)).expect("a lab");
    let (network, nodes) = at(&lab);
    Some((lab, network, nodes))
}

fn at(lab: &NatLab) -> (Network, [Node; 3]) {
    let network = Network::new(3, &HUB4.to_string());
    let nodes = [
        network.start(lab.hub(), 0, "relay = true"),
        network.start(lab.host(Side::A), 1, ""),
        network.start(lab.host(Side::B), 2, ""),
    ];
    (network, nodes)
}

#[test]
fn behind_nats_a_node_is_reached_through_the_relay_and_then_directly() {
    let Some((lab, network, nodes)) = behind(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let from = Instant::now();
    until("a ping", || pings(lab.host(Side::A), &inner(2), 5));
    println!("through NATs after {:?}", from.elapsed());
    let relayed = |network: &Network| {
        let status = network.status(1);
        status["punched"].as_u64().unwrap_or(0) + network.status(2)["punched"].as_u64().unwrap_or(0)
    };
    until("a hole", || relayed(&network) > 0);
    until("a direct way", || {
        network.path_to(1, 2) == "direct" && network.path_to(2, 1) == "direct"
    });
    println!("direct after {:?}", from.elapsed());
    until("a ping by it", || pings(lab.host(Side::A), &inner(2), 2));
    assert!(pings(lab.host(Side::B), &inner(1), 5));
    drop(nodes);
}

#[test]
fn where_no_hole_can_be_punched_the_relay_stays() {
    let Some((lab, network, nodes)) = behind(NatKind::Symmetric, NatKind::Symmetric) else {
        return;
    };
    until("a ping", || pings(lab.host(Side::A), &inner(2), 5));
    assert_eq!(network.path_to(1, 2), "relay");
    let _server = iperf3_server(lab.host(Side::B));
    // Beyond what libp2p's own defaults let through: 128 KiB in two minutes.
    let rate = iperf3(lab.host(Side::A), &inner(2), 16);
    println!("relayed: {rate:.0} Mbit/s");
    assert!(rate > 5.0, "{rate}");
    drop(nodes);
}

/// libp2p tries when a relayed connection begins, and never again.
#[test]
fn a_hole_is_punched_later_where_none_could_be_at_first() {
    if vpn_lab::skip(&NatPlan::PROGRAMS) {
        return;
    }
    let lab = NatLab::start(NatPlan::default()).expect("a lab");
    let [a, b] = Side::BOTH.map(|side| lab.router(side));
    for (one, other) in [(a, b), (b, a)] {
        let deaf = one.deaf_to(Some(other.wan4().into()));
        deaf.expect("no direct way");
    }
    let (network, nodes) = at(&lab);
    until("a ping", || pings(lab.host(Side::A), &inner(2), 5));
    let given_up = |n: usize| network.status(n)["not_punched"].as_u64().unwrap_or(0);
    // After three times ten seconds.
    until("libp2p gives up", || given_up(1) + given_up(2) > 0);
    assert_eq!(network.path_to(1, 2), "relay");
    for router in [a, b] {
        router.deaf_to(None).expect("a direct way");
    }
    let from = Instant::now();
    let is_direct = || network.path_to(1, 2) == "direct" && network.path_to(2, 1) == "direct";
    while !is_direct() {
        // Tried 40 s after the relayed connection began, and then 80 s later.
        assert!(from.elapsed() < Duration::from_secs(100), "never direct");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("direct after {:?}", from.elapsed());
    until("a ping by it", || pings(lab.host(Side::A), &inner(2), 2));
    assert!(pings(lab.host(Side::B), &inner(1), 5));
    drop(nodes);
}
