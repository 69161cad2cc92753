//! Remote networks that overlap, each under addresses of its own.

use vpn_core::rule::RuleProtocol;
use vpn_core::{DropReason, InboundRule, RuleId};

use super::world::{World, addr, echo, flow_of, tcp, udp};
use crate::nat::{OverlapKind, PrefixMap, PrefixMaps, Why};
use crate::router::TunnelOptions;

const TUNNELS: &[(&str, &[&str])] = &[
    ("north", &["10.5.0.2/24"]),
    ("south", &["10.6.0.2/24"]),
    ("web", &["10.7.0.2/32"]),
];

fn map(world: &mut World, tunnel: &str, local: &str, remote: &str) {
    let map = PrefixMap::new(local.parse().unwrap(), remote.parse().unwrap()).unwrap();
    let options = TunnelOptions {
        prefix_maps: PrefixMaps::new(vec![map]).unwrap(),
        ..TunnelOptions::default()
    };
    world
        .router
        .set_tunnel_options(world.now, world.id(tunnel), options);
}

/// Two offices, both with 192.168.1.0/24; whatever else goes to the web is blocked.
fn two_sites() -> World {
    let mut world = World::new(TUNNELS);
    map(&mut world, "north", "10.71.1.0/24", "192.168.1.0/24");
    map(&mut world, "south", "10.72.1.0/24", "192.168.1.0/24");
    world
}

/// R17.
#[test]
fn two_sites_with_one_prefix_are_both_reachable() {
    let mut world = two_sites();
    for (tunnel, here, from) in [
        ("north", "10.71.1.9", "10.5.0.2"),
        ("south", "10.72.1.9", "10.6.0.2"),
    ] {
        world.send([tcp(("10.5.0.2", 5000), (here, 80), "S")]);
        assert_eq!(
            world.sent(tunnel),
            [tcp((from, 5000), ("192.168.1.9", 80), "S")]
        );
        world.receive(tunnel, &tcp(("192.168.1.9", 80), (from, 5000), "SA"));
        assert_eq!(
            world.delivered(),
            [tcp((here, 80), ("10.5.0.2", 5000), "SA")]
        );
        world.send([echo("10.5.0.2", here, 7, false)]);
        assert_eq!(world.sent(tunnel), [echo(from, "192.168.1.9", 7, false)]);
        world.receive(tunnel, &echo("192.168.1.9", from, 7, true));
        assert_eq!(world.delivered(), [echo(here, "10.5.0.2", 7, true)]);
    }
    // No map, no route: the default decides.
    world.send([tcp(("10.5.0.2", 5000), ("192.168.1.9", 80), "S")]);
    assert_eq!(world.drops(DropReason::BlockedByDefault), 1);
    // It stays so when a tunnel comes up anew with the same address.
    world.up("north", &["10.5.0.2/24"], &[]);
    assert_eq!(world.router.flows(9).len(), 4);
}

/// Rules before maps, maps before the default.
#[test]
fn a_rule_beats_a_map() {
    let mut world = two_sites();
    world.rule_for_all("web");
    world.send([udp(("10.5.0.2", 5000), ("10.71.1.9", 9), b"")]);
    assert_eq!(flow_of(&world.sent("web")[0]).dst(), addr("10.71.1.9"));
    assert!(world.sent("north").is_empty());
}

#[test]
fn an_unknown_owner_is_not_led_anywhere() {
    let mut world = two_sites();
    world.rule(1, "web");
    world.send([udp(("10.5.0.2", 5000), ("10.71.1.9", 9), b"")]);
    assert_eq!(world.drops(DropReason::OwnerUnknown), 1);
}

#[test]
fn the_longest_prefix_wins_then_the_earlier_tunnel() {
    let mut world = two_sites();
    map(&mut world, "south", "10.71.1.8/29", "192.168.1.8/29");
    map(&mut world, "web", "10.71.1.0/24", "192.168.1.0/24");
    for (host, tunnel) in [("10.71.1.9", "south"), ("10.71.1.200", "north")] {
        world.send([udp(("10.5.0.2", 5000), (host, 9), b"")]);
        assert_eq!(world.sent(tunnel).len(), 1, "{host}");
    }
    let overlaps = world.router.overlaps();
    let told: Vec<_> = overlaps.iter().map(|o| (o.kind, o.why)).collect();
    assert_eq!(
        told,
        [
            (OverlapKind::Within, Why::LongerPrefix),
            (OverlapKind::Equal, Why::EarlierTunnel),
            (OverlapKind::Within, Why::LongerPrefix),
        ]
    );
}

/// A changed map ends what would go elsewhere now, and moves what had no map.
#[test]
fn flows_follow_a_changed_map() {
    let mut world = two_sites();
    let packet = udp(("10.5.0.2", 5000), ("10.71.1.9", 9), b"");
    world.send([packet.clone()]);
    assert_eq!(flow_of(&world.sent("north")[0]).dst(), addr("192.168.1.9"));
    map(&mut world, "north", "10.71.1.0/24", "192.168.2.0/24");
    world.send([packet.clone()]);
    assert_eq!(flow_of(&world.sent("north")[0]).dst(), addr("192.168.2.9"));
    world.receive("north", &udp(("192.168.1.9", 9), ("10.5.0.2", 5000), b""));
    assert_eq!(world.drops(DropReason::Unsolicited), 1);
    world
        .router
        .set_tunnel_options(world.now, world.id("north"), TunnelOptions::default());
    world.send([packet]);
    assert_eq!(world.drops(DropReason::BlockedByDefault), 1);
}

/// Somebody at a mapped site begins: the server here sees the address it would answer to.
#[test]
fn who_is_let_in_has_the_mapped_address() {
    let mut world = two_sites();
    world.inbound(vec![InboundRule {
        id: RuleId(1),
        tunnel: "south".to_owned(),
        protocol: RuleProtocol::Tcp,
        ports: None,
        to_port: None,
        remote: None,
        behind: None,
    }]);
    world.receive("south", &tcp(("192.168.1.9", 4000), ("10.6.0.2", 80), "S"));
    assert_eq!(
        world.delivered(),
        [tcp(("10.72.1.9", 4000), ("10.6.0.2", 80), "S")]
    );
    world.send([tcp(("10.6.0.2", 80), ("10.72.1.9", 4000), "SA")]);
    assert_eq!(
        world.sent("south"),
        [tcp(("10.6.0.2", 80), ("192.168.1.9", 4000), "SA")]
    );
    // The address that stands for another host cannot be one.
    world.receive("south", &tcp(("10.72.1.9", 4000), ("10.6.0.2", 80), "S"));
    assert_eq!(world.drops(DropReason::AddressNotAllowed), 1);
}
