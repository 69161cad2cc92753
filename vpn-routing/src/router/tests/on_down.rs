//! What a rule's flows do while its tunnel is down.

use vpn_core::{DropReason, OnChange, OnDown, Owner, Protocol, TransportState, Verdict};

use super::world::{SITE, World, flow_of, tcp, udp};
use crate::group::GroupConfig;

const FOUR: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/32"]),
    ("fr", &["10.5.0.2/32"]),
    ("de", &["10.5.0.2/32"]),
    ("direct", &["10.9.0.2/32"]),
];

fn world(on_down: OnDown) -> World {
    let mut world = World::new(FOUR);
    let members = ["fr", "de"].map(|name| world.id(name));
    world.groups(vec![GroupConfig::new("others", members)]);
    world.rule_with(1, "uk", |rule| rule.on_down(on_down));
    for protocol in [Protocol::UDP, Protocol::TCP] {
        world.socket(protocol, ("10.5.0.2", 1), 1, 1);
    }
    world
}

fn datagram() -> Vec<u8> {
    udp(("10.5.0.2", 1), (SITE, 7), b"")
}

fn fallback(name: &str) -> OnDown {
    OnDown::Fallback(name.to_owned())
}

/// N-7: with its tunnel down an app went directly.
#[test]
fn block_is_the_default_and_nothing_goes_past_the_tunnel() {
    let mut world = world(OnDown::Block);
    world.down("uk");
    world.send([datagram()]);
    assert_eq!(world.drops(DropReason::TunnelDown), 1);
    for name in ["fr", "de", "direct"] {
        assert!(world.sent(name).is_empty());
    }
}

#[test]
fn a_fallback_carries_while_the_tunnel_is_down_and_no_longer() {
    let mut world = world(fallback("fr"));
    world.send([datagram()]);
    assert_eq!(world.sent("uk").len(), 1);
    world.down("uk");
    world.send([datagram()]);
    assert_eq!(world.sent("fr").len(), 1);
    let told = world
        .router
        .explain(Some(&Owner::user(1)), flow_of(&datagram()));
    assert!(told.fell_back);
    assert_eq!(told.verdict, Verdict::Tunnel(world.id("fr")));
    world.up("uk", &["10.5.0.2/32"], &[]);
    world.send([datagram()]);
    assert_eq!(
        world.sent("uk").len(),
        1,
        "back at once: it is a plain tunnel"
    );
}

#[test]
fn a_fallback_to_a_group_uses_its_member() {
    let mut world = world(fallback("others"));
    world.down("uk");
    world.down("fr");
    world.send([datagram()]);
    assert_eq!(world.sent("de").len(), 1);
    world.down("de");
    world.send([datagram()]);
    assert_eq!(world.drops(DropReason::TunnelDown), 1, "and no further");
    assert!(world.sent("direct").is_empty());
}

#[test]
fn direct_only_where_the_rule_says_so() {
    let mut world = world(OnDown::Direct);
    world.send([datagram()]);
    assert!(world.sent("direct").is_empty());
    world.sent("uk");
    world.state("uk", TransportState::Connecting);
    world.send([datagram()]);
    assert_eq!(world.router.accounts().held, 1, "connecting is not down");
    assert!(world.sent("direct").is_empty());
    world.down("uk");
    assert_eq!(world.sent("direct").len(), 1, "what waited goes as well");
}

#[test]
fn a_closed_tunnel_is_down() {
    let mut world = world(fallback("fr"));
    world.send([datagram()]);
    world.state("uk", TransportState::Closed);
    world.send([datagram()]);
    assert_eq!(world.sent("fr").len(), 1);
}

#[test]
fn a_connection_that_is_kept_goes_on_when_its_tunnel_is_back() {
    let mut world = world(fallback("fr"));
    world.send([tcp(("10.5.0.2", 1), (SITE, 80), "S")]);
    world.receive("uk", &tcp((SITE, 80), ("10.5.0.2", 1), "SA"));
    world.sent("uk");
    let ack = tcp(("10.5.0.2", 1), (SITE, 80), "A");
    world.down("uk");
    world.send([ack.clone()]);
    assert!(world.sent("fr").is_empty());
    world.up("uk", &["10.5.0.2/32"], &[]);
    world.send([ack]);
    assert_eq!(world.sent("uk").len(), 1);
}

/// With nothing to fall back to there is nothing to reset for.
#[test]
fn a_connection_of_a_tunnel_that_is_down_is_not_ended_for_nothing() {
    let mut world = world(OnDown::Block);
    world.rule_with(1, "uk", |rule| rule.on_change(OnChange::Reset));
    world.send([tcp(("10.5.0.2", 1), (SITE, 80), "S")]);
    world.receive("uk", &tcp((SITE, 80), ("10.5.0.2", 1), "SA"));
    world.delivered();
    world.sent("uk");
    let ack = tcp(("10.5.0.2", 1), (SITE, 80), "A");
    world.down("uk");
    world.send([ack.clone()]);
    assert!(world.delivered().is_empty());
    world.up("uk", &["10.5.0.2/32"], &[]);
    world.send([ack]);
    assert_eq!(world.sent("uk").len(), 1);
}

/// It would look like a way out, and be none.
#[test]
fn a_rule_that_falls_back_to_itself_is_a_problem_and_blocks() {
    let mut world = world(fallback("uk"));
    world.send([datagram()]);
    assert!(world.sent("uk").is_empty());
    assert_eq!(world.drops(DropReason::BlockedByRule), 1);
}
