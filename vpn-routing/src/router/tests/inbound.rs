//! Flows that begin behind a tunnel: only what a rule lets in, and answers go back where they came
//! from.

use std::time::Duration;

use vpn_core::rule::RuleProtocol;
use vpn_core::{DropReason, InboundRule, PortRange, Protocol, RuleId};

use super::world::{SITE, SITE6, World, addr, echo, flow_of, tcp, udp};
use crate::router::RouterConfig;

/// Both providers assign one subnet, and the second has another address than the device.
const TUNNELS: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/24", "fd00:5::2/64"]),
    ("fr", &["10.5.0.3/24", "fd00:5::3/64"]),
];

const OUTSIDER: &str = "203.0.113.66";

fn world() -> World {
    with_config(RouterConfig::default())
}

fn with_config(config: RouterConfig) -> World {
    let mut world = World::with_config(
        RouterConfig {
            seed: Some(1),
            ..config
        },
        TUNNELS,
    );
    world.rule_for_all("uk");
    world
}

fn rule(protocol: RuleProtocol, port: Option<u16>, to_port: Option<u16>) -> InboundRule {
    InboundRule {
        id: RuleId(1),
        tunnel: "fr".to_owned(),
        protocol,
        ports: port.map(PortRange::single),
        to_port,
        remote: None,
        behind: None,
    }
}

/// R20: a server behind a tunnel is reachable when allowed, and only then.
#[test]
fn a_connection_is_let_in_by_rule_and_answered_through_its_tunnel() {
    let mut world = world();
    let syn = tcp((SITE, 4000), ("10.5.0.3", 8080), "S");
    world.receive("fr", &syn);
    assert!(world.delivered().is_empty(), "default drop");
    assert_eq!(world.drops(DropReason::Unsolicited), 1);
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(8080), Some(80))]);
    world.receive("fr", &syn);
    assert_eq!(
        world.delivered(),
        [tcp((SITE, 4000), ("10.5.0.2", 80), "S")]
    );
    // The rules of whoever answers say uk.
    world.send([tcp(("10.5.0.2", 80), (SITE, 4000), "SA")]);
    assert_eq!(
        world.sent("fr"),
        [tcp(("10.5.0.3", 8080), (SITE, 4000), "SA")]
    );
    world.receive("fr", &tcp((SITE, 4000), ("10.5.0.3", 8080), "A"));
    assert_eq!(
        world.delivered(),
        [tcp((SITE, 4000), ("10.5.0.2", 80), "A")]
    );
    assert!(world.sent("uk").is_empty());
    assert!(world.asked.is_empty(), "owners have no say");
    // Other ports, another tunnel, another address, not the first word of a connection.
    for (tunnel, packet) in [
        ("fr", tcp((OUTSIDER, 1), ("10.5.0.3", 80), "S")),
        ("fr", udp((OUTSIDER, 1), ("10.5.0.3", 8080), b"")),
        ("fr", echo(OUTSIDER, "10.5.0.3", 1, false)),
        ("uk", tcp((OUTSIDER, 1), ("10.5.0.2", 8080), "S")),
        ("fr", tcp((OUTSIDER, 1), ("10.5.0.2", 8080), "S")),
        ("fr", tcp((OUTSIDER, 1), ("10.5.0.3", 8080), "A")),
        ("fr", tcp((OUTSIDER, 1), ("10.5.0.3", 8080), "SA")),
        ("fr", tcp((OUTSIDER, 1), ("10.5.0.3", 8080), "SF")),
    ] {
        let before = world.drops(DropReason::Unsolicited);
        world.receive(tunnel, &packet);
        assert!(world.delivered().is_empty(), "{:?}", flow_of(&packet));
        assert_eq!(world.drops(DropReason::Unsolicited), before + 1);
    }
}

