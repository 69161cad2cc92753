//! The mesh where it is to work: real sockets, a real hub, members behind NATs of each kind.
//! Needs root; says what is missing otherwise.

#![allow(clippy::expect_used, reason = "a failing test says so")]

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use vpn_lab::{NatKind, NatLab, Side};
use vpn_p2p::mesh::{Carrier, HubId, Way};

mod nodes;
use nodes::{Keys, Node, hub, in_time, lab, node, until};

/// From a session on, until it is direct where it can be.
const DIRECT: Duration = Duration::from_secs(3);

/// Without an answer, where another way exists.
const OUTAGE: Duration = Duration::from_secs(2);

/// From the first packet on, until it is answered. No less than what is promised of anything else here: who is
/// late with this is late.
const FIRST: Duration = Duration::from_secs(5);

/// a and b of a lab are registered, and have exchanged a packet: the first one, which is not lost. Also how
/// late its answer was, nothing if it was not.
fn connected(lab: &NatLab, keys: &Keys, hubs: usize) -> (Node, Node, Duration) {
    let a = node(lab.host(Side::A), keys, 0, hubs);
    until("a's registration", || a.is_registered());
    let b = node(lab.host(Side::B), keys, 1, hubs);
    b.send(&a, "first");
    let took = until("the first packet's answer", || b.has_answer("first"));
    let late = if took < FIRST { Duration::ZERO } else { took };
    (a, b, late)
}

