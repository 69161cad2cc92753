//! Datagrams in fragments, both ways, in any order.

use std::time::Duration;

use proptest::prelude::*;
use vpn_core::testing::build;
use vpn_core::{DropReason, Protocol};

use super::world::{World, udp};

const TUNNELS: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/32", "fd00:5::2/128"]),
    ("fr", &["10.6.0.2/32", "fd00:6::2/128"]),
    ("us", &["10.5.0.2/32", "fd00:5::2/128"]),
];

fn world() -> World {
    let mut world = World::new(TUNNELS);
    for (uid, tunnel) in [(1001, "uk"), (1002, "fr"), (1003, "us")] {
        world.rule(uid, tunnel);
    }
    world
}

fn ends(v6: bool) -> ((&'static str, u16), (&'static str, u16), &'static str) {
    match v6 {
        false => (("10.5.0.2", 4000), ("192.0.2.9", 7), "10.6.0.2"),
        true => (("fd00:5::2", 4000), ("2001:db8::9", 7), "fd00:6::2"),
    }
}

fn payload() -> Vec<u8> {
    (0..8000u32).map(|i| (i * 31 % 251) as u8).collect()
}

/// The datagram that these fragments make up, whose header is that of the first.
fn together(fragments: &[Vec<u8>]) -> Vec<u8> {
    use vpn_core::packet::Fragment;
    let v6 = fragments[0][0] >> 4 == 6;
    let header = if v6 { 48 } else { 20 };
    let mut body = Vec::new();
    for bytes in fragments {
        let at = usize::from(Fragment::of(bytes).expect("a fragment").offset);
        let part = &bytes[header..];
        body.resize(body.len().max(at + part.len()), 0);
        body[at..at + part.len()].copy_from_slice(part);
    }
    body
}

/// Without what differs between whole and cut: the IP header.
fn body(bytes: &[u8]) -> &[u8] {
    if bytes[0] >> 4 == 6 {
        &bytes[40..]
    } else {
        &bytes[20..]
    }
}

fn shuffled() -> impl Strategy<Value = Vec<usize>> {
    Just((0..6).collect::<Vec<usize>>()).prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// R6, N-8, N-9, S-22.
    #[test]
    fn a_large_datagram_crosses_in_any_order(v6: bool, out in shuffled(), back in shuffled()) {
        let mut world = world();
        let (app, site, wire) = ends(v6);
        world.socket(Protocol::UDP, app, 1002, 1);
        let whole = udp(app, site, &payload());
        let parts = build::fragments(&whole, 1400, 77);
        prop_assert_eq!(parts.len(), 6);
        for &place in &out {
            world.send([parts[place].clone()]);
            prop_assert!(world.router.accounts().balance());
        }
        let sent = world.sent("fr");
        let expected = udp((wire, 4000), site, &payload());
        prop_assert_eq!(together(&sent), body(&expected));
        for fragment in &sent {
            if !v6 {
                use vpn_core::packet::checksum::{fold, sum};
                prop_assert_eq!(fold(sum(&fragment[..20], 0)), 0xffff);
                prop_assert_eq!(&fragment[12..16], [10, 6, 0, 2]);
            }
        }
        let answer = build::fragments(&udp(site, (wire, 4000), &payload()), 1400, 99);
        for &place in &back {
            world.receive("fr", &answer[place]);
            prop_assert!(world.router.accounts().balance());
        }
        let got = world.delivered();
        let expected = udp(site, app, &payload());
        prop_assert_eq!(together(&got), body(&expected));
        prop_assert_eq!(world.router.accounts().drops.total(), 0);
    }
}

/// Two apps on two device addresses, one wire address, the same identification.
#[test]
fn two_datagrams_of_two_apps_do_not_become_one() {
    let mut world = World::new(&[("uk", &["10.5.0.2/32"]), ("fr", &["10.6.0.2/32"])]);
    world.rule_for_all("fr");
    let site = ("192.0.2.9", 7);
    let (one, two) = (("10.5.0.2", 4000), ("10.6.0.2", 5000));
    let first = build::fragments(&udp(one, site, &[1; 3000]), 1400, 7);
    let second = build::fragments(&udp(two, site, &[2; 3000]), 1400, 7);
    for (a, b) in first.iter().zip(&second) {
        world.send([a.clone(), b.clone()]);
    }
    let sent = world.sent("fr");
    let id = |bytes: &Vec<u8>| u16::from_be_bytes([bytes[4], bytes[5]]);
    let (mine, theirs): (Vec<_>, Vec<_>) = sent.into_iter().partition(|p| id(p) == 7);
    assert_eq!((mine.len(), theirs.len()), (3, 3));
    assert!(theirs.iter().all(|p| id(p) == id(&theirs[0])));
    assert_eq!(
        together(&mine),
        body(&udp(("10.6.0.2", 4000), site, &[1; 3000]))
    );
    let ported = together(&theirs);
    assert_eq!(ported[8..], [2; 3000]);
}