#[test]
fn datagrams_and_pings_both_families() {
    let mut world = world();
    world.inbound(vec![
        rule(RuleProtocol::Udp, Some(51820), None),
        rule(RuleProtocol::Icmp, None, None),
    ]);
    for (far, assigned, device) in [
        (SITE, "10.5.0.3", "10.5.0.2"),
        (SITE6, "fd00:5::3", "fd00:5::2"),
    ] {
        world.receive("fr", &udp((far, 9), (assigned, 51820), b"in"));
        assert_eq!(world.delivered(), [udp((far, 9), (device, 51820), b"in")]);
        // The answer may take its time: its socket is not asked for.
        world.advance(Duration::from_secs(5));
        world.send([udp((device, 51820), (far, 9), b"out")]);
        assert_eq!(world.sent("fr"), [udp((assigned, 51820), (far, 9), b"out")]);
        world.receive("fr", &echo(far, assigned, 7, false));
        assert_eq!(world.delivered(), [echo(far, device, 7, false)]);
        world.send([echo(device, far, 7, true)]);
        assert_eq!(world.sent("fr"), [echo(assigned, far, 7, true)]);
    }
    // A reply to nobody's question.
    world.send([echo("10.5.0.2", OUTSIDER, 7, true)]);
    assert_eq!(world.drops(DropReason::Unsupported), 1);
}

/// An identifier of 0 makes the keys of both directions equal.
#[test]
fn an_echo_request_is_never_taken_for_a_reply() {
    let mut world = World::new(TUNNELS);
    world.rule_for_all("fr");
    world.send([echo("10.5.0.2", SITE, 0, false)]);
    world.receive("fr", &echo(SITE, "10.5.0.3", 0, false));
    assert!(world.delivered().is_empty());
    world.receive("fr", &echo(SITE, "10.5.0.3", 0, true));
    assert_eq!(world.delivered().len(), 1);
    world.inbound(vec![rule(RuleProtocol::Icmp, None, None)]);
    world.receive("fr", &echo(OUTSIDER, "10.5.0.3", 0, false));
    assert_eq!(world.delivered().len(), 1);
    world.sent("fr");
    world.send([echo("10.5.0.2", OUTSIDER, 0, false)]);
    world.receive("fr", &echo(OUTSIDER, "10.5.0.3", 0, true));
    assert_eq!(world.delivered().len(), 1, "a ping of our own");
}

#[test]
fn only_whom_the_rule_names_may() {
    let mut world = world();
    world.inbound(vec![InboundRule {
        remote: Some("203.0.113.0/28".parse().unwrap()),
        ..rule(RuleProtocol::Tcp, Some(80), None)
    }]);
    for (far, allowed) in [(SITE, true), (OUTSIDER, false)] {
        world.receive("fr", &tcp((far, 1), ("10.5.0.3", 80), "S"));
        assert_eq!(world.delivered().len(), usize::from(allowed), "{far}");
    }
}

/// N-11, S-14: a source that cannot be behind the tunnel.
#[test]
fn a_spoofed_source_is_dropped_and_counted() {
    let mut world = world();
    world.inbound(vec![rule(RuleProtocol::Udp, None, None)]);
    let spoofed = [
        "10.5.0.2",
        "10.5.0.3",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "169.254.1.1",
    ];
    for (n, source) in (1..).zip(spoofed) {
        world.receive("fr", &udp((source, 1), ("10.5.0.3", 9), b""));
        assert!(world.delivered().is_empty(), "{source}");
        assert_eq!(world.drops(DropReason::AddressNotAllowed), n, "{source}");
    }
}

/// Removing the rule ends its flows, in both directions; another rule that says the same keeps them.
#[test]
fn a_flow_ends_with_its_rule() {
    let rules = || vec![rule(RuleProtocol::Tcp, Some(8080), Some(80))];
    let mut world = world();
    world.inbound(rules());
    let connect = |world: &mut World, port| {
        world.receive("fr", &tcp((SITE, port), ("10.5.0.3", 8080), "S"));
        world.send([tcp(("10.5.0.2", 80), (SITE, port), "SA")]);
        world.receive("fr", &tcp((SITE, port), ("10.5.0.3", 8080), "A"));
        assert_eq!(world.delivered().len(), 2);
        assert_eq!(world.sent("fr").len(), 1);
    };
    connect(&mut world, 1);
    connect(&mut world, 2);
    world.inbound(vec![InboundRule {
        id: RuleId(2),
        ..rules().remove(0)
    }]);
    world.send([tcp(("10.5.0.2", 80), (SITE, 1), "A")]);
    assert_eq!(world.sent("fr").len(), 1, "let in all the same");
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(8080), Some(81))]);
    world.send([tcp(("10.5.0.2", 80), (SITE, 1), "A")]);
    world.receive("fr", &tcp((SITE, 2), ("10.5.0.3", 8080), "A"));
    assert!(world.sent("fr").is_empty() && world.delivered().is_empty());
    assert_eq!(world.drops(DropReason::Unsolicited), 2);
    assert_eq!(world.router.guests.len(), 0);
    world.inbound(rules());
    connect(&mut world, 1);
}

