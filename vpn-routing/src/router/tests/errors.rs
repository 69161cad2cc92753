//! ICMP errors through every tunnel, and what an application is told.

use vpn_core::packet::{Packet, Quoted};
use vpn_core::testing::{build, verify_checksums};
use vpn_core::{DropReason, FlowKey, Parsed};

use super::world::{World, addr, echo, flow_of, tcp, udp};
use crate::router::{Answer, Answers, RouterConfig};

/// The second tunnel has another address, so everything is translated there.
const TUNNELS: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/32", "fd00:5::2/128"]),
    ("fr", &["10.6.0.2/32", "fd00:6::2/128"]),
    ("four", &["10.7.0.2/32"]),
];

fn world() -> World {
    let mut world = World::new(TUNNELS);
    for (uid, tunnel) in [(1001, "uk"), (1002, "fr"), (1003, "four")] {
        world.rule(uid, tunnel);
    }
    world
}

fn quoted(bytes: &[u8]) -> FlowKey {
    verify_checksums(bytes).unwrap();
    let parsed = Parsed::from_bytes(bytes).unwrap();
    Quoted::of(bytes, &parsed).unwrap().flow
}

fn from(bytes: &[u8]) -> String {
    flow_of(bytes).src().to_string()
}

/// Traceroute, path MTU discovery and closed ports (N-9): by UDP, by TCP and by echo.
#[test]
fn an_error_comes_back_with_the_packet_as_the_app_sent_it() {
    let mut world = world();
    let v4 = [
        udp(
            ("10.5.0.2", 4000),
            ("192.0.2.9", 33_434),
            b"probe of a route",
        ),
        tcp(("10.5.0.2", 4001), ("192.0.2.9", 80), "S"),
        echo("10.5.0.2", "192.0.2.9", 77, false),
    ];
    let v6 = [
        udp(
            ("fd00:5::2", 4000),
            ("2001:db8::9", 33_434),
            b"probe of a route",
        ),
        echo("fd00:5::2", "2001:db8::9", 77, false),
    ];
    for (uid, own) in [(1001, "uk"), (1002, "fr")] {
        for packet in v4.iter().chain(&v6) {
            let flow = flow_of(packet);
            let port = flow.src_port();
            world.socket(
                flow.protocol(),
                (&flow.src().to_string(), port),
                uid,
                uid.into(),
            );
            world.send([packet.clone()]);
            let [sent] = &world.sent(own)[..] else {
                panic!("{flow} through {own}")
            };
            let wire = flow_of(sent);
            let (hop, kind) = match flow.src().is_ipv4() {
                true => ("198.51.100.1", 11),
                false => ("2001:db8:ffff::1", 3),
            };
            let error = build::icmp(addr(hop), wire.src(), kind, 0, 0, sent);
            world.receive(own, &error);
            let [told] = &world.delivered()[..] else {
                panic!("no error about {flow}")
            };
            assert_eq!(quoted(told), flow);
            assert_eq!(from(told), hop);
            assert_eq!(flow_of(told).dst(), flow.src());
            let at = if flow.src().is_ipv4() { 28 } else { 48 };
            assert_eq!(&told[at..], &packet[..], "byte for byte");
            // Through another tunnel it is nobody's.
            let other = if own == "uk" { "fr" } else { "uk" };
            world.receive(other, &error);
            assert!(world.delivered().is_empty());
            world.advance(std::time::Duration::from_secs(1));
        }
    }
}