#[test]
fn fragments_wait_while_the_owner_is_sought() {
    let mut world = world();
    world.slow_owners = true;
    let (app, site, wire) = ends(false);
    world.socket(Protocol::UDP, app, 1002, 1);
    let parts = build::fragments(&udp(app, site, &payload()), 1400, 7);
    world.send(parts);
    assert!(world.sent("fr").is_empty());
    assert!(world.router.accounts().held >= 6 && world.router.accounts().balance());
    world.slow_owners = false;
    world.answer_owners();
    assert_eq!(
        together(&world.sent("fr")),
        body(&udp((wire, 4000), site, &payload()))
    );
}

/// A provider cannot send pieces to an app that asked nothing, nor through another tunnel.
#[test]
fn fragments_of_no_flow_are_nobodys() {
    let mut world = world();
    let (app, site, _) = ends(false);
    world.socket(Protocol::UDP, app, 1001, 1);
    world.send([udp(app, site, b"question")]);
    let answer = build::fragments(&udp(site, app, &payload()), 1400, 9);
    for part in &answer {
        world.receive("us", part);
    }
    assert!(world.delivered().is_empty());
    assert_eq!(
        world.drops(DropReason::Unsolicited),
        6,
        "the first, and with it the others"
    );
    for part in answer.iter().rev() {
        world.receive("uk", part);
    }
    assert_eq!(
        together(&world.delivered()),
        body(&udp(site, app, &payload()))
    );
}

#[test]
fn what_is_never_completed_expires_and_is_counted() {
    let mut world = world();
    let (app, site, _) = ends(false);
    let parts = build::fragments(&udp(app, site, &payload()), 1400, 7);
    world.send(parts[1..].to_vec());
    assert_eq!(world.router.accounts().held, 5);
    world.advance(Duration::from_secs(17));
    assert_eq!(world.router.accounts().held, 0);
    assert_eq!(world.drops(DropReason::Fragment), 5);
    assert!(world.router.accounts().balance());
}

/// S-13: what is blocked is blocked to its last piece.
#[test]
fn a_blocked_datagram_is_blocked_whole() {
    let mut world = world();
    world.rule(1004, "block");
    let (app, site, _) = ends(false);
    world.socket(Protocol::UDP, app, 1004, 1);
    let parts = build::fragments(&udp(app, site, &payload()), 1400, 7);
    world.send(parts.iter().rev().cloned());
    assert_eq!(world.drops(DropReason::BlockedByRule), 6);
    for tunnel in ["uk", "fr", "us"] {
        assert!(world.sent(tunnel).is_empty());
    }
}

/// RFC 3128: a second fragment that would overwrite the flags of the first.
#[test]
fn a_fragment_that_hides_flags_is_refused() {
    let mut world = world();
    world.rule_for_all("uk");
    let mut part = build::fragments(
        &super::world::tcp(("10.5.0.2", 1), ("192.0.2.9", 80), "S"),
        28,
        7,
    )
    .remove(1);
    assert_eq!(part[7], 1, "eight bytes in");
    part[6] |= 0x20;
    world.send([part]);
    assert_eq!(world.drops(DropReason::Malformed), 1);
}

/// A tunnel that comes back with another address: what is left of a datagram must not leave with
/// the one it had.
#[test]
fn a_later_fragment_does_not_leave_with_an_address_that_is_gone() {
    let mut world = world();
    let (app, site, _) = ends(false);
    world.socket(Protocol::UDP, app, 1002, 1);
    let parts = build::fragments(&udp(app, site, &payload()), 1400, 7);
    world.send(parts[..2].to_vec());
    assert_eq!(world.sent("fr").len(), 2);
    world.up("fr", &["10.6.0.3/32", "fd00:6::2/128"], &[]);
    world.send(parts[2..].to_vec());
    assert!(world.sent("fr").is_empty());
    assert_eq!(world.drops(DropReason::Fragment), 4);
}

