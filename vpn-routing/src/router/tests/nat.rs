//! What flows look like in their tunnel: mappings of UDP and echoes, collisions, other protocols.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use vpn_core::packet::Packet;
use vpn_core::testing::build;
use vpn_core::{Action, DropReason, FlowKey, Protocol, RuleMatch};

use super::world::{SITE, World, addr, echo, flow_of, tcp, udp};
use crate::dns::testing::{answer, query};
use crate::router::RouterConfig;

const OTHER_SITE: &str = "203.0.113.20";
const GRE: Protocol = Protocol(47);

/// Two addresses on the device, and one tunnel that every app uses.
fn world() -> World {
    let config = RouterConfig {
        seed: Some(1),
        ..RouterConfig::default()
    };
    let tunnels: &[(&str, &[&str])] = &[("uk", &["10.5.0.2/32"]), ("fr", &["10.9.0.2/32"])];
    let mut world = World::with_config(config, tunnels);
    world.rule_for_all("fr");
    world
}

fn only(mut packets: Vec<Vec<u8>>) -> Vec<u8> {
    assert_eq!(packets.len(), 1);
    packets.remove(0)
}

/// RFC 4787 REQ-1. One socket, two destinations: the same endpoint, so that peers who are told
/// about it by each other can use it.
#[test]
fn a_udp_socket_has_one_endpoint_for_all_destinations() {
    let mut world = world();
    // Somebody else has the port already.
    world.send([udp(("10.5.0.2", 5000), (SITE, 1), b"")]);
    assert_eq!(flow_of(&only(world.sent("fr"))).src_port(), 5000);
    world.send([
        udp(("10.9.0.2", 5000), (OTHER_SITE, 1), b""),
        udp(("10.9.0.2", 5000), (OTHER_SITE, 2), b""),
        udp(("10.9.0.2", 5000), (SITE, 1), b""),
    ]);
    let ports: Vec<u16> = world
        .sent("fr")
        .iter()
        .map(|p| flow_of(p).src_port())
        .collect();
    assert_ne!(ports[0], 5000, "two sockets never share an endpoint");
    assert!(ports.iter().all(|&port| port == ports[0]), "{ports:?}");
}

#[test]
fn a_mapping_goes_with_its_last_flow() {
    let mut world = world();
    world.send([udp(("10.5.0.2", 5000), (SITE, 1), b"")]);
    world.send([udp(("10.5.0.2", 5000), (SITE, 2), b"")]);
    world.sent("fr");
    assert_eq!(world.router.nat.len(), 1);
    for _ in 0..400 {
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.router.flows(9).len(), 0);
    assert!(world.router.nat.is_empty());
    world.send([udp(("10.9.0.2", 5000), (SITE, 1), b"")]);
    assert_eq!(flow_of(&only(world.sent("fr"))).src_port(), 5000);
}

/// RFC 5508 REQ-1a.
#[test]
fn an_echo_identifier_is_mapped_like_a_port() {
    let mut world = world();
    world.send([echo("10.5.0.2", SITE, 7, false)]);
    world.send([echo("10.9.0.2", SITE, 7, false)]);
    world.send([echo("10.9.0.2", OTHER_SITE, 7, false)]);
    let ids: Vec<u16> = world
        .sent("fr")
        .iter()
        .map(|p| flow_of(p).src_port())
        .collect();
    assert_eq!(ids[0], 7);
    assert_ne!(ids[1], 7);
    assert_eq!(ids[1], ids[2]);
    world.receive("fr", &echo(SITE, "10.9.0.2", ids[1], true));
    assert_eq!(world.delivered(), [echo(SITE, "10.9.0.2", 7, true)]);
}

#[test]
fn a_tcp_port_is_kept_unless_the_whole_tuple_is_taken() {
    let mut world = world();
    for (src, dst) in [
        ("10.5.0.2", SITE),
        ("10.9.0.2", OTHER_SITE),
        ("10.9.0.2", SITE),
    ] {
        world.send([tcp((src, 5000), (dst, 80), "S")]);
    }
    let ports: Vec<u16> = world
        .sent("fr")
        .iter()
        .map(|p| flow_of(p).src_port())
        .collect();
    assert_eq!(ports[..2], [5000, 5000], "different remotes do not collide");
    assert_ne!(ports[2], 5000);
}

/// Two queries of one socket (musl asks all resolvers at once) that are steered to one resolver.
#[test]
fn steered_twins_are_told_apart() {
    let config = RouterConfig {
        resolvers: vec![addr("10.64.0.1"), addr("10.64.0.2")],
        seed: Some(1),
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, &[("uk", &["10.5.0.2/32"])]);
    world.up("uk", &["10.5.0.2/32"], &["10.5.0.1"]);
    world.rule_for_all("uk");
    let question = query(7, "example.com", 1);
    for resolver in ["10.64.0.1", "10.64.0.2"] {
        world.send([udp(("10.5.0.2", 5353), (resolver, 53), &question)]);
    }
    let sent = world.sent("uk");
    let ports: Vec<u16> = sent.iter().map(|p| flow_of(p).src_port()).collect();
    assert_eq!(ports[0], 5353);
    assert_ne!(ports[1], 5353);
    let message = answer(7, "example.com", 1, &[]);
    world.receive(
        "uk",
        &udp(("10.5.0.1", 53), ("10.5.0.2", ports[1]), &message),
    );
    let back = udp(("10.64.0.2", 53), ("10.5.0.2", 5353), &message);
    assert_eq!(world.delivered(), [back]);
    for _ in 0..400 {
        world.advance(Duration::from_secs(1));
    }
    assert!(world.router.nat.is_empty(), "neither keeps a mapping");
}

