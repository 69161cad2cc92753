//! What may not pass although its rule gives it a tunnel.

use vpn_core::packet::Packet;
use vpn_core::rule::{FilterAction, FilterDirection, RuleProtocol};
use vpn_core::testing::build;
use vpn_core::{DropReason, FilterRule, InboundRule, PortRange, Protocol, RuleId};

use super::world::{SITE, SITE6, World, echo, flow_of, tcp, udp};
use crate::group::GroupConfig;

const TUNNELS: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/24", "fd00:5::2/64"]),
    ("fr", &["10.5.0.3/24", "fd00:5::3/64"]),
];

fn world() -> World {
    let mut world = World::new(TUNNELS);
    world.rule_for_all("fr");
    world
}

fn rule(action: FilterAction) -> FilterRule {
    FilterRule {
        id: RuleId(1),
        direction: FilterDirection::Both,
        tunnel: None,
        family: None,
        protocol: None,
        remote: None,
        ports: None,
        icmp: None,
        fragments: false,
        action,
    }
}

fn port(action: FilterAction, port: u16) -> FilterRule {
    FilterRule {
        ports: Some(PortRange::single(port)),
        ..rule(action)
    }
}

/// S-13: only new flows are judged, by where they go: answers to clients on any port pass.
#[test]
fn a_flow_is_judged_by_its_first_packet_and_answers_pass() {
    let mut world = world();
    let high = FilterRule {
        ports: PortRange::new(30_000, 65_535),
        ..rule(FilterAction::Drop)
    };
    world.filters(vec![high]);
    world.send([tcp(("10.5.0.2", 40_000), (SITE, 80), "S")]);
    assert_eq!(world.sent("fr").len(), 1, "its own port does not matter");
    world.receive("fr", &tcp((SITE, 80), ("10.5.0.3", 40_000), "SA"));
    assert_eq!(world.delivered().len(), 1);
    world.send([udp(("10.5.0.2", 40_000), (SITE, 30_000), b"")]);
    assert!(world.sent("fr").is_empty() && world.delivered().is_empty());
    assert_eq!(world.drops(DropReason::BlockedByFilter), 1);
}

/// S-13: a port behind extension headers is the same port.
#[test]
fn extension_headers_hide_no_port() {
    let mut world = world();
    world.filters(vec![port(FilterAction::Drop, 25)]);
    let plain = tcp(("fd00:5::2", 5000), (SITE6, 25), "S");
    // Hop-by-hop options and destination options, each with one PadN.
    let padding = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let mut hidden = plain[..40].to_vec();
    hidden[6] = 0;
    hidden.extend(padding(60));
    hidden.extend(padding(Protocol::TCP.0));
    hidden.extend(&plain[40..]);
    let length = (hidden.len() - 40) as u16;
    hidden[4..6].copy_from_slice(&length.to_be_bytes());
    let parsed = Packet::from_slice(&hidden).parse().unwrap();
    assert_eq!(parsed.flow.dst_port(), 25);
    world.send([plain, hidden]);
    assert!(world.sent("fr").is_empty());
    assert_eq!(world.drops(DropReason::BlockedByFilter), 2);
}

/// S-16: reject says so, at once: RST for TCP, "prohibited" for the rest.
#[test]
fn a_rejected_sender_is_told() {
    let mut world = world();
    world.filters(vec![rule(FilterAction::Reject)]);
    world.send([tcp(("10.5.0.2", 5000), (SITE, 80), "S")]);
    let told = world.delivered();
    let parsed = Packet::from_slice(&told[0]).parse().unwrap();
    assert_eq!(
        parsed.flow,
        flow_of(&tcp((SITE, 80), ("10.5.0.2", 5000), "R"))
    );
    assert_eq!(told[0][33], 0x14, "RST and ACK");
    for (packet, kind) in [
        (udp(("10.5.0.2", 5000), (SITE, 80), b"hello"), (3, 13)),
        (echo("10.5.0.2", SITE, 7, false), (3, 13)),
        (
            build::ip("10.5.0.2", SITE, Protocol(47), b"\0\0\x08\0"),
            (3, 13),
        ),
        (udp(("fd00:5::2", 5000), (SITE6, 80), b"hello"), (1, 1)),
    ] {
        world.send([packet.clone()]);
        let told = world.delivered();
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        assert_eq!((told[0][header], told[0][header + 1]), kind);
        assert!(told[0].ends_with(&packet), "about this very packet");
    }
    assert!(world.sent("fr").is_empty());
    assert_eq!(world.drops(DropReason::BlockedByFilter), 5);
    // A flood is not answered with a flood.
    for _ in 0..10 {
        world.send((0..50).map(|_| udp(("10.5.0.2", 5000), (SITE, 80), b"")));
    }
    assert!(world.delivered().len() <= 50);
    assert_eq!(world.drops(DropReason::BlockedByFilter), 505);
}

