//! Packets go to their tunnel with its address, and answers find back.

use std::time::Duration;

use vpn_core::packet::{Gso, Offload, Packet};
use vpn_core::{DropReason, Protocol};

use super::world::{SITE, SITE6, World, addr, echo, flow_of, tcp, udp};
use crate::dns::testing::{answer, query};

const IDENTICAL: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/32", "fd00:5::2/128"]),
    ("fr", &["10.5.0.2/32", "fd00:5::2/128"]),
    ("us", &["10.5.0.2/32", "fd00:5::2/128"]),
];

const DIFFERENT: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/32", "fd00:5::2/128"]),
    ("fr", &["10.5.0.3/32", "fd00:5::3/128"]),
    ("us", &["10.6.0.2/32", "fd00:6::2/128"]),
];

/// Three apps, each with its own provider, all at once.
fn three_apps(world: &mut World) {
    for (uid, tunnel) in [(1001, "uk"), (1002, "fr"), (1003, "us")] {
        world.rule(uid, tunnel);
    }
}

#[test]
fn identical_addresses_are_kept_apart() {
    let mut world = World::new(IDENTICAL);
    three_apps(&mut world);
    let plan = world.plans.last().unwrap();
    assert_eq!(plan.addresses.len(), 2, "one per family: {plan:?}");
    for (round, port) in (0..100u16).map(|i| (i, 40_000 + i)) {
        let (uid, tunnel) = [(1001, "uk"), (1002, "fr"), (1003, "us")][usize::from(round % 3)];
        world.socket(Protocol::TCP, ("10.5.0.2", port), uid, u64::from(port));
        world.send([tcp(("10.5.0.2", port), (SITE, 80), "S")]);
        let sent = world.sent(tunnel);
        assert_eq!(sent.len(), 1, "{tunnel}");
        assert_eq!(flow_of(&sent[0]).src(), addr("10.5.0.2"));
        // The same answer through another tunnel is not an answer.
        let answer = tcp((SITE, 80), ("10.5.0.2", port), "SA");
        let wrong = if tunnel == "uk" { "fr" } else { "uk" };
        world.receive(wrong, &answer);
        assert!(world.delivered().is_empty());
        world.receive(tunnel, &answer);
        assert_eq!(world.delivered(), [answer]);
    }
    assert_eq!(world.drops(DropReason::Unsolicited), 100);
    let rules = world.router.status().rules;
    assert_eq!(
        (rules.hits, rules.misses),
        (100, 0),
        "once per flow, not per packet"
    );
}

/// N-8, N-9: another address, every protocol, both families; un-NAT after NAT is identity.
#[test]
fn each_packet_leaves_with_the_address_of_its_tunnel() {
    let mut world = World::new(DIFFERENT);
    three_apps(&mut world);
    for (uid, tunnel, v4, v6) in [
        (1001, "uk", "10.5.0.2", "fd00:5::2"),
        (1002, "fr", "10.5.0.3", "fd00:5::3"),
        (1003, "us", "10.6.0.2", "fd00:6::2"),
    ] {
        // The kernel chose one of the device's addresses for all.
        for (device, assigned, site) in [("10.5.0.2", v4, SITE), ("fd00:5::2", v6, SITE6)] {
            let port = 1000 + uid as u16;
            let icmp = if site == SITE {
                Protocol::ICMP
            } else {
                Protocol::ICMPV6
            };
            for protocol in [Protocol::UDP, Protocol::TCP, icmp] {
                world.socket(protocol, (device, port), uid, 1);
            }
            type Make<'a> = &'a dyn Fn(&str, &str, bool) -> Vec<u8>;
            let make_udp = |s: &str, d: &str, back: bool| match back {
                false => udp((s, port), (d, 7), b"odd"),
                true => udp((s, 7), (d, port), b"odd"),
            };
            let make_tcp = |s: &str, d: &str, back: bool| match back {
                false => tcp((s, port), (d, 80), "S"),
                true => tcp((s, 80), (d, port), "SA"),
            };
            let make_echo = |s: &str, d: &str, back: bool| echo(s, d, port, back);
            for make in [&make_udp as Make<'_>, &make_tcp, &make_echo] {
                world.send([make(device, site, false)]);
                let sent = world.sent(tunnel);
                assert_eq!(sent, [make(assigned, site, false)], "{tunnel} {device}");
                assert_eq!(flow_of(&sent[0]).src(), addr(assigned));
                world.receive(tunnel, &make(site, assigned, true));
                assert_eq!(world.delivered(), [make(site, device, true)]);
            }
        }
    }
    assert_eq!(world.router.accounts().drops.total(), 0);
}