/// The fragment header of an IPv6 packet comes once: what a second one says is not what the first
/// was judged by.
#[test]
fn two_fragment_headers_are_refused_and_counted() {
    let mut world = world();
    let (app, site, _) = ends(true);
    world.socket(Protocol::UDP, app, 1002, 1);
    let first = build::fragments(&udp(app, site, &payload()), 1280, 7).remove(0);
    // In front of it an atomic one (RFC 6946).
    let mut twice = first[..40].to_vec();
    twice.extend([44, 0, 0, 0, 0, 0, 0, 9]);
    twice.extend(&first[40..]);
    let length = (twice.len() - 40) as u16;
    twice[4..6].copy_from_slice(&length.to_be_bytes());
    world.send([twice.clone()]);
    assert_eq!(world.drops(DropReason::Malformed), 1);
    world.receive("fr", &twice);
    assert_eq!(world.drops(DropReason::Malformed), 2);
}

/// Cut to fit, the end of a fragment at the end of all offsets would begin again at 0, with ports
/// that nobody looked at.
#[test]
fn a_fragment_beyond_the_end_of_a_datagram_is_refused() {
    let mut world = world();
    let (app, site, _) = ends(false);
    world.socket(Protocol::UDP, app, 1002, 1);
    let mut parts = build::fragments(&udp(app, site, &[7; 4000]), 1500, 7);
    world.send([parts[0].clone()]);
    assert_eq!(world.sent("fr").len(), 2, "cut: its MTU is 1,420");
    let room = (1420 - 20) / 8;
    let last = &mut parts[1];
    let place = 0x2000 - room;
    last[6..8].copy_from_slice(&(0x2000u16 | place).to_be_bytes());
    world.send([last.clone()]);
    assert!(world.sent("fr").is_empty());
    assert_eq!(world.drops(DropReason::Malformed), 1);
}

/// RFC 4963: identifications come again. What was lost of one datagram does not cost the next.
#[test]
fn an_identification_that_comes_again_is_another_datagram() {
    let mut world = world();
    let (app, site, wire) = ends(false);
    world.socket(Protocol::UDP, app, 1002, 1);
    world.send([udp(app, site, b"question")]);
    world.sent("fr");
    let answer = build::fragments(&udp(site, (wire, app.1), &payload()), 1400, 9);
    for (place, part) in answer.iter().enumerate() {
        if place != 2 {
            world.receive("fr", part);
        }
    }
    assert_eq!(world.delivered().len(), 5);
    world.advance(Duration::from_secs(14));
    world.receive("fr", &answer[0]);
    world.advance(Duration::from_secs(2));
    for part in &answer[1..] {
        world.receive("fr", part);
    }
    let expected = udp(site, app, &payload());
    assert_eq!(together(&world.delivered()), body(&expected));
}

/// Whoever is behind one tunnel sends pieces of nothing, from everywhere.
#[test]
fn one_tunnel_cannot_take_the_fragments_of_others() {
    let mut world = world();
    let (app, site, wire) = ends(false);
    world.socket(Protocol::UDP, app, 1002, 1);
    world.send([udp(app, site, b"question")]);
    world.sent("fr");
    let flood = |world: &mut World, length: usize, to: u16| {
        for host in 0..to {
            let [high, low] = host.to_be_bytes();
            let from = format!("198.18.{high}.{low}");
            let whole = udp((&from, 9), ("10.5.0.2", 9), &vec![0; length]);
            let piece = build::fragments(&whole, length, 7).remove(1);
            world.receive("uk", &piece);
        }
    };
    let answer = build::fragments(&udp(site, (wire, app.1), &payload()), 1400, 9);
    // Places.
    world.receive("fr", &answer[0]);
    flood(&mut world, 40, 3000);
    for part in &answer[1..] {
        world.receive("fr", part);
    }
    assert_eq!(world.delivered().len(), 6);
    // Bytes.
    flood(&mut world, 1400, 3000);
    for part in answer.iter().rev() {
        world.receive("fr", part);
    }
    assert_eq!(world.delivered().len(), 6);
}
