//! Which queries are sent where, and which answers pass.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::routes::RoutePolicy;

/// R10, N-22: two apps, two tunnels, one resolver address: each gets its region's answer.
#[test]
fn each_app_asks_the_resolver_of_its_tunnel() {
    let mut world = two_regions();
    let regions = [
        (1001, "uk", UK.1, "192.0.2.1"),
        (1002, "fr", FR.1, "192.0.2.2"),
    ];
    for (port, (uid, ..)) in (1..).zip(regions) {
        ask(&mut world, uid, port, VIRTUAL, &query(7, "example.com", A));
    }
    for (port, (_, tunnel, resolver, address)) in (1..).zip(regions) {
        let sent = world.sent(tunnel);
        assert_eq!(sent.len(), 1);
        // Ports stay as they are: whoever forges an answer has to guess them (RFC 5452 §9.2).
        assert_eq!(flow_of(&sent[0]).src_port(), port);
        assert_eq!(flow_of(&sent[0]).dst(), addr(resolver));
        let says = [Says::Address("example.com", address, 60)];
        let message = answer(7, "example.com", A, &says);
        reply(&mut world, tunnel, port, &message);
        let delivered = world.delivered();
        assert_eq!(delivered, [udp((VIRTUAL, 53), (APP, port), &message)]);
    }
    let status = world.router.status().dns;
    assert_eq!((status.counters.queries, status.counters.answers), (2, 2));
    assert_eq!((status.pending, status.names), (0, 2));
}

/// One socket asks two addresses that are steered to one resolver: each is answered from where it
/// was asked, though both questions are the same.
#[test]
fn two_addresses_that_lead_to_one_resolver_stay_apart() {
    let mut world = two_regions();
    let (question, right) = (query(7, "example.com", A), answer(7, "example.com", A, &[]));
    let asked = [VIRTUAL, FR.1];
    for to in asked {
        ask(&mut world, 1001, 1, to, &question);
    }
    let sent = world.sent("uk");
    let ports: Vec<u16> = sent.iter().map(|bytes| flow_of(bytes).src_port()).collect();
    assert_ne!(ports[0], ports[1]);
    for (to, port) in asked.into_iter().zip(ports) {
        reply(&mut world, "uk", port, &right);
        assert_eq!(world.delivered(), [udp((to, 53), (APP, 1), &right)]);
    }
}

#[test]
fn an_answer_that_was_not_asked_for_is_dropped_and_counted() {
    let right = answer(7, "example.com", A, &[]);
    let mut forged = vec![
        answer(8, "example.com", A, &[]),
        answer(7, "example.org", A, &[]),
        answer(7, "example.com", 28, &[]),
        query(7, "example.com", A),
        right[..20].to_vec(),
        Vec::new(),
    ];
    let mut world = two_regions();
    ask(&mut world, 1001, 1, VIRTUAL, &query(7, "example.com", A));
    for (n, message) in (1..).zip(forged.drain(..)) {
        reply(&mut world, "uk", 1, &message);
        assert!(world.delivered().is_empty());
        assert_eq!(world.drops(DropReason::DnsUnexpected), n);
    }
    // Another tunnel's answer is no flow's; a duplicate comes too late.
    reply(&mut world, "fr", 1, &right);
    assert_eq!(world.drops(DropReason::Unsolicited), 1);
    for delivered in [1, 0] {
        reply(&mut world, "uk", 1, &right);
        assert_eq!(world.delivered().len(), delivered);
    }
    assert_eq!(world.drops(DropReason::DnsUnexpected), 7);
    assert_eq!(world.router.status().dns.counters.unexpected, 7);
}

/// 0x20: askers mix letter cases as a second id, and servers may not keep them.
#[test]
fn letter_case_is_the_askers_business() {
    let mut world = two_regions();
    ask(&mut world, 1001, 1, VIRTUAL, &query(7, "eXamPle.cOm", A));
    reply(&mut world, "uk", 1, &answer(7, "example.COM", A, &[]));
    assert_eq!(world.delivered().len(), 1);
}

#[test]
fn a_late_answer_is_dropped_and_a_repeated_query_is_answered_once() {
    let mut world = two_regions();
    let (question, right) = (query(7, "example.com", A), answer(7, "example.com", A, &[]));
    ask(&mut world, 1001, 1, VIRTUAL, &question);
    world.advance(Duration::from_secs(5));
    ask(&mut world, 1001, 1, VIRTUAL, &question);
    assert_eq!(world.sent("uk").len(), 2);
    world.advance(Duration::from_millis(9_999));
    for delivered in [1, 0] {
        reply(&mut world, "uk", 1, &right);
        assert_eq!(world.delivered().len(), delivered);
    }
    ask(&mut world, 1001, 1, VIRTUAL, &question);
    world.advance(Duration::from_secs(10));
    reply(&mut world, "uk", 1, &right);
    assert!(world.delivered().is_empty());
    assert_eq!(world.drops(DropReason::DnsUnexpected), 2);
    assert_eq!(world.router.status().dns.pending, 0);
}