#[test]
fn without_translation_a_provider_would_see_a_wrong_source() {
    let config = crate::RouterConfig {
        translate: false,
        ..Default::default()
    };
    let mut world = World::with_config(config, DIFFERENT);
    three_apps(&mut world);
    world.socket(Protocol::UDP, ("10.5.0.2", 5), 1002, 1);
    world.send([udp(("10.5.0.2", 5), (SITE, 7), b"")]);
    assert_ne!(flow_of(&world.sent("fr")[0]).src(), addr("10.5.0.3"));
}

/// Two device addresses, one source port, one destination, one tunnel.
#[test]
fn only_a_real_collision_translates_the_port() {
    let mut world = World::new(DIFFERENT);
    world.rule(1, "fr");
    for device in ["10.5.0.2", "10.6.0.2"] {
        world.socket(Protocol::UDP, (device, 5000), 1, 1);
        world.socket(Protocol::ICMP, (device, 5000), 1, 1);
        world.send([udp((device, 5000), (SITE, 7), b"x")]);
        world.send([echo(device, SITE, 5000, false)]);
    }
    let sent = world.sent("fr");
    let flows: Vec<_> = sent.iter().map(|p| flow_of(p)).collect();
    assert_eq!(flows.len(), 4);
    assert!(flows.iter().all(|f| f.src() == addr("10.5.0.3")));
    assert_eq!((flows[0].src_port(), flows[1].src_port()), (5000, 5000));
    assert_ne!(flows[2].src_port(), 5000, "collides");
    assert_ne!(flows[3].src_port(), 5000, "collides");
    // Each answer finds its own device address and port.
    for (flow, device) in [(flows[0], "10.5.0.2"), (flows[2], "10.6.0.2")] {
        world.receive("fr", &udp((SITE, 7), ("10.5.0.3", flow.src_port()), b"y"));
        assert_eq!(world.delivered(), [udp((SITE, 7), (device, 5000), b"y")]);
    }
    for (flow, device) in [(flows[1], "10.5.0.2"), (flows[3], "10.6.0.2")] {
        world.receive("fr", &echo(SITE, "10.5.0.3", flow.src_port(), true));
        assert_eq!(world.delivered(), [echo(SITE, device, 5000, true)]);
    }
    // To another destination it is the same socket still.
    world.send([udp(("10.6.0.2", 5000), ("203.0.113.11", 7), b"x")]);
    assert_eq!(
        flow_of(&world.sent("fr")[0]).src_port(),
        flows[2].src_port()
    );
}

/// N-22: a query goes to the resolver of the asker's tunnel, whatever resolver it was sent to.
#[test]
fn dns_follows_the_tunnel_of_the_asker() {
    let q = query(1, "example.com", 1);
    let a = answer(1, "example.com", 1, &[]);
    let virtual_resolver = "100.127.255.53";
    let config = crate::RouterConfig {
        resolvers: vec![addr(virtual_resolver)],
        steered: vec![addr("192.0.2.1")],
        ..Default::default()
    };
    let mut world = World::with_config(config, DIFFERENT);
    world.up("uk", &["10.5.0.2/32"], &["198.18.1.53"]);
    world.up("fr", &["10.5.0.3/32"], &["198.18.2.53"]);
    world.up("us", &["10.6.0.2/32"], &[]);
    three_apps(&mut world);
    assert!(
        world
            .plans
            .last()
            .unwrap()
            .dns
            .contains(&addr(virtual_resolver))
    );
    for (asked, port) in [(virtual_resolver, 1), ("192.0.2.1", 2), ("198.18.1.53", 3)] {
        world.socket(Protocol::UDP, ("10.5.0.2", port), 1002, u64::from(port));
        world.send([udp(("10.5.0.2", port), (asked, 53), &q)]);
        let sent = world.sent("fr");
        assert_eq!(sent, [udp(("10.5.0.3", port), ("198.18.2.53", 53), &q)]);
        world.receive("fr", &udp(("198.18.2.53", 53), ("10.5.0.3", port), &a));
        assert_eq!(
            world.delivered(),
            [udp((asked, 53), ("10.5.0.2", port), &a)]
        );
    }
    // A resolver somewhere else is an ordinary destination.
    world.socket(Protocol::UDP, ("10.5.0.2", 4), 1002, 4);
    world.send([udp(("10.5.0.2", 4), ("192.0.2.99", 53), &q)]);
    assert_eq!(flow_of(&world.sent("fr")[0]).dst(), addr("192.0.2.99"));
    // A tunnel without a resolver gets no other tunnel's.
    world.socket(Protocol::UDP, ("10.5.0.2", 5), 1003, 5);
    world.send([udp(("10.5.0.2", 5), (virtual_resolver, 53), &q)]);
    assert!(world.sent("us").is_empty());
    assert_eq!(world.drops(DropReason::NoResolver), 1);
    // Nor does anybody when the tunnel is down.
    world.down("fr");
    world.socket(Protocol::UDP, ("10.5.0.2", 6), 1002, 6);
    world.send([udp(("10.5.0.2", 6), (virtual_resolver, 53), &q)]);
    assert_eq!(world.drops(DropReason::TunnelDown), 1);
}

