//! The NAT lab itself: its NATs map, filter and block as they say, and its faults do what they say.
//! Needs root; says what is missing otherwise.

#![allow(clippy::expect_used, reason = "a failing test says so")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use vpn_lab::{
    HUB4, HUB6, Mapping, Namespace, NatKind, NatLab, NatPlan, PUBLIC4, PUBLIC6, REFLECTOR_PORTS,
    SECOND_HUB4, Side, mapping, reflexive, reflexive_tcp,
};

/// How long a datagram is awaited: there is no delay on these cables.
const SOON: Duration = Duration::from_millis(300);

fn lab(plan: NatPlan) -> Option<NatLab> {
    if vpn_lab::skip(&NatPlan::PROGRAMS) {
        return None;
    }
    Some(NatLab::start(plan).expect("a lab"))
}

fn hub(port: usize) -> SocketAddr {
    (HUB4, REFLECTOR_PORTS[port]).into()
}

/// A socket of that machine, at any address.
fn socket(at: &Namespace, port: u16) -> UdpSocket {
    let socket = at
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
        .expect("inside")
        .expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    socket
}

fn mapping_of(at: &Namespace) -> Mapping {
    at.run(|| mapping(HUB4.into()))
        .expect("inside")
        .expect("an answer, or none")
}

/// What the socket hears within `SOON`, and from whom.
fn heard(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

/// Simultaneous open: both learn their mapping toward the hub, tell each other, and send to it; who
/// hears something answers to where it came from. Whether both heard the other one.
fn punched(one: &Namespace, two: &Namespace) -> bool {
    let (one, two) = (socket(one, 0), socket(two, 0));
    let addresses = (reflexive(&one, hub(0)), reflexive(&two, hub(0)));
    let (Ok(of_one), Ok(of_two)) = addresses else {
        return false;
    };
    let together = Barrier::new(2);
    let side = |socket: &UdpSocket, mut peer: SocketAddr| {
        together.wait();
        let end = Instant::now() + SOON;
        let mut heard_it = false;
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout");
        while Instant::now() < end {
            let _ = socket.send_to(b"punch", peer);
            if let Some((text, from)) = heard(socket)
                && text == b"punch"
            {
                (heard_it, peer) = (true, from);
            }
        }
        heard_it
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| side(&one, of_two));
        let second = side(&two, of_one);
        first.join().expect("a thread") && second
    })
}

#[test]
fn each_kind_maps_as_it_says() {
    let expected = |kind| match kind {
        NatKind::Easy => Mapping::EndpointIndependent,
        NatKind::Symmetric => Mapping::EndpointDependent,
        NatKind::Block => Mapping::None,
    };
    for plan in [
        NatPlan::of(NatKind::Easy, NatKind::Symmetric),
        NatPlan::of(NatKind::Block, NatKind::Easy),
    ] {
        let Some(lab) = lab(plan) else { return };
        for side in Side::BOTH {
            let router = lab.router(side);
            assert_eq!(mapping_of(lab.host(side)), expected(router.kind()));
            // TCP passes all of them.
            let seen = lab.host(side).run(|| reflexive_tcp(hub(0)));
            let seen = seen.expect("inside").expect("TCP");
            assert_eq!(seen.ip(), IpAddr::from(router.wan4()), "{side:?} {plan:?}");
        }
        assert_eq!(mapping_of(lab.public()), Mapping::EndpointIndependent);
    }
}

#[test]
fn an_easy_nat_keeps_the_port_and_a_symmetric_one_does_not() {
    let Some(lab) = lab(NatPlan::of(NatKind::Easy, NatKind::Symmetric)) else {
        return;
    };
    let easy = socket(lab.host(Side::A), 40_000);
    let elsewhere = SocketAddr::from((SECOND_HUB4, REFLECTOR_PORTS[0]));
    for reflector in [hub(0), hub(1), elsewhere] {
        let seen = reflexive(&easy, reflector).expect("an answer");
        assert_eq!(seen, (lab.router(Side::A).wan4(), 40_000).into());
    }
    let symmetric = socket(lab.host(Side::B), 40_000);
    let seen = [hub(0), hub(1), elsewhere].map(|at| reflexive(&symmetric, at).expect("an answer"));
    assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
    // Toward one destination the mapping stays.
    assert_eq!(reflexive(&symmetric, hub(0)).expect("an answer"), seen[0]);
}

