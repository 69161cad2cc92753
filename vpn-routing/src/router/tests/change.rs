//! Live connections whose way changes, and whose rule says reset.

use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use vpn_core::{Action, DropReason, OnChange, Protocol, TransportState};

use super::world::{SITE, World, flow_of, tcp, udp};
use crate::group::GroupConfig;
use crate::router::RouterConfig;

const TWO: &[(&str, &[&str])] = &[("uk", &["10.5.0.2/32"]), ("fr", &["10.6.0.9/32"])];

const APP: &str = "10.5.0.2";

fn world() -> World {
    with(RouterConfig::default())
}

fn with(config: RouterConfig) -> World {
    let mut world = World::with_config(config, TWO);
    for port in 1..700 {
        world.socket(Protocol::TCP, (APP, port), 1, u64::from(port));
        world.socket(Protocol::UDP, (APP, port), 1, u64::from(port));
    }
    lead(&mut world, "uk");
    world
}

fn lead(world: &mut World, tunnel: &str) {
    world.rule_with(1, tunnel, |rule| rule.on_change(OnChange::Reset));
}

/// A segment of the app with these sequence and acknowledgment numbers.
fn segment(port: u16, sequence: u32, acknowledgment: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 5, 0, 2], [203, 0, 113, 10], 64)
        .tcp(port, 80, sequence, 1024)
        .ack(acknowledgment)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

fn connect(world: &mut World, port: u16) {
    world.send([tcp((APP, port), (SITE, 80), "S")]);
    world.receive("uk", &tcp((SITE, 80), (APP, port), "SA"));
    world.send([segment(port, 100, 7000, b"hello")]);
    assert_eq!(world.sent("uk").len(), 2);
    assert_eq!(world.delivered().len(), 1);
}

fn header(bytes: &[u8]) -> TcpHeader {
    flow_of(bytes);
    match SlicedPacket::from_ip(bytes).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
        other => panic!("{other:?}"),
    }
}

fn is_reset(bytes: &[u8], sequence: u32) {
    let header = header(bytes);
    assert!(header.rst);
    assert_eq!(header.sequence_number, sequence);
}

#[test]
fn both_ends_are_told_at_once_and_exactly() {
    let mut world = world();
    connect(&mut world, 1);
    lead(&mut world, "fr");
    let told = world.delivered();
    assert_eq!(told.len(), 1);
    is_reset(&told[0], 7000);
    assert_eq!(flow_of(&told[0]).src_port(), 80);
    let told = world.sent("uk");
    assert_eq!(told.len(), 1);
    is_reset(&told[0], 105);
    assert_eq!(world.router.accounts().made, 2);
    assert!(world.sent("fr").is_empty());
}

/// A segment was under way when the app was told: its challenge is answered exactly.
#[test]
fn a_challenge_is_answered_and_a_reset_is_not() {
    let mut world = world();
    connect(&mut world, 1);
    lead(&mut world, "fr");
    world.delivered();
    world.sent("uk");
    world.send([segment(1, 105, 7777, b"")]);
    let told = world.delivered();
    assert_eq!(told.len(), 1);
    is_reset(&told[0], 7777);
    world.send([tcp((APP, 1), (SITE, 80), "R")]);
    assert!(world.delivered().is_empty());
    world.receive("uk", &tcp((SITE, 80), (APP, 1), "A"));
    let told = world.sent("uk");
    assert_eq!(told.len(), 1, "the server may ask as well");
    is_reset(&told[0], 2);
    assert!(world.delivered().is_empty());
    assert_eq!(world.drops(DropReason::FlowEnded), 3);
}

#[test]
fn a_new_connection_takes_the_new_way() {
    let mut world = world();
    connect(&mut world, 1);
    lead(&mut world, "fr");
    world.sent("uk");
    world.send([tcp((APP, 1), (SITE, 80), "S")]);
    let sent = world.sent("fr");
    assert_eq!(sent.len(), 1);
    assert_eq!(flow_of(&sent[0]).src().to_string(), "10.6.0.9");
    assert!(world.sent("uk").is_empty());
}