/// N-1, N-2: a port that changes hands takes its new owner's tunnel.
#[test]
fn a_reused_port_belongs_to_its_new_owner() {
    let mut world = World::new(IDENTICAL);
    three_apps(&mut world);
    for protocol in [Protocol::UDP, Protocol::TCP] {
        let make = |flags| match protocol {
            Protocol::UDP => udp(("10.5.0.2", 7000), (SITE, 7), b""),
            _ => tcp(("10.5.0.2", 7000), (SITE, 7), flags),
        };
        for round in 0..6u32 {
            let (uid, tunnel) = [(1001, "uk"), (1002, "fr"), (1003, "us")][(round % 3) as usize];
            world.socket(protocol, ("10.5.0.2", 7000), uid, u64::from(round));
            world.advance(Duration::from_millis(2));
            world.send([make("S")]);
            assert_eq!(world.sent(tunnel).len(), 1, "{protocol} round {round}");
        }
    }
}

/// A flow that goes on without a pause asks nobody.
#[test]
fn a_busy_flow_is_not_looked_up_again() {
    let mut world = World::new(IDENTICAL);
    three_apps(&mut world);
    world.socket(Protocol::UDP, ("10.5.0.2", 1), 1001, 1);
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    world.slow_owners = true;
    for _ in 0..10 {
        world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    }
    assert_eq!(world.sent("uk").len(), 11);
    assert!(world.asked.is_empty());
}

#[test]
fn a_new_assigned_address_is_used_at_once() {
    let mut world = World::new(DIFFERENT);
    three_apps(&mut world);
    world.socket(Protocol::UDP, ("10.5.0.2", 1), 1002, 1);
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    assert_eq!(flow_of(&world.sent("fr")[0]).src(), addr("10.5.0.3"));
    world.up("fr", &["10.9.9.9/32"], &[]);
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    assert_eq!(flow_of(&world.sent("fr")[0]).src(), addr("10.9.9.9"));
}

#[test]
fn an_address_no_host_can_have_is_never_a_source() {
    let mut world = World::new(&[("uk", &["127.0.0.1/32", "10.5.0.2/32"])]);
    world.rule(1, "uk");
    world.socket(Protocol::UDP, ("10.5.0.2", 1), 1, 1);
    world.send([udp(("10.5.0.2", 1), (SITE, 7), b"")]);
    assert_eq!(flow_of(&world.sent("uk")[0]).src(), addr("10.5.0.2"));
}

/// What a tunnel carried is counted as it is on a wire, by the usual way and by the other.
#[test]
fn a_super_packet_counts_as_its_segments() {
    let mut world = World::new(IDENTICAL);
    world.rule(1001, "uk");
    world.socket(Protocol::UDP, ("10.5.0.2", 40_000), 1001, 1);
    world.socket(Protocol::UDP, ("fd00:5::2", 40_000), 1001, 2);
    let cut = |bytes: &[u8], size| {
        Packet::from_slice(bytes).with_offload(Offload {
            gso: Some(Gso { size }),
            partial_checksum: true,
        })
    };
    for (own, site) in [("10.5.0.2", SITE), ("fd00:5::2", SITE6)] {
        let before = world.router.status().tunnels[0].counters.clone();
        // The first is entered, the second is known.
        for _ in 0..2 {
            let out = udp((own, 40_000), (site, 443), &[7; 10_001]);
            world.send_described([cut(&out, 1_000)]);
            assert_eq!(world.sent("uk").len(), 1);
            let back = udp((site, 443), (own, 40_000), &[7; 3_000]);
            world.receive_described("uk", cut(&back, 1_000));
            assert_eq!(world.delivered().len(), 1);
        }
        let after = world.router.status().tunnels[0].counters.clone();
        let packets = (
            after.tx_packets - before.tx_packets,
            after.rx_packets - before.rx_packets,
        );
        assert_eq!(packets, (2 * 11, 2 * 3), "{site}");
        assert!(world.router.status().accounts.balance());
    }
}