#[test]
fn holes_are_punched_where_they_can_be() {
    for (i, a) in NatKind::ALL.into_iter().enumerate() {
        for b in NatKind::ALL.into_iter().skip(i) {
            let Some(lab) = lab(NatPlan::of(a, b)) else {
                return;
            };
            let both_easy = a == NatKind::Easy && b == NatKind::Easy;
            let open = punched(lab.host(Side::A), lab.host(Side::B));
            assert_eq!(open, both_easy, "{a:?} and {b:?}");
            for (side, kind) in [(Side::A, a), (Side::B, b)] {
                let open = punched(lab.host(side), lab.public());
                assert_eq!(open, kind != NatKind::Block, "{kind:?} and a public host");
            }
        }
    }
}

#[test]
fn what_is_unsolicited_does_not_pass() {
    let Some(lab) = lab(NatPlan::default()) else {
        return;
    };
    let inside = socket(lab.host(Side::A), 40_000);
    let mapped = reflexive(&inside, hub(0)).expect("an answer");
    let stranger = socket(lab.public(), 0);
    stranger.send_to(b"hello", mapped).expect("sent");
    assert_eq!(heard(&inside), None);
    // Once it was asked, its answer passes: its port's, and no other's.
    let other = socket(lab.public(), 0);
    let port = stranger.local_addr().expect("an address").port();
    inside.send_to(b"hi", (PUBLIC4, port)).expect("sent");
    other.send_to(b"not me", mapped).expect("sent");
    assert_eq!(heard(&inside), None);
    stranger.send_to(b"hello", mapped).expect("sent");
    let answer = heard(&inside).expect("an answer");
    assert_eq!(answer, (b"hello".to_vec(), (PUBLIC4, port).into()));
}

#[test]
fn both_lans_may_be_the_same() {
    let plan = NatPlan {
        same_lan: true,
        ..NatPlan::default()
    };
    let Some(lab) = lab(plan) else { return };
    assert_eq!(lab.lan4(Side::A), lab.lan4(Side::B));
    for side in Side::BOTH {
        let at = lab.lan4(side);
        let own = lab.host(side).run(|| UdpSocket::bind((at, 0)));
        own.expect("inside").expect("the host has that address");
    }
    assert!(punched(lab.host(Side::A), lab.host(Side::B)));
}

#[test]
fn ipv6_is_public_behind_a_firewall() {
    let plan = NatPlan {
        v6: true,
        ..NatPlan::of(NatKind::Symmetric, NatKind::Block)
    };
    let Some(lab) = lab(plan) else { return };
    let bind = |at: &Namespace| {
        let socket = at.run(|| UdpSocket::bind("[::]:0"));
        let socket = socket.expect("inside").expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket
    };
    let inside = bind(lab.host(Side::A));
    let port = inside.local_addr().expect("an address").port();
    let own = SocketAddr::from((lab.lan6(Side::A).expect("IPv6"), port));
    let hub = SocketAddr::from((HUB6, REFLECTOR_PORTS[0]));
    assert_eq!(reflexive(&inside, hub).expect("an answer"), own);
    let public = bind(lab.public());
    public.send_to(b"hello", own).expect("sent");
    assert_eq!(heard(&inside), None, "unsolicited");
    let port = public.local_addr().expect("an address").port();
    inside.send_to(b"hi", (PUBLIC6, port)).expect("sent");
    assert!(heard(&public).is_some());
    public.send_to(b"hello", own).expect("sent");
    assert!(heard(&inside).is_some());
    // A router that blocks UDP blocks this too.
    assert!(reflexive(&bind(lab.host(Side::B)), hub).is_err());
}