/// Two tunnels, one remote address and port, one address on the device.
#[test]
fn equal_flows_of_two_tunnels_are_told_apart() {
    let mut world = world();
    let of = |tunnel: &str, id| InboundRule {
        id: RuleId(id),
        tunnel: tunnel.to_owned(),
        ..rule(RuleProtocol::Udp, Some(53), None)
    };
    world.inbound(vec![of("uk", 1), of("fr", 2)]);
    for (tunnel, assigned) in [("uk", "10.5.0.2"), ("fr", "10.5.0.3")] {
        world.receive(tunnel, &udp((SITE, 4000), (assigned, 53), b"in"));
        let got = flow_of(&world.delivered()[0]);
        assert_eq!((got.src(), got.dst()), (addr(SITE), addr("10.5.0.2")));
        assert_eq!(got.src_port() == 4000, tunnel == "uk", "{got}");
        world.send([udp(("10.5.0.2", 53), (SITE, got.src_port()), b"out")]);
        assert_eq!(
            world.sent(tunnel),
            [udp((assigned, 53), (SITE, 4000), b"out")]
        );
    }
}

/// What outsiders begin has a bound, and takes no place from anybody else.
#[test]
fn outsiders_push_out_only_half_open_flows_of_their_rule() {
    let mut world = with_config(RouterConfig {
        max_flows: 8,
        max_flows_per_inbound_rule: 4,
        ..RouterConfig::default()
    });
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    let syn = |port| tcp((OUTSIDER, port), ("10.5.0.3", 80), "S");
    world.receive("fr", &tcp((SITE, 1), ("10.5.0.3", 80), "S"));
    world.send([tcp(("10.5.0.2", 80), (SITE, 1), "SA")]);
    world.receive("fr", &tcp((SITE, 1), ("10.5.0.3", 80), "A"));
    for port in 1..=4 {
        world.send([udp(("10.5.0.2", port), (SITE, 9), b"")]);
    }
    world.advance(Duration::from_secs(10));
    for port in 1..=100 {
        world.receive("fr", &syn(port));
    }
    assert_eq!(
        world.delivered().len(),
        102,
        "the oldest goes for the newest"
    );
    let flows = world.router.flows(99);
    assert_eq!(flows.len(), 8);
    let here = flows.iter().filter(|f| f.tunnel == world.id("uk")).count();
    assert_eq!(here, 4, "no app lost a flow");
    assert!(
        flows
            .iter()
            .any(|f| f.wire.dst_port() == 1 && f.wire.dst() == addr(SITE))
    );
    // All of them open: the next is refused.
    for flow in flows.iter().filter(|f| f.wire.dst() == addr(OUTSIDER)) {
        let port = flow.wire.dst_port();
        world.send([tcp(("10.5.0.2", 80), (OUTSIDER, port), "SA")]);
        world.receive("fr", &tcp((OUTSIDER, port), ("10.5.0.3", 80), "A"));
    }
    world.receive("fr", &syn(500));
    assert_eq!(world.drops(DropReason::InboundQuota), 1);
}

/// A repeated SYN is no proof that somebody is there: the flow stays one that can be evicted.
#[test]
fn a_connection_is_open_only_after_the_whole_handshake() {
    let mut world = with_config(RouterConfig {
        max_flows_per_inbound_rule: 1,
        ..RouterConfig::default()
    });
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    for flags in ["S", "S", "A"] {
        world.receive("fr", &tcp((OUTSIDER, 1), ("10.5.0.3", 80), flags));
    }
    world.send([tcp(("10.5.0.2", 80), (OUTSIDER, 1), "SA")]);
    world.receive("fr", &tcp((OUTSIDER, 1), ("10.5.0.3", 80), "S"));
    world.receive("fr", &tcp((OUTSIDER, 2), ("10.5.0.3", 80), "S"));
    assert_eq!(world.drops(DropReason::InboundQuota), 0);
    assert_eq!(world.router.flows(9)[0].wire.dst_port(), 2);
}