#[test]
fn what_is_let_in_is_judged_as_well() {
    let mut world = world();
    world.inbound(vec![InboundRule {
        id: RuleId(1),
        tunnel: "fr".to_owned(),
        protocol: RuleProtocol::Tcp,
        ports: PortRange::new(8000, 8010),
        to_port: Some(80),
        remote: None,
        behind: None,
    }]);
    let of = |action, ports| FilterRule {
        direction: FilterDirection::Inbound,
        remote: Some("203.0.113.0/24".parse().unwrap()),
        ..port(action, ports)
    };
    world.filters(vec![
        of(FilterAction::Drop, 8001),
        of(FilterAction::Reject, 8002),
    ]);
    for (n, delivered, told) in [(8000, 1, 0), (8001, 0, 0), (8002, 0, 1)] {
        world.receive("fr", &tcp((SITE, 5000), ("10.5.0.3", n), "S"));
        assert_eq!(world.delivered().len(), delivered, "{n}");
        let sent = world.sent("fr");
        assert_eq!(sent.len(), told, "{n}");
        if let [reset] = &sent[..] {
            let answer = flow_of(&tcp(("10.5.0.3", n), (SITE, 5000), "R"));
            assert_eq!(flow_of(reset), answer);
        }
    }
    assert_eq!(world.drops(DropReason::BlockedByFilter), 2);
    // A flow that starts here to such a port is none of this rule's business.
    world.send([tcp(("10.5.0.2", 5000), (SITE, 8001), "S")]);
    assert_eq!(world.sent("fr").len(), 1);
}

/// S-16: rules that change are looked at with the next packet, of either direction.
#[test]
fn live_flows_are_judged_again_when_rules_change() {
    for from_here in [true, false] {
        let mut world = world();
        let out = tcp(("10.5.0.2", 5000), (SITE, 80), "A");
        world.send([tcp(("10.5.0.2", 5000), (SITE, 80), "S")]);
        world.receive("fr", &tcp((SITE, 80), ("10.5.0.3", 5000), "SA"));
        world.filters(vec![port(FilterAction::Drop, 81)]);
        world.send([out.clone()]);
        assert_eq!((world.sent("fr").len(), world.delivered().len()), (2, 1));
        world.filters(vec![port(FilterAction::Reject, 80)]);
        if from_here {
            world.send([out]);
            assert_eq!(world.delivered().len(), 1, "the app is told");
        } else {
            world.receive("fr", &tcp((SITE, 80), ("10.5.0.3", 5000), "A"));
            assert!(world.delivered().is_empty());
        }
        assert!(world.sent("fr").is_empty());
        assert_eq!(world.drops(DropReason::BlockedByFilter), 1);
        assert!(world.router.flows(9).is_empty());
    }
}

/// S-15: a group's rule is for the tunnels that are its members at the time.
#[test]
fn a_rule_of_a_group_follows_its_members() {
    let mut world = world();
    let fr = world.id("fr");
    let uk = world.id("uk");
    world.groups(vec![GroupConfig::new("europe", [uk])]);
    world.filters(vec![FilterRule {
        tunnel: Some("europe".to_owned()),
        ..rule(FilterAction::Drop)
    }]);
    let packet = udp(("10.5.0.2", 5000), (SITE, 80), b"");
    world.send([packet.clone()]);
    assert_eq!(world.sent("fr").len(), 1, "fr is no member");
    world.groups(vec![GroupConfig::new("europe", [uk, fr])]);
    world.send([packet]);
    assert!(world.sent("fr").is_empty());
    assert_eq!(world.drops(DropReason::BlockedByFilter), 1);
}