#[test]
fn faults_come_and_go() {
    let Some(mut lab) = lab(NatPlan::default()) else {
        return;
    };
    let socket = socket(lab.host(Side::A), 40_000);
    let before = reflexive(&socket, hub(0)).expect("an answer");
    let router = lab.router(Side::A);
    router.cut().expect("a cut");
    assert!(reflexive(&socket, hub(0)).is_err(), "cut");
    router.heal().expect("healed");
    assert_eq!(reflexive(&socket, hub(0)).expect("an answer"), before);

    router.deaf_to(Some(HUB4.into())).expect("a fault");
    assert!(reflexive(&socket, hub(0)).is_err(), "deaf to the hub");
    let elsewhere = SocketAddr::from((SECOND_HUB4, REFLECTOR_PORTS[0]));
    reflexive(&socket, elsewhere).expect("not deaf to others");
    router.deaf_to(None).expect("no fault");
    reflexive(&socket, hub(0)).expect("an answer");

    router.lose(100).expect("a fault");
    assert!(reflexive(&socket, hub(0)).is_err(), "all is lost");
    router.lose(30).expect("a fault");
    let share = lost(lab.host(Side::A), 400, Duration::from_millis(20));
    assert!((0.35..0.67).contains(&share), "{share}: near 0.51");
    router.lose(0).expect("no fault");
    // Nothing is waited for in vain here: who answers late is no loss.
    let share = lost(lab.host(Side::A), 100, Duration::from_secs(1));
    assert!(share < 0.01, "{share}: nothing is lost");

    let moved = lab.rebind(Side::A).expect("another address");
    assert_ne!(IpAddr::from(moved), before.ip());
    assert_eq!(reflexive(&socket, hub(0)).expect("an answer").ip(), moved);
    lab.rebind(Side::A).expect("the first address");
    assert_eq!(reflexive(&socket, hub(0)).expect("an answer"), before);
}

/// The share of so many questions to the hub that stay unanswered for so long: what a round trip loses.
fn lost(at: &Namespace, questions: u32, patience: Duration) -> f64 {
    let socket = socket(at, 0);
    socket.set_read_timeout(Some(patience)).expect("a timeout");
    let answered = (0..questions)
        .filter(|_| {
            socket.send_to(b"?", hub(0)).expect("sent");
            heard(&socket).is_some()
        })
        .count();
    1.0 - answered as f64 / f64::from(questions)
}

#[test]
fn a_rebind_forgets_what_was_mapped() {
    let Some(mut lab) = lab(NatPlan::default()) else {
        return;
    };
    let inside = socket(lab.host(Side::A), 40_000);
    let peer = socket(lab.public(), 0);
    let port = peer.local_addr().expect("an address").port();
    inside.send_to(b"hi", (PUBLIC4, port)).expect("sent");
    let (_, old) = heard(&peer).expect("a datagram");
    lab.rebind(Side::A).expect("another address");
    for to in [old, (lab.router(Side::A).wan4(), old.port()).into()] {
        // Nobody may have the old address: then the neighbour cannot be found.
        let _ = peer.send_to(b"still there?", to);
        assert_eq!(heard(&inside), None, "{to}");
    }
    inside.send_to(b"hi", (PUBLIC4, port)).expect("sent");
    let (_, new) = heard(&peer).expect("a datagram");
    assert_ne!(new.ip(), old.ip());
}

#[test]
fn silent_mappings_end_when_the_router_forgets_early() {
    let Some(lab) = lab(NatPlan::of(NatKind::Symmetric, NatKind::Easy)) else {
        return;
    };
    let soon = Duration::from_secs(1);
    let router = lab.router(Side::A);
    router.forget_udp_after(soon).expect("a setting");
    let socket = socket(lab.host(Side::A), 0);
    let before = reflexive(&socket, hub(0)).expect("an answer");
    std::thread::sleep(soon * 2);
    let after = reflexive(&socket, hub(0)).expect("an answer");
    assert_ne!(before, after);
}

#[test]
fn nothing_of_a_lab_stays() {
    let Some(lab) = lab(NatPlan::default()) else {
        return;
    };
    let threads = || {
        let all = std::fs::read_dir("/proc/self/task").expect("own threads");
        let names =
            all.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect::<Vec<_>>()
    };
    let tids: Vec<i32> = [lab.hub(), lab.public()]
        .into_iter()
        .chain(Side::BOTH.map(|side| lab.host(side)))
        .chain(Side::BOTH.map(|side| lab.router(side).namespace()))
        .map(Namespace::tid)
        .collect();
    assert_eq!(tids.len(), 6);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _lab = lab;
        panic!("a test that fails");
    }));
    assert!(panicked.is_err());
    // A namespace lives as long as its keeper, which ends a moment after the value is dropped.
    let end = Instant::now() + Duration::from_secs(5);
    let stays = |tid: &&i32| std::path::Path::new(&format!("/proc/self/task/{tid}")).exists();
    while tids.iter().any(|tid| stays(&tid)) {
        assert!(Instant::now() < end, "still there: {:?}", threads());
        std::thread::sleep(Duration::from_millis(10));
    }
}