/// The port's new owner must not get what the former one asked for.
#[test]
fn an_answer_to_the_ports_former_owner_is_dropped() {
    let mut world = two_regions();
    world.rule(1002, "uk");
    ask(&mut world, 1001, 1, VIRTUAL, &query(7, "example.com", A));
    world.advance(Duration::from_millis(5));
    ask(&mut world, 1002, 1, VIRTUAL, &query(8, "example.org", A));
    assert_eq!(world.sent("uk").len(), 2);
    reply(&mut world, "uk", 1, &answer(7, "example.com", A, &[]));
    assert!(world.delivered().is_empty());
    reply(&mut world, "uk", 1, &answer(8, "example.org", A, &[]));
    assert_eq!(world.delivered().len(), 1);
}

#[test]
fn what_is_no_query_is_not_steered() {
    let mut world = two_regions();
    let two = {
        let mut bytes = query(7, "example.com", A);
        bytes[5] = 2;
        bytes
    };
    for (n, message) in (1..).zip([b"q".to_vec(), two, answer(7, "example.com", A, &[])]) {
        ask(&mut world, 1001, 1, VIRTUAL, &message);
        assert!(world.sent("uk").is_empty());
        assert_eq!(world.drops(DropReason::Malformed), n);
    }
}

#[test]
fn queries_that_wait_are_bounded_per_flow_and_owner() {
    let mut world = with_limits(DnsLimits {
        flow_queries: 2,
        owner_queries: 3,
        ..DnsLimits::default()
    });
    for (port, id) in [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)] {
        ask(
            &mut world,
            1001,
            port,
            VIRTUAL,
            &query(id, "example.com", A),
        );
    }
    assert_eq!(world.sent("uk").len(), 3);
    assert_eq!(world.drops(DropReason::DnsPendingFull), 2);
    ask(&mut world, 1002, 3, VIRTUAL, &query(1, "example.com", A));
    assert_eq!(
        world.sent("fr").len(),
        1,
        "another's queries are not affected"
    );
    world.advance(Duration::from_secs(10));
    ask(&mut world, 1001, 1, VIRTUAL, &query(4, "example.com", A));
    assert_eq!(world.sent("uk").len(), 1);
}

/// R10, N-22: with the tunnel down a query goes nowhere, and its resolver is withdrawn with it.
#[test]
fn a_tunnel_that_is_down_or_has_no_resolver_fails_closed() {
    let mut world = two_regions();
    world.down("uk");
    for (port, resolver) in (1..).zip([VIRTUAL, UK.1, FR.1]) {
        ask(
            &mut world,
            1001,
            port,
            resolver,
            &query(7, "example.com", A),
        );
    }
    assert_eq!(world.drops(DropReason::TunnelDown), 3);
    world.up("uk", &["10.5.0.2/32"], &[]);
    ask(&mut world, 1001, 4, VIRTUAL, &query(7, "example.com", A));
    assert_eq!(world.drops(DropReason::NoResolver), 1);
    assert!(world.sent("uk").is_empty() && world.sent("fr").is_empty());
}

/// A tunnel must not get the queries of others by advertising a resolver's address.
#[test]
fn an_advertised_route_to_a_resolver_takes_no_queries_but_one_to_everywhere_does() {
    use std::sync::Arc;
    use vpn_core::{Assigned, TransportState};
    let config = RouterConfig {
        resolvers: vec![addr(VIRTUAL)],
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, &[("uk", &[]), ("fr", &[])]);
    world.up("uk", &["10.5.0.2/32"], &[UK.1]);
    // Some rule, so that there are rules at all; user 1002 is decided by routes or the default.
    world.rule(1001, "uk");
    let fr = world.id("fr");
    let now = world.now;
    world.router.set_route_policy(now, fr, RoutePolicy::All);
    for (port, (route, through)) in (1..).zip([("100.64.0.0/10", 0), ("0.0.0.0/0", 1)]) {
        let assigned = Assigned {
            addresses: vec!["10.5.0.2/32".parse().unwrap()],
            dns: vec![addr(FR.1)],
            mtu: 1420,
            routes: vec![route.parse().unwrap(), "100.127.0.0/16".parse().unwrap()],
        };
        world.state("fr", TransportState::Up(Arc::new(assigned)));
        for to in [VIRTUAL, UK.1] {
            ask(&mut world, 1002, port, to, &query(port, "example.com", A));
            assert_eq!(world.sent("fr").len(), through, "{route} {to}");
        }
    }
    assert_eq!(world.drops(DropReason::BlockedByDefault), 2);
}

/// N-22: queries by TCP went elsewhere.
#[test]
fn tcp_queries_are_steered_as_flows() {
    use crate::router::tests::world::tcp;
    let mut world = two_regions();
    for (uid, port, tunnel, resolver) in [(1001, 1, "uk", UK.1), (1002, 2, "fr", FR.1)] {
        world.socket(Protocol::TCP, (APP, port), uid, port.into());
        world.send([tcp((APP, port), (VIRTUAL, 53), "S")]);
        assert_eq!(flow_of(&world.sent(tunnel)[0]).dst(), addr(resolver));
        world.receive(tunnel, &tcp((resolver, 53), (APP, port), "SA"));
        let delivered = world.delivered();
        assert_eq!(flow_of(&delivered[0]).src(), addr(VIRTUAL));
    }
}

