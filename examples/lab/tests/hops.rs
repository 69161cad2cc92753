//! Hubs in a line where they are to work: real sockets, members behind NATs that share no hub.
//! Needs root; says what is missing otherwise.

#![allow(clippy::expect_used, reason = "a failing test says so")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use vpn_lab::{NatKind, NatLab, RuntimeHandle, Side};
use vpn_p2p::mesh::hub::{HubServer, Neighbour};
use vpn_p2p::mesh::{Carrier, HubId, Way};

mod nodes;
use nodes::{Keys, Node, endpoint, hub_with, in_time, lab, node_of, until};

/// How long a packet is waited for that is not to come.
const NEVER: Duration = Duration::from_secs(4);

/// Hubs, each of which joins the next one, and is the neighbour of both beside it.
fn line(
    lab: &NatLab,
    keys: &Keys,
    count: usize,
    max_hops: u8,
) -> Vec<(RuntimeHandle, Arc<HubServer>)> {
    let start = |number: usize| {
        let members: &[usize] = match number {
            0 => &[0],
            last if last + 1 == count => &[1],
            _ => &[],
        };
        hub_with(lab, keys, number, members, |config| {
            config.max_hops = max_hops;
            if number > 0 {
                let before = keys.0[number - 1].id();
                config.neighbours.push(Neighbour::new(before));
            }
            if number + 1 < count {
                let mut next = Neighbour::new(keys.0[number + 1].id());
                let at = endpoint(number + 1);
                next.host = Some((at.ip().to_string(), at.port()));
                config.neighbours.push(next);
            }
        })
    };
    // The last one first: who joins finds it there.
    let mut hubs: Vec<_> = (0..count).rev().map(start).collect();
    hubs.reverse();
    until("hubs that are joined", || {
        let all = hubs.iter().flat_map(|(_, hub)| hub.neighbours());
        all.into_iter().all(|neighbour| neighbour.origin.is_some())
    });
    hubs
}

/// a at the first hub and b at the last.
fn ends(lab: &NatLab, keys: &Keys, count: usize) -> (Node, Node) {
    let a = node_of(lab.host(Side::A), keys, 0, &[0]);
    let b = node_of(lab.host(Side::B), keys, 1, &[count - 1]);
    until("registrations", || a.is_registered() && b.is_registered());
    (a, b)
}

/// Until one reaches the other.
fn gets_through(from: &Node, to: &Node) {
    until("an answer", || {
        from.send(to, "anybody?");
        std::thread::sleep(Duration::from_millis(100));
        from.has_answer("anybody?")
    });
}

/// Whether one reaches the other though it is not to.
fn reaches(from: &Node, to: &Node) -> bool {
    let end = Instant::now() + NEVER;
    while Instant::now() < end {
        from.send(to, "anybody?");
        std::thread::sleep(Duration::from_millis(100));
        if from.has_answer("anybody?") {
            return true;
        }
    }
    false
}

#[test]
fn a_line_of_four_nodes_with_three_hops() {
    in_time(Duration::from_secs(2), || {
        let lab = lab(NatKind::Symmetric, NatKind::Symmetric)?;
        let keys = Keys::new();
        let hubs = line(&lab, &keys, 2, 3);
        let (a, b) = ends(&lab, &keys, 2);
        b.send(&a, "first");
        let took = until("the first packet's answer", || b.has_answer("first"));
        let (way, carrier, why) = a.path(&b);
        assert_eq!(way, Some(Way::Relay(HubId(0))), "{why}");
        assert_eq!(carrier, Some(Carrier::Udp));
        // As large as packets may be, many at a time.
        let longest = "0123456789".repeat(137);
        for _ in 0..50 {
            b.send(&a, &longest);
        }
        until("all large packets' answers", || b.count(&longest) == 50);
        for (_, hub) in &hubs {
            let status = hub.status().hub;
            assert!(status.carried_packets >= 51, "{status:?}");
            assert_eq!(
                [status.no_hops, status.looped, status.malformed],
                [0; 3],
                "{status:?}"
            );
        }
        Some(took)
    });
}

#[test]
fn with_two_hops_only_ones_own_hub_is_reached() {
    let Some(lab) = lab(NatKind::Symmetric, NatKind::Symmetric) else {
        return;
    };
    let keys = Keys::new();
    let _hubs = line(&lab, &keys, 2, 2);
    let (a, b) = ends(&lab, &keys, 2);
    assert!(!reaches(&a, &b) && !reaches(&b, &a));
}

#[test]
fn three_hubs_in_a_line_are_four_hops() {
    for (max_hops, reached) in [(3, false), (4, true)] {
        let Some(lab) = lab(NatKind::Symmetric, NatKind::Symmetric) else {
            return;
        };
        let keys = Keys::new();
        let hubs = line(&lab, &keys, 3, max_hops);
        let (a, b) = ends(&lab, &keys, 3);
        match reached {
            true => gets_through(&a, &b),
            false => assert!(!reaches(&a, &b), "{max_hops}"),
        }
        let carried = hubs[1].1.status().hub.carried_packets;
        assert_eq!(carried > 0, reached, "{carried} by the hub in the middle");
    }
}

#[test]
fn easy_nats_are_direct_though_they_share_no_hub() {
    in_time(Duration::from_secs(3), || {
        let lab = lab(NatKind::Easy, NatKind::Easy)?;
        let keys = Keys::new();
        let _hubs = line(&lab, &keys, 2, 3);
        let (a, b) = ends(&lab, &keys, 2);
        b.send(&a, "first");
        until("the first packet's answer", || b.has_answer("first"));
        let took = until("a direct way", || a.is_direct(&b) && b.is_direct(&a));

        Some(took)
    });
}

#[test]
fn a_hub_that_restarts_is_joined_again() {
    in_time(Duration::from_secs(10), || {
        let lab = lab(NatKind::Symmetric, NatKind::Symmetric)?;
        let keys = Keys::new();
        let mut hubs = line(&lab, &keys, 2, 3);
        let (a, b) = ends(&lab, &keys, 2);
        gets_through(&a, &b);
        drop(hubs.pop());
        let again = hub_with(&lab, &keys, 1, &[1], |config| {
            config.neighbours.push(Neighbour::new(keys.0[0].id()));
        });
        let took = until("an answer", || {
            a.send(&b, "again");
            std::thread::sleep(Duration::from_millis(50));
            a.has_answer("again")
        });
        println!("reached again {took:?} after the restart");
        drop(again);
        Some(took)
    });
}