#[test]
fn everything_else_moves_without_a_word() {
    let mut world = world();
    let datagram = udp((APP, 1), (SITE, 7), b"");
    world.send([datagram.clone(), tcp((APP, 2), (SITE, 80), "S")]);
    world.sent("uk");
    lead(&mut world, "fr");
    assert!(world.delivered().is_empty());
    world.send([datagram, tcp((APP, 2), (SITE, 80), "S")]);
    assert_eq!(world.sent("fr").len(), 2);
}

/// N-21: a change of any rule forgot every flow.
#[test]
fn connections_that_keep_their_tunnel_are_left_alone() {
    let mut world = world();
    connect(&mut world, 1);
    for _ in 0..3 {
        lead(&mut world, "uk");
        world.send([segment(1, 105, 7000, b"")]);
        assert_eq!(world.sent("uk").len(), 1);
    }
    assert_eq!(world.router.accounts().made, 0);
}

#[test]
fn a_group_that_fails_over_resets_what_it_carried() {
    let mut world = world();
    let members = ["uk", "fr"].map(|name| world.id(name));
    world.groups(vec![GroupConfig::new("any", members)]);
    lead(&mut world, "any");
    connect(&mut world, 1);
    world.down("uk");
    let told = world.delivered();
    assert_eq!(told.len(), 1);
    is_reset(&told[0], 7000);
    assert!(
        world.sent("uk").is_empty(),
        "nothing through a tunnel that is down"
    );
    world.send([tcp((APP, 1), (SITE, 80), "S")]);
    assert_eq!(world.sent("fr").len(), 1);
    world.up("uk", &["10.5.0.2/32"], &[]);
    world.receive("fr", &tcp((SITE, 80), ("10.6.0.9", 1), "SA"));
    assert_eq!(world.delivered().len(), 1);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.delivered().len(), 1, "and again when it goes back");
}

#[test]
fn a_tunnel_that_closes_resets_where_there_is_another_way() {
    let mut world = world();
    world.rule_with(1, "uk", |rule| {
        let fallback = vpn_core::OnDown::Fallback("fr".to_owned());
        rule.on_change(OnChange::Reset).on_down(fallback)
    });
    connect(&mut world, 1);
    world.state("uk", TransportState::Closed);
    assert_eq!(world.delivered().len(), 1);
    world.send([segment(1, 105, 7001, b"")]);
    let told = world.delivered();
    assert_eq!(told.len(), 1, "it still answers");
    is_reset(&told[0], 7001);
}

/// More connections than the device's queue takes: the rest follows, none is forgotten.
#[test]
fn many_connections_are_reset_as_the_device_takes_them() {
    let mut world = with(RouterConfig {
        queue_packets: 16,
        ..RouterConfig::default()
    });
    let many = 500;
    for port in 1..=many {
        connect(&mut world, port);
    }
    lead(&mut world, "fr");
    let mut told = std::collections::HashSet::new();
    for _ in 0..200 {
        told.extend(world.delivered().iter().map(|p| flow_of(p).dst_port()));
        world.sent("uk");
        world.advance(Duration::from_millis(5));
    }
    assert_eq!(told.len(), usize::from(many));
}

#[test]
fn an_ended_flow_is_forgotten_in_the_end() {
    let mut world = world();
    connect(&mut world, 1);
    lead(&mut world, "fr");
    world.delivered();
    world.sent("uk");
    assert_eq!(world.router.status().flows, 1);
    world.advance(RouterConfig::default().timeouts.tcp_transitory);
    for _ in 0..20 {
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.router.status().flows, 0);
}

/// What a rule blocks ends without a word, whatever it says of changes.
#[test]
fn blocked_is_not_reset() {
    let mut world = world();
    connect(&mut world, 1);
    world.rule_with(1, "uk", |mut rule| {
        rule.action = Action::Block;
        rule.on_change(OnChange::Reset)
    });
    assert!(world.delivered().is_empty());
    world.send([segment(1, 105, 7000, b"")]);
    assert!(world.delivered().is_empty());
    assert_eq!(world.drops(DropReason::BlockedByRule), 1);
}