/// A resolver the app chose itself is its business: all answers pass.
#[test]
fn answers_of_a_chosen_resolver_pass_untouched() {
    let mut world = two_regions();
    let chosen = "192.0.2.99";
    ask(&mut world, 1001, 1, chosen, &query(7, "example.com", A));
    ask(&mut world, 1001, 1, chosen, b"not DNS at all");
    assert_eq!(world.sent("uk").len(), 2);
    for message in [answer(8, "example.com", A, &[]), b"what".to_vec()] {
        world.receive("uk", &udp((chosen, 53), (APP, 1), &message));
        assert_eq!(world.delivered(), [udp((chosen, 53), (APP, 1), &message)]);
    }
    assert_eq!(world.router.status().dns.pending, 1);
}

/// No NAT64: a query is steered within its family, or nowhere.
#[test]
fn a_query_never_changes_its_family() {
    let (virtual6, app6, resolver6) = ("fd00:53::1", "fd00:5::2", "fd00:5::53");
    let config = RouterConfig {
        resolvers: vec![addr(VIRTUAL), addr(virtual6)],
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, &[("uk", &[])]);
    world.rule(1001, "uk");
    let both = ["10.5.0.2/32", "fd00:5::2/128"];
    let question = query(7, "example.com", A);
    let cases = [
        (UK.1, APP, VIRTUAL, virtual6),
        (resolver6, app6, virtual6, VIRTUAL),
    ];
    for (n, (resolver, own, same, other)) in (1..).zip(cases) {
        world.up("uk", &both, &[resolver]);
        let app = |to: &str| if addr(to).is_ipv4() { APP } else { app6 };
        for to in [other, same] {
            world.socket(Protocol::UDP, (app(to), n), 1001, n.into());
            world.send([udp((app(to), n), (to, 53), &question)]);
        }
        assert_eq!(world.drops(DropReason::NoResolver), n.into());
        assert_eq!(world.sent("uk"), [udp((own, n), (resolver, 53), &question)]);
    }
}

/// Several datagrams in one packet: of queries nobody could say where to, of answers each counts.
#[test]
fn super_packets_are_not_a_way_around() {
    use vpn_core::packet::{Gso, Offload, Packet, PacketBatch};
    let mut world = two_regions();
    let with_gso = |bytes: &[u8], size: usize| {
        let gso = Some(Gso { size: size as u16 });
        let mut batch = PacketBatch::new(1, 1600);
        let packet = Packet::from_slice(bytes).with_offload(Offload {
            gso,
            partial_checksum: false,
        });
        batch.push(packet).unwrap();
        batch
    };
    let (one, two) = (query(1, "a.example", A), query(2, "b.example", A));
    world.socket(Protocol::UDP, (APP, 1), 1001, 1);
    let both = udp(
        (APP, 1),
        (VIRTUAL, 53),
        &[one.clone(), two.clone()].concat(),
    );
    let now = world.now;
    world
        .router
        .handle_device(now, &mut with_gso(&both, one.len()));
    world.answer_events();
    assert_eq!(world.drops(DropReason::Malformed), 1);
    ask(&mut world, 1001, 1, VIRTUAL, &one);
    ask(&mut world, 1001, 1, VIRTUAL, &two);
    let (yes, no) = (
        answer(1, "a.example", A, &[]),
        answer(3, "b.example", A, &[]),
    );
    let forged = udp((UK.1, 53), (UK.0, 1), &[yes.clone(), no].concat());
    let uk = world.id("uk");
    world
        .router
        .handle_tunnel(now, uk, &mut with_gso(&forged, yes.len()));
    assert!(world.delivered().is_empty());
    assert_eq!(world.drops(DropReason::DnsUnexpected), 1);
}

proptest! {
    /// Whatever a resolver sends, it is delivered if it begins as an answer to what was asked.
    #[test]
    fn a_damaged_answer_is_delivered_only_if_its_head_is_whole(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 0..40usize,
    ) {
        let mut world = two_regions();
        let question = query(7, "www.example.com", A);
        ask(&mut world, 1001, 1, VIRTUAL, &question);
        let says = [Says::Address("www.example.com", "192.0.2.1", 60)];
        let mut message = answer(7, "www.example.com", A, &says);
        message.truncate(message.len() - cut);
        for (at, value) in damage {
            let at = at.index(message.len());
            message[at] = value;
        }
        // Id, "answer", one question, the question; the name is between bytes 12 and -4.
        let name = 12..question.len() - 4;
        let whole = message.len() >= question.len()
            && message[..2] == question[..2]
            && message[2] & 0x80 != 0
            && message[4..6] == [0, 1]
            && message[name.clone()].eq_ignore_ascii_case(&question[name.clone()])
            && message[name.end..question.len()] == question[name.end..];
        reply(&mut world, "uk", 1, &message);
        prop_assert_eq!(world.delivered().len(), usize::from(whole));
        prop_assert_eq!(world.drops(DropReason::DnsUnexpected), u64::from(!whole));
    }
}