/// A published port belongs to the server behind it; what that begins itself leaves from there.
#[test]
fn a_published_port_is_nobody_elses() {
    let mut world = World::new(TUNNELS);
    world.rule_for_all("fr");
    world.inbound(vec![rule(RuleProtocol::Udp, Some(8080), Some(80))]);
    world.send([udp(("10.5.0.2", 8080), (SITE, 9), b"")]);
    assert_ne!(flow_of(&world.sent("fr")[0]).src_port(), 8080);
    world.send([udp(("10.5.0.2", 80), (SITE, 9), b"")]);
    assert_eq!(flow_of(&world.sent("fr")[0]).src_port(), 8080);
    // The other protocol has ports of its own.
    world.send([tcp(("10.5.0.2", 8080), (SITE, 9), "S")]);
    assert_eq!(flow_of(&world.sent("fr")[0]).src_port(), 8080);
    world.receive("fr", &udp((OUTSIDER, 1), ("10.5.0.3", 8080), b""));
    assert_eq!(flow_of(&world.delivered()[0]).dst_port(), 80);
}

#[test]
fn a_connection_begun_here_on_the_ports_of_a_guest_is_decided_by_its_owner() {
    let mut world = world();
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    world.receive("fr", &tcp((SITE, 1), ("10.5.0.3", 80), "S"));
    world.socket(Protocol::TCP, ("10.5.0.2", 80), 1, 1);
    world.send([tcp(("10.5.0.2", 80), (SITE, 1), "S")]);
    assert!(world.sent("fr").is_empty());
    assert_eq!(world.sent("uk").len(), 1);
}

/// The kernel answers a SYN again and again, also after its flow made room for another. Whoever sent
/// it must not learn by which tunnel the server itself goes out.
#[test]
fn an_answer_to_a_connection_that_was_pushed_out_goes_nowhere() {
    let mut world = with_config(RouterConfig {
        max_flows_per_inbound_rule: 1,
        ..RouterConfig::default()
    });
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    let answer = tcp(("10.5.0.2", 80), (OUTSIDER, 1), "SA");
    world.receive("fr", &tcp((OUTSIDER, 1), ("10.5.0.3", 80), "S"));
    world.send([answer.clone()]);
    assert_eq!(world.sent("fr").len(), 1);
    world.receive("fr", &tcp((OUTSIDER, 2), ("10.5.0.3", 80), "S"));
    world.advance(Duration::from_secs(1));
    world.send([answer]);
    assert!(world.sent("uk").is_empty() && world.sent("fr").is_empty());
    assert_eq!(world.drops(DropReason::Unsolicited), 1);
}

/// The same for the middle of one whose entry is gone, say because the table was full.
#[test]
fn what_is_left_of_a_connection_that_is_forgotten_goes_nowhere() {
    let mut world = world();
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    for flags in ["A", "FA", "R"] {
        world.send([tcp(("10.5.0.2", 80), (OUTSIDER, 1), flags)]);
    }
    assert!(world.sent("uk").is_empty() && world.sent("fr").is_empty());
    assert_eq!(world.drops(DropReason::Unsolicited), 3);
    // What begins here on that port, and what has another one.
    world.send([tcp(("10.5.0.2", 80), (OUTSIDER, 2), "S")]);
    world.send([tcp(("10.5.0.2", 81), (OUTSIDER, 1), "A")]);
    assert_eq!(world.sent("uk").len(), 2);
}

/// A SYN and a RST cost a stranger no more than a SYN.
#[test]
fn connections_that_were_reset_make_room() {
    let mut world = with_config(RouterConfig {
        max_flows_per_inbound_rule: 4,
        ..RouterConfig::default()
    });
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    for port in 1..=20 {
        world.receive("fr", &tcp((OUTSIDER, port), ("10.5.0.3", 80), "S"));
        world.receive("fr", &tcp((OUTSIDER, port), ("10.5.0.3", 80), "R"));
    }
    assert_eq!(world.drops(DropReason::InboundQuota), 0);
}

/// Short connections, one after the other: those that are over are in nobody's way.
#[test]
fn connections_that_are_over_make_room() {
    let mut world = with_config(RouterConfig {
        max_flows_per_inbound_rule: 4,
        ..RouterConfig::default()
    });
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    let (here, there) = (("10.5.0.2", 80), ("10.5.0.3", 80));
    let mut connect = |port, ends: bool| {
        let far = (OUTSIDER, port);
        world.receive("fr", &tcp(far, there, "S"));
        world.send([tcp(here, far, "SA")]);
        world.receive("fr", &tcp(far, there, "A"));
        if ends {
            world.receive("fr", &tcp(far, there, "FA"));
            world.send([tcp(here, far, "FA")]);
            world.receive("fr", &tcp(far, there, "A"));
        }
        world.advance(Duration::from_millis(300));
        world.drops(DropReason::InboundQuota)
    };
    // One that lasts keeps its place.
    assert_eq!(connect(1, false), 0);
    for port in 2..=40 {
        assert_eq!(connect(port, true), 0, "{port}");
    }
    world.receive("fr", &tcp((OUTSIDER, 1), there, "A"));
    world.delivered();
    world.send([tcp(here, (OUTSIDER, 1), "A")]);
    assert!(!world.sent("fr").is_empty(), "it lives");
}

