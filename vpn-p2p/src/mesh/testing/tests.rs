//! The doubles do what they stand for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::*;
use crate::mesh::keys::{Admission, Keys, data_index, sender_index};
use crate::session::{Opened, Session, Ticked};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two ends with a session that both have proven.
fn pair(clock: &Clock) -> [Box<dyn Session>; 2] {
    let keys = [1, 2].map(|number| FakeKeys::new(number, clock.clone()));
    let mut a = keys[0].session(keys[1].public());
    let mut b = keys[1].session(keys[0].public());
    let init = a.initiate(false).unwrap();
    let Admission::Initiation(who, init) = keys[1].admit(at("192.0.2.1:1"), init) else {
        panic!("not admitted");
    };
    assert_eq!(who, keys[0].public());
    let ours = sender_index(&init);
    let Opened::Reply(response) = b.open(init) else {
        panic!("no response");
    };
    assert!(!a.is_ready() && !b.is_ready());
    let Admission::ForIndex(index, response) = keys[0].admit(at("192.0.2.2:1"), response) else {
        panic!("not admitted");
    };
    assert_eq!(Some(index), ours);
    let Opened::Reply(keepalive) = a.open(response) else {
        panic!("no keepalive");
    };
    assert!(a.is_ready() && !b.is_ready(), "not proven");
    assert!(matches!(b.open(keepalive), Opened::Keepalive));
    assert!(b.is_ready());
    [a, b]
}

fn sealed(session: &mut Box<dyn Session>, plain: &[u8]) -> BytesMut {
    let mut out = Vec::new();
    assert!(session.seal(BytesMut::from(plain), &mut out));
    assert_eq!(out.len(), plain.len() + 32);
    assert!(data_index(&out).is_some());
    BytesMut::from(&out[..])
}

#[test]
fn a_session_opens_what_its_peer_sealed_once_and_nothing_else() {
    let [mut a, mut b] = pair(&Clock::default());
    let message = sealed(&mut a, b"Ehello");
    let mut wrong = message.clone();
    for at in 0..message.len() {
        wrong[at] ^= 1;
        assert!(matches!(b.open(wrong.clone()), Opened::Rejected(_)), "{at}");
        wrong[at] ^= 1;
    }
    assert!(
        matches!(a.open(message.clone()), Opened::Rejected(_)),
        "reflected"
    );
    let later = sealed(&mut a, b"Eworld");
    assert!(matches!(b.open(later), Opened::Packet(_)));
    let Opened::Packet(plain) = b.open(message.clone()) else {
        panic!("reordered is not replayed");
    };
    assert_eq!(&plain[..], b"Ehello");
    assert!(matches!(b.open(message), Opened::Rejected(_)), "replayed");
}

#[test]
fn initiations_are_not_replayed_nor_for_another_key() {
    let clock = Clock::default();
    let keys = [1, 2, 3].map(|number| FakeKeys::new(number, clock.clone()));
    let init = keys[0].session(keys[1].public()).initiate(false).unwrap();
    let mut b = keys[1].session(keys[0].public());
    assert!(matches!(
        keys[2].admit(at("192.0.2.1:1"), init.clone()),
        Admission::Rejected
    ));
    assert!(matches!(b.open(init.clone()), Opened::Reply(_)));
    assert!(matches!(b.open(init), Opened::Rejected(_)));
}

#[test]
fn its_timers_are_wireguards() {
    let clock = Clock::default();
    let [mut a, mut b] = pair(&clock);
    let start = clock.now();
    let to = |seconds| clock.set(start + Duration::from_secs(seconds));
    let message = sealed(&mut a, b"E");
    assert!(matches!(b.open(message), Opened::Packet(_)));
    to(9);
    assert!(matches!(b.tick(), Ticked::Idle));
    to(10);
    let Ticked::Send(keepalive) = b.tick() else {
        panic!("no passive keepalive");
    };
    assert_eq!(keepalive.len(), 32);
    assert!(matches!(a.open(keepalive), Opened::Keepalive));
    to(60);
    assert!(matches!(a.tick(), Ticked::Idle) && matches!(b.tick(), Ticked::Idle));
    let _ = sealed(&mut b, b"E");
    to(75);
    let Ticked::Send(init) = b.tick() else {
        panic!("silence is no reason for a handshake?");
    };
    assert_eq!(init[0], 1);
    to(181);
    let _ = (a.tick(), b.tick());
    assert!(!a.is_ready());
    assert!(!a.seal(BytesMut::from(&b"E"[..]), &mut Vec::new()));
}

/// A clock that rounds never reaches a timer.
#[test]
fn the_clock_is_exactly_what_it_was_set_to() {
    let clock = Clock::default();
    let at = clock.now() + Duration::from_nanos(1_000_001);
    clock.set(at);
    assert_eq!(clock.now(), at);
    clock.set(at - Duration::from_secs(1));
    assert_eq!(clock.now(), at);
}

#[test]
fn nats_map_and_filter_as_their_kind_does() {
    let now = Instant::now();
    let (inside, one, two) = (at("10.0.0.2:7"), at("192.0.2.1:1"), at("192.0.2.2:2"));
    let outside = "198.51.100.1".parse().unwrap();
    let nat = |kind| Nat::new(kind, outside, Duration::from_secs(60), 7);

    let mut easy = nat(NatKind::Easy);
    let seen = easy.out(inside, one, now).unwrap();
    assert_eq!(easy.out(inside, two, now), Some(seen), "one port for all");
    assert_eq!(easy.take(one, seen, now), Some(inside));
    assert_eq!(
        easy.take(at("192.0.2.1:9"), seen, now),
        None,
        "not asked for"
    );
    assert_eq!(easy.out(inside, seen, now), None, "no hairpin");
    let late = now + Duration::from_secs(60);
    assert_eq!(easy.take(one, seen, late), None, "forgotten");
    assert_ne!(easy.out(inside, one, late), Some(seen));
    let seen = easy.out(inside, one, late).unwrap();
    easy.restart();
    assert_eq!(easy.take(one, seen, late), None);

    let mut symmetric = nat(NatKind::Symmetric);
    let first = symmetric.out(inside, one, now).unwrap();
    let second = symmetric.out(inside, two, now).unwrap();
    assert_ne!(first, second, "one port for each");
    assert_eq!(symmetric.take(one, first, now), Some(inside));
    assert_eq!(symmetric.take(one, second, now), None);

    assert_eq!(nat(NatKind::NoUdp).out(inside, one, now), None);
    assert_eq!(nat(NatKind::Open).out(inside, one, now), Some(inside));
}