/// Sends from one to the other every 20 ms while `happens` does, and for that long after it: the
/// longest time without an answer.
fn silence(from: &Node, to: &Node, after: Duration, happens: impl FnOnce()) -> Duration {
    let (mut number, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    happens();
    let end = Instant::now() + after;
    while Instant::now() < end {
        number += 1;
        from.send(to, &format!("{number:08}"));
        std::thread::sleep(Duration::from_millis(20));
        let mut answers = from.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if !answers.is_empty() {
            answers.clear();
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    longest.max(last.elapsed())
}

/// L-14: what the hub sees is the mapping of the very socket that peers will send to.
#[test]
fn easy_nats_are_direct_soon() {
    in_time(DIRECT, || {
        let lab = lab(NatKind::Easy, NatKind::Easy)?;
        let keys = Keys::new();
        let _hub = hub(&lab, &keys, 0);
        let (a, b, late) = connected(&lab, &keys, 1);
        let took = until("a direct way", || a.is_direct(&b) && b.is_direct(&a));
        let wan = lab.router(Side::B).wan4();
        let way = a.path(&b).0;
        assert!(
            matches!(way, Some(Way::Direct(to)) if to.ip() == wan),
            "{way:?}"
        );
        Some(took.max(late))
    });
}

/// L-13: who sends from a port that nobody could know is answered there.
#[test]
fn symmetric_nats_are_relayed_but_direct_to_public_hosts() {
    in_time(DIRECT, || {
        let lab = lab(NatKind::Symmetric, NatKind::Symmetric)?;
        let keys = Keys::new();
        let _hub = hub(&lab, &keys, 0);
        let (a, b, late) = connected(&lab, &keys, 1);
        let c = node(lab.public(), &keys, 2, 1);
        until("c's registration", || c.is_registered());
        a.send(&c, "to c");
        until("c's answer", || a.has_answer("to c"));
        let took = until("a direct way", || a.is_direct(&c) && c.is_direct(&a));
        let (way, carrier, why) = a.path(&b);
        assert_eq!(way, Some(Way::Relay(HubId(0))), "{why}");
        assert_eq!(carrier, Some(Carrier::Udp));
        Some(took.max(late))
    });
}

#[test]
fn who_has_no_udp_is_relayed_over_tls() {
    in_time(FIRST, || {
        let lab = lab(NatKind::Block, NatKind::Easy)?;
        let keys = Keys::new();
        let _hub = hub(&lab, &keys, 0);
        let from = Instant::now();
        let (a, b, late) = connected(&lab, &keys, 1);
        let took = from.elapsed();
        let (way, carrier, why) = a.path(&b);
        assert_eq!(way, Some(Way::Relay(HubId(0))), "{why}");
        assert_eq!(carrier, Some(Carrier::Tls));
        let mut longest = String::new();
        for _ in 0..130 {
            longest.push_str("0123456789");
        }
        b.send(&a, &longest);
        until("a large packet's answer", || b.has_answer(&longest));
        Some(took.max(late))
    });
}

#[test]
fn a_direct_way_that_dies_in_one_direction_is_left_at_once() {
    in_time(OUTAGE, || {
        let lab = lab(NatKind::Easy, NatKind::Easy)?;
        let keys = Keys::new();
        let _hub = hub(&lab, &keys, 0);
        let (a, b, late) = connected(&lab, &keys, 1);
        until("a direct way", || a.is_direct(&b) && b.is_direct(&a));
        let longest = silence(&a, &b, Duration::from_secs(5), || {
            let b_wan = lab.router(Side::B).wan4();
            lab.router(Side::A)
                .deaf_to(Some(b_wan.into()))
                .expect("a fault");
        });
        assert!(
            !b.is_direct(&a),
            "b is not heard any more: {:?}",
            b.path(&a)
        );
        Some(longest.max(late))
    });
}

#[test]
fn a_rebind_costs_less_than_two_seconds() {
    for kind in [NatKind::Easy, NatKind::Symmetric] {
        in_time(OUTAGE, || {
            let mut lab = lab(kind, kind)?;
            let keys = Keys::new();
            let _hub = hub(&lab, &keys, 0);
            let (a, b, late) = connected(&lab, &keys, 1);
            if kind == NatKind::Easy {
                until("a direct way", || a.is_direct(&b) && b.is_direct(&a));
            }
            let longest = silence(&a, &b, Duration::from_secs(6), || {
                lab.rebind(Side::A).expect("another address");
            });
            Some(longest.max(late))
        });
    }
}

#[test]
fn direct_ways_outlive_the_hub() {
    in_time(Duration::from_secs(1), || {
        let lab = lab(NatKind::Easy, NatKind::Easy)?;
        let keys = Keys::new();
        let first = hub(&lab, &keys, 0);
        let (a, b, late) = connected(&lab, &keys, 1);
        until("a direct way", || a.is_direct(&b) && b.is_direct(&a));
        let longest = silence(&a, &b, Duration::from_secs(8), || drop(first));
        let _second = hub(&lab, &keys, 0);
        until("the hub's return", || {
            a.is_registered() && b.is_registered()
        });
        Some(longest.max(late))
    });
}

#[test]
fn who_is_relayed_goes_by_the_other_hub_when_one_is_gone() {
    in_time(OUTAGE, || {
        let lab = lab(NatKind::Symmetric, NatKind::Symmetric)?;
        let keys = Keys::new();
        let first = hub(&lab, &keys, 0);
        let _second = hub(&lab, &keys, 1);
        let (a, b, late) = connected(&lab, &keys, 2);
        let both = |node: &Node| {
            node.status()
                .hubs
                .iter()
                .all(|hub| hub.link.state.name() == "up")
        };
        until("both hubs", || both(&a) && both(&b));
        let longest = silence(&a, &b, Duration::from_secs(6), || drop(first));

        Some(longest.max(late))
    });
}

#[test]
fn who_is_started_again_at_once_is_taken_again() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let keys = Keys::new();
    let _hub = hub(&lab, &keys, 0);
    for _ in 0..4 {
        in_time(Duration::from_secs(3), || {
            let a = node(lab.host(Side::A), &keys, 0, 1);
            Some(until("a's registration", || a.is_registered()))
        });
    }
}

/// Between two attempts at least.
const ATTEMPT: Duration = Duration::from_secs(1);

#[test]
fn first_packets_go_with_the_first_attempt() {
    let Some(lab) = lab(NatKind::Symmetric, NatKind::Symmetric) else {
        return;
    };
    let keys = Keys::new();
    let _hub = hub(&lab, &keys, 0);
    let mut took_all = Vec::new();
    for _ in 0..6 {
        let a = node(lab.host(Side::A), &keys, 0, 1);
        let c = node(lab.public(), &keys, 2, 1);
        until("registrations", || a.is_registered() && c.is_registered());
        let from = Instant::now();
        a.send(&c, "first");
        let took = until("the first packet's answer", || a.has_answer("first"));
        let attempts: Vec<u64> = (a.status().peers.iter())
            .map(|peer| peer.counters.attempts)
            .collect();
        // A second attempt comes after a second at the earliest: on a busy machine it may.
        if from.elapsed() < ATTEMPT {
            assert_eq!(attempts, [1], "{took:?}");
        }
        took_all.push(took);
    }
    assert!(took_all.iter().any(|took| *took < ATTEMPT), "{took_all:?}");
}