/// Flows that come and go on the same ports leave nothing behind in what is remembered of them.
#[test]
fn what_is_remembered_of_half_open_flows_is_bounded() {
    let most = 4;
    let mut world = with_config(RouterConfig {
        max_flows_per_inbound_rule: most,
        ..RouterConfig::default()
    });
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    for round in 0..400 {
        // One stays, so that the rule always has a flow.
        world.receive("fr", &tcp((SITE, 1), ("10.5.0.3", 80), "S"));
        if round % 4 == 0 {
            world.receive("fr", &tcp((OUTSIDER, 1), ("10.5.0.3", 80), "S"));
        }
        world.advance(Duration::from_secs(15));
        assert!(world.router.guests.remembered() <= 2 * most, "{round}");
    }
}

/// What is left of a connection whose rule is gone is nobody else's either.
#[test]
fn a_connection_whose_rule_is_gone_does_not_go_on_through_another_tunnel() {
    let mut world = world();
    world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
    world.receive("fr", &tcp((OUTSIDER, 1), ("10.5.0.3", 80), "S"));
    world.send([tcp(("10.5.0.2", 80), (OUTSIDER, 1), "SA")]);
    world.receive("fr", &tcp((OUTSIDER, 1), ("10.5.0.3", 80), "A"));
    world.sent("fr");
    world.delivered();
    world.inbound(vec![]);
    for _ in 0..3 {
        world.send([tcp(("10.5.0.2", 80), (OUTSIDER, 1), "A")]);
        world.advance(Duration::from_millis(200));
    }
    assert!(world.sent("uk").is_empty());
    assert!(world.sent("fr").is_empty());
}

/// Nor what is left of one whose tunnel is closed, removed, or has another address.
#[test]
fn a_connection_whose_tunnel_is_gone_does_not_go_on_through_another() {
    for end in 0..3 {
        let mut world = world();
        world.inbound(vec![rule(RuleProtocol::Tcp, Some(80), None)]);
        world.receive("fr", &tcp((OUTSIDER, 1), ("10.5.0.3", 80), "S"));
        world.send([tcp(("10.5.0.2", 80), (OUTSIDER, 1), "SA")]);
        world.receive("fr", &tcp((OUTSIDER, 1), ("10.5.0.3", 80), "A"));
        world.sent("fr");
        match end {
            0 => world.state("fr", vpn_core::TransportState::Closed),
            1 => {
                let (now, id) = (world.now, world.id("fr"));
                world.router.remove_tunnel(now, id);
            }
            _ => world.up("fr", &["10.5.0.4/24", "fd00:5::3/64"], &[]),
        }
        for _ in 0..3 {
            world.send([tcp(("10.5.0.2", 80), (OUTSIDER, 1), "A")]);
            world.advance(Duration::from_millis(200));
        }
        assert!(world.sent("uk").is_empty(), "{end}");
        assert_eq!(world.router.guests.len(), 0);
    }
}

const LAN_HOST: &str = "192.168.7.9";

fn behind(protocol: RuleProtocol) -> InboundRule {
    InboundRule {
        behind: Some("192.168.7.0/24".parse().unwrap()),
        ..rule(protocol, None, None)
    }
}