fn gre(src: &str, dst: &str) -> Vec<u8> {
    build::ip(src, dst, GRE, b"\0\0\x08\0 anything at all")
}

fn addresses(bytes: &[u8]) -> FlowKey {
    Packet::from_slice(bytes).parse().unwrap().flow
}

/// GRE, ESP, SCTP and the like: by address, one local address per remote.
#[test]
fn a_protocol_without_ports_is_translated_by_address() {
    let mut world = world();
    let sent = gre("10.5.0.2", SITE);
    world.send([sent.clone()]);
    let out = only(world.sent("fr"));
    assert_eq!(
        out,
        gre("10.9.0.2", SITE),
        "nothing but the address and its checksum"
    );
    let back = gre(SITE, "10.9.0.2");
    world.receive("uk", &back);
    assert!(
        world.delivered().is_empty(),
        "another tunnel's answer is none"
    );
    world.receive("fr", &back);
    assert_eq!(world.delivered(), [gre(SITE, "10.5.0.2")]);
    // A second address to the same remote cannot be told apart.
    world.send([gre("10.9.0.2", SITE)]);
    assert!(world.sent("fr").is_empty());
    assert_eq!(world.drops(DropReason::MappingTaken), 1);
    world.send([gre("10.9.0.2", OTHER_SITE)]);
    assert_eq!(addresses(&only(world.sent("fr"))).dst(), addr(OTHER_SITE));
    // Another protocol is another flow.
    world.send([build::ip("10.9.0.2", SITE, Protocol(50), b"\0\0\0\x01")]);
    assert_eq!(world.sent("fr").len(), 1);
}

/// Nobody can tell whose it is, so rules with an owner do not decide it, and nobody is asked.
#[test]
fn a_protocol_without_ports_has_no_owner() {
    let mut world = World::new(&[("uk", &["10.5.0.2/32"])]);
    world.rule(1, "uk");
    world.slow_owners = true;
    world.send([gre("10.5.0.2", SITE)]);
    assert!(world.asked.is_empty());
    assert_eq!(world.drops(DropReason::OwnerUnknown), 1);
    let of_source = RuleMatch {
        source: Some("10.5.0.2/32".parse().unwrap()),
        ..RuleMatch::default()
    };
    world.add_rule(of_source, Action::Tunnel("uk".to_owned()));
    world.send([gre("10.5.0.2", SITE)]);
    assert_eq!(world.sent("uk").len(), 1);
    // Other rules do not end it, unless they say so.
    world.rule(2, "uk");
    world.send([gre("10.5.0.2", SITE)]);
    assert_eq!(world.sent("uk").len(), 1);
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    kind: u8,
    src: u8,
    port: u16,
    dst: u8,
}

fn any_packet() -> impl Strategy<Value = Sent> {
    (0..4u8, 0..3u8, 0..3u16, 0..2u8).prop_map(|(kind, src, port, dst)| Sent {
        kind,
        src,
        port: 5000 + port,
        dst,
    })
}

const DEVICE: [&str; 3] = ["10.5.0.2", "10.9.0.2", "172.16.0.2"];
const REMOTE: [&str; 2] = [SITE, OTHER_SITE];

impl Sent {
    fn out(self) -> Vec<u8> {
        let (src, dst) = (DEVICE[self.src as usize], REMOTE[self.dst as usize]);
        match self.kind {
            0 => udp((src, self.port), (dst, 9), b"there"),
            1 => tcp((src, self.port), (dst, 9), "S"),
            2 => echo(src, dst, self.port, false),
            _ => gre(src, dst),
        }
    }

    /// What the far end makes of what it got.
    fn answer(self, wire: &FlowKey) -> Vec<u8> {
        let (src, dst) = (wire.src().to_string(), wire.dst().to_string());
        match self.kind {
            0 => udp((&dst, 9), (&src, wire.src_port()), b"back"),
            1 => tcp((&dst, 9), (&src, wire.src_port()), "SA"),
            2 => echo(&dst, &src, wire.src_port(), true),
            _ => gre(&dst, &src),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is sent: two endpoints of the device never share one of the tunnel (per remote
    /// for TCP), a UDP socket has one, and the answer is what the device's key says.
    #[test]
    fn un_nat_after_nat_is_identity(packets in prop::collection::vec(any_packet(), 1..40), seed: u64) {
        let config = RouterConfig { seed: Some(seed), ..RouterConfig::default() };
        let mut world = World::with_config(config, &[("fr", &["10.9.0.2/32"])]);
        world.rule_for_all("fr");
        let mut wires: HashMap<FlowKey, FlowKey> = HashMap::new();
        let mut endpoints = HashMap::new();
        for sent in packets {
            let device = addresses(&sent.out());
            world.send([sent.out()]);
            let out = world.sent("fr");
            let Some(out) = out.first() else {
                prop_assert_eq!(sent.kind, 3, "only what has no ports is ever refused");
                continue;
            };
            let wire = if sent.kind < 3 { flow_of(out) } else { addresses(out) };
            prop_assert_eq!(*wires.entry(wire).or_insert(device), device);
            if matches!(sent.kind, 0 | 2) {
                let end = (sent.kind, wire.src(), wire.src_port());
                let app = (device.src(), device.src_port());
                prop_assert_eq!(*endpoints.entry(end).or_insert(app), app);
            }
            world.receive("fr", &sent.answer(&wire));
            let back = world.delivered();
            prop_assert_eq!(back.len(), 1);
            if sent.kind < 3 {
                flow_of(&back[0]);
            }
            prop_assert_eq!(addresses(&back[0]).reversed(), device);
        }
    }
}