/// This host says that a port is closed, or that it waited too long for fragments.
#[test]
fn an_error_of_this_host_leaves_through_the_flows_tunnel() {
    let mut world = world();
    let query = udp(
        ("10.5.0.2", 4000),
        ("192.0.2.9", 9),
        b"question to somebody",
    );
    world.socket(vpn_core::Protocol::UDP, ("10.5.0.2", 4000), 1002, 1);
    world.send([query]);
    assert_eq!(world.sent("fr").len(), 1);
    let answer = udp(("192.0.2.9", 9), ("10.6.0.2", 4000), b"answer");
    world.receive("fr", &answer);
    let [got] = &world.delivered()[..] else {
        panic!("no answer")
    };
    let error = build::icmp(addr("10.5.0.2"), addr("192.0.2.9"), 3, 3, 0, got);
    world.send([error.clone()]);
    let [sent] = &world.sent("fr")[..] else {
        panic!("no error")
    };
    assert_eq!(&sent[28..], &answer[..], "as the server sent it");
    assert_eq!(from(sent), "10.6.0.2");
    // To somebody else, or about nothing: nowhere.
    for about in [
        build::icmp(addr("10.5.0.2"), addr("192.0.2.10"), 3, 3, 0, got),
        build::icmp(addr("10.5.0.2"), addr("192.0.2.9"), 3, 3, 0, &answer),
    ] {
        world.send([about]);
        assert!(world.sent("fr").is_empty() && world.sent("uk").is_empty());
    }
    assert_eq!(world.drops(DropReason::Unsupported), 2);
}

/// R12 and R8: an app that knows both families takes the other at once.
#[test]
fn a_family_that_is_not_carried_is_refused_at_once() {
    let mut world = world();
    world.socket(vpn_core::Protocol::TCP, ("fd00:5::2", 4000), 1003, 1);
    let syn = tcp(("fd00:5::2", 4000), ("2001:db8::9", 443), "S");
    world.send([syn.clone()]);
    let [told] = &world.delivered()[..] else {
        panic!("nothing was said")
    };
    assert_eq!((told[40], told[41]), (1, 0), "no route");
    assert_eq!(quoted(told), flow_of(&syn));
    assert_eq!(world.drops(DropReason::FamilyNotCarried), 1);
    assert!(world.router.accounts().balance());
}

#[test]
fn what_is_blocked_is_told_only_where_that_is_wanted() {
    let reject = Answers {
        blocked: Answer::Reject,
        ..Answers::default()
    };
    for (answers, told) in [(Answers::default(), 0), (reject, 1)] {
        let config = RouterConfig {
            answers,
            ..RouterConfig::default()
        };
        let mut world = World::with_config(config, TUNNELS);
        world.rule(1001, "block");
        world.socket(vpn_core::Protocol::TCP, ("10.5.0.2", 4000), 1001, 1);
        world.send([tcp(("10.5.0.2", 4000), ("192.0.2.9", 443), "S")]);
        assert_eq!(world.delivered().len(), told);
        assert_eq!(world.drops(DropReason::BlockedByRule), 1);
        assert!(world.router.accounts().balance());
    }
}

#[test]
fn a_broken_quote_is_nobodys() {
    let mut world = world();
    world.socket(vpn_core::Protocol::UDP, ("10.5.0.2", 4000), 1001, 1);
    world.send([udp(("10.5.0.2", 4000), ("192.0.2.9", 9), b"x")]);
    let sent = world.sent("uk").remove(0);
    let error = build::icmp(addr("198.51.100.1"), addr("10.5.0.2"), 11, 0, 0, &sent);
    for at in [20, 22, 28, 40, error.len() - 1] {
        let mut bad = error.clone();
        bad[at] ^= 0x55;
        world.receive("uk", &bad);
        assert!(world.delivered().is_empty(), "byte {at}");
    }
    world.receive("uk", &error);
    assert_eq!(world.delivered().len(), 1);
    assert!(Packet::from_slice(&error).parse().is_ok());
}

/// Redirects are for one link, and a tunnel is none (RFC 1122 §3.2.2.2); source quench is no more
/// (RFC 6633). Whoever is behind a tunnel cannot change the routes of this host.
#[test]
fn a_tunnel_cannot_redirect_an_app() {
    let mut world = world();
    world.socket(vpn_core::Protocol::UDP, ("10.5.0.2", 4000), 1001, 1);
    world.send([udp(("10.5.0.2", 4000), ("192.0.2.9", 9), b"x")]);
    let sent = world.sent("uk").remove(0);
    for kind in [4, 5] {
        let error = build::icmp(addr("192.0.2.9"), addr("10.5.0.2"), kind, 0, 0, &sent);
        world.receive("uk", &error);
        assert!(world.delivered().is_empty(), "type {kind}");
    }
    assert_eq!(world.drops(DropReason::Unsupported), 2);
}