/// P7, L-18: the system forwards it, and the answer's source is not the device's.
#[test]
fn a_machine_behind_this_host_is_reached_by_rule_and_answers() {
    let mut world = world();
    let syn = tcp((SITE, 4000), (LAN_HOST, 80), "S");
    world.inbound(vec![rule(RuleProtocol::Tcp, None, None)]);
    world.receive("fr", &syn);
    assert!(world.delivered().is_empty(), "default off");
    world.inbound(vec![behind(RuleProtocol::Tcp), behind(RuleProtocol::Icmp)]);
    world.receive("uk", &syn);
    assert!(world.delivered().is_empty(), "another tunnel");
    world.receive("fr", &syn);
    assert_eq!(world.delivered(), [syn]);
    let answer = tcp((LAN_HOST, 80), (SITE, 4000), "SA");
    world.send([answer.clone()]);
    assert_eq!(world.sent("fr"), [answer]);
    assert!(world.sent("uk").is_empty());
    world.receive("fr", &echo(SITE, LAN_HOST, 7, false));
    assert_eq!(world.delivered().len(), 1);
    world.send([echo(LAN_HOST, SITE, 7, true)]);
    assert_eq!(world.sent("fr"), [echo(LAN_HOST, SITE, 7, true)]);
    let own = tcp((SITE, 4001), ("10.5.0.3", 80), "S");
    world.receive("fr", &own);
    assert!(world.delivered().is_empty(), "not this host itself");
}

/// It ends with its rule, and stays with another that says the same.
#[test]
fn a_flow_to_a_machine_behind_this_host_ends_with_its_rule() {
    let mut world = world();
    world.inbound(vec![behind(RuleProtocol::Tcp)]);
    world.receive("fr", &tcp((SITE, 1), (LAN_HOST, 80), "S"));
    world.send([tcp((LAN_HOST, 80), (SITE, 1), "SA")]);
    assert_eq!((world.delivered().len(), world.sent("fr").len()), (1, 1));
    world.inbound(vec![InboundRule {
        id: RuleId(2),
        ..behind(RuleProtocol::Tcp)
    }]);
    world.receive("fr", &tcp((SITE, 1), (LAN_HOST, 80), "A"));
    assert_eq!(world.delivered().len(), 1);
    world.up("fr", &["10.5.0.4/24"], &[]);
    world.receive("fr", &tcp((SITE, 1), (LAN_HOST, 80), "A"));
    assert_eq!(world.delivered().len(), 1, "it has its own address");
    world.inbound(vec![]);
    world.receive("fr", &tcp((SITE, 1), (LAN_HOST, 80), "A"));
    world.send([tcp((LAN_HOST, 80), (SITE, 1), "A")]);
    assert!(world.delivered().is_empty());
    assert!(world.sent("fr").is_empty() && world.sent("uk").is_empty());
}

/// L-17: no relay: neither back into the device, nor between tunnels, nor with somebody else's
/// source.
#[test]
fn what_is_behind_this_host_is_never_behind_a_tunnel() {
    let mut world = world();
    let everywhere = |net: &str| InboundRule {
        behind: Some(net.parse().unwrap()),
        ..rule(RuleProtocol::Udp, None, None)
    };
    world.inbound(vec![everywhere("0.0.0.0/0")]);
    world.receive("fr", &udp((SITE, 1), (LAN_HOST, 9), b""));
    assert!(world.delivered().is_empty(), "the source is in it, too");
    world.inbound(vec![everywhere("10.0.0.0/8"), everywhere("192.168.7.0/24")]);
    for to in ["10.5.0.2", "10.5.0.3", "10.5.0.9", "10.5.0.255"] {
        world.receive("fr", &udp((SITE, 1), (to, 9), b""));
        assert!(world.delivered().is_empty(), "{to}");
    }
    for from in ["192.168.7.1", "10.5.0.2", "127.0.0.1"] {
        world.receive("fr", &udp((from, 1), (LAN_HOST, 9), b""));
        assert!(world.delivered().is_empty(), "{from}");
    }
    world.receive("fr", &udp((SITE, 1), (LAN_HOST, 9), b""));
    assert_eq!(world.delivered().len(), 1);
}

/// What a machine behind this host begins keeps its source; what is not behind it gets the tunnel's.
#[test]
fn a_machine_behind_this_host_begins_with_its_own_address() {
    let mut world = world();
    world.rule_for_all("fr");
    world.inbound(vec![behind(RuleProtocol::Tcp)]);
    let out = udp((LAN_HOST, 5), (SITE, 9), b"out");
    world.send([out.clone(), udp(("192.168.8.9", 5), (SITE, 9), b"out")]);
    let sent = world.sent("fr");
    assert_eq!(sent[0], out);
    assert_eq!(flow_of(&sent[1]).src(), addr("10.5.0.3"));
    let answer = udp((SITE, 9), (LAN_HOST, 5), b"in");
    world.receive("fr", &answer);
    assert_eq!(world.delivered(), [answer]);
}
