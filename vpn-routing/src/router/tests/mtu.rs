//! Tunnels narrower than the device: nothing vanishes in silence (N-24).

use std::sync::Arc;

use vpn_core::packet::tcp_flags;
use vpn_core::testing::{build, verify_checksums};
use vpn_core::{Assigned, DropReason, Parsed, TransportState};

use super::world::{World, udp};
use crate::router::{Answer, Answers, RouterConfig};

fn world() -> World {
    let config = RouterConfig {
        interface_mtu: Some(1500),
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, &[("uk", &["10.6.0.2/32", "fd00:6::2/128"])]);
    width(&mut world, 1280);
    world.rule_for_all("uk");
    world
}

fn width(world: &mut World, mtu: u16) {
    let assigned = Assigned {
        addresses: ["10.6.0.2/32", "fd00:6::2/128"]
            .map(|a| a.parse().unwrap())
            .to_vec(),
        mtu,
        ..Assigned::default()
    };
    world.state("uk", TransportState::Up(Arc::new(assigned)));
}

fn datagram(v6: bool, length: usize, may_be_cut: bool) -> Vec<u8> {
    let payload = vec![7; length - if v6 { 48 } else { 28 }];
    let mut bytes = match v6 {
        true => udp(("fd00:6::2", 4000), ("2001:db8::9", 9), &payload),
        false => udp(("10.6.0.2", 4000), ("192.0.2.9", 9), &payload),
    };
    if !v6 {
        bytes[6] = if may_be_cut { 0 } else { 0x40 };
        bytes[10..12].fill(0);
        use vpn_core::packet::checksum::{fold, sum};
        let checksum = !fold(sum(&bytes[..20], 0));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// S-22, L-28: what was too large vanished without a word.
#[test]
fn the_sender_is_told_what_fits() {
    for v6 in [false, true] {
        let mut world = world();
        world.send([datagram(v6, 1280, false)]);
        assert_eq!(world.sent("uk").len(), 1, "what fits passes");
        let large = datagram(v6, 1281, false);
        world.send([large.clone()]);
        assert!(world.sent("uk").is_empty());
        assert_eq!(world.drops(DropReason::TooBig), 1);
        let told = world.delivered().remove(0);
        verify_checksums(&told).unwrap();
        let at = if v6 { 40 } else { 20 };
        let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
        assert_eq!((told[at], told[at + 1]), (kind, code));
        assert_eq!(u16::from_be_bytes([told[at + 6], told[at + 7]]), 1280);
        let quote = &told[at + 8..];
        assert_eq!(quote, &large[..quote.len()], "the app's own packet");
        assert!(world.router.accounts().balance());
    }
}

#[test]
fn who_sends_a_flood_is_not_answered_by_one() {
    let mut world = world();
    for _ in 0..20 {
        world.send((0..50).map(|_| datagram(false, 1400, false)));
    }
    assert_eq!(world.drops(DropReason::TooBig), 1000);
    assert!(world.delivered().len() <= 60, "{}", world.delivered().len());
}

#[test]
fn what_may_be_cut_is_cut() {
    let mut world = world();
    world.send([datagram(false, 1500, true)]);
    let sent = world.sent("uk");
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|p| p.len() <= 1280));
    let payload: usize = sent.iter().map(|p| p.len() - 20).sum();
    assert_eq!(payload, 1480);
    assert!(world.delivered().is_empty() && world.router.accounts().balance());
}

fn mss_of(bytes: &[u8]) -> u16 {
    verify_checksums(bytes).unwrap();
    let at = usize::from(Parsed::from_bytes(bytes).unwrap().transport) + 22;
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// S-22: both ends learn what fits, in both families, and a narrower value stays.
#[test]
fn the_segment_size_is_lowered_in_both_directions() {
    let options = |mss: u16| [2, 4, (mss >> 8) as u8, mss as u8];
    for (src, dst, fits) in [
        ("10.6.0.2:4000", "192.0.2.9:80", 1240),
        ("[fd00:6::2]:4000", "[2001:db8::9]:80", 1220),
    ] {
        let mut world = world();
        let syn = |mss| build::tcp_with_options(src, dst, tcp_flags::SYN, 1, &options(mss), &[]);
        world.send([syn(1460)]);
        assert_eq!(mss_of(&world.sent("uk")[0]), fits);
        let flags = tcp_flags::SYN | tcp_flags::ACK;
        let answer = build::tcp_with_options(dst, src, flags, 1, &options(1440), &[]);
        world.receive("uk", &answer);
        assert_eq!(mss_of(&world.delivered()[0]), fits);
        world.send([syn(1000)]);
        assert_eq!(mss_of(&world.sent("uk")[0]), 1000);
    }
}

#[test]
fn the_mtu_may_change_while_it_runs() {
    let mut world = world();
    world.send([datagram(false, 1280, false)]);
    width(&mut world, 1240);
    world.send([datagram(false, 1280, false)]);
    assert_eq!(world.drops(DropReason::TooBig), 1);
    width(&mut world, 1420);
    world.send([datagram(false, 1420, false)]);
    assert_eq!(world.drops(DropReason::TooBig), 1);
    assert_eq!(world.plans.last().unwrap().mtu, 1500);
}

/// A super-packet counts by its segments.
#[test]
fn segments_count_and_not_the_packet() {
    let mut world = world();
    for (size, passes) in [(1240u16, true), (1300, false)] {
        let packet = build::super_tcp(
            "10.6.0.2:4000",
            "192.0.2.9:80",
            tcp_flags::ACK,
            1,
            size,
            &[0; 5000],
        );
        let now = world.now;
        let mut batch = vpn_core::PacketBatch::new(4, 65_535);
        batch.push(packet).unwrap();
        world.router.handle_device(now, &mut batch);
        world.answer_events();
        assert_eq!(world.sent("uk").len(), usize::from(passes), "{size}");
    }
}

/// What lies behind a packet is no part of it: there is nothing to cut, and it is counted.
#[test]
fn padding_is_not_cut_into_fragments() {
    let mut world = world();
    let mut padded = build::ip("10.6.0.2", "192.0.2.9", vpn_core::Protocol(47), &[]);
    padded[6] = 0;
    padded.resize(1500, 0);
    world.send([padded.clone()]);
    assert_eq!(world.drops(DropReason::TooBig), 1);
    // The same of a fragment that follows its first.
    let whole = build::ip("10.6.0.2", "192.0.2.9", vpn_core::Protocol(47), &[1; 64]);
    let parts = build::fragments(&whole, 52, 9);
    padded[4..8].copy_from_slice(&parts[1][4..8]);
    world.send([parts[0].clone(), padded]);
    assert_eq!(world.sent("uk").len(), 1);
    assert_eq!(world.drops(DropReason::Malformed), 1);
}

/// Without that message nothing large passes: others' floods must not use it up.
#[test]
fn what_fits_is_told_while_others_are_refused() {
    let config = RouterConfig {
        answers: Answers {
            blocked: Answer::Reject,
            ..Answers::default()
        },
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, &[("uk", &["10.6.0.2/32", "fd00:6::2/128"])]);
    width(&mut world, 1280);
    world.rule(1001, "block");
    world.rule(1002, "uk");
    for port in 5000..5200 {
        let from = ("10.6.0.2", port);
        world.socket(vpn_core::Protocol::UDP, from, 1001, port.into());
        world.send([udp(from, ("192.0.2.9", 9), b"")]);
    }
    let refused = world.delivered().len();
    assert!((1..100).contains(&refused));
    world.socket(vpn_core::Protocol::UDP, ("10.6.0.2", 4000), 1002, 1);
    world.send([datagram(false, 1400, false)]);
    let told = world.delivered();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0][20], told[0][21]), (3, 4));
}

/// A connection to `far`, both ends of which spoke: the app expects 0x2222 next.
fn connect(world: &mut World, far: &str, port: u16) {
    let here = if far.contains(':') {
        "fd00:6::2"
    } else {
        "10.6.0.2"
    };
    let (here, far) = (
        (here.parse().unwrap(), port),
        (far.parse().unwrap(), 443u16),
    );
    let syn = build::tcp(here, far, tcp_flags::SYN, 1, b"");
    world.send([syn]);
    for packet in world.sent("uk") {
        let wire = Parsed::from_bytes(&packet).unwrap().flow;
        let ends = ((wire.dst(), wire.dst_port()), (wire.src(), wire.src_port()));
        let answer = build::tcp(ends.0, ends.1, tcp_flags::SYN | tcp_flags::ACK, 1, b"");
        world.receive("uk", &answer);
    }
    let mut ack = build::tcp(here, far, tcp_flags::ACK, 2, b"");
    let at = Parsed::from_bytes(&ack).unwrap().transport as usize;
    ack[at + 8..at + 12].copy_from_slice(&0x2222u32.to_be_bytes());
    world.send([ack]);
    world.sent("uk");
    world.delivered();
}

/// Segments that were under way would vanish at the narrow link.
#[test]
fn far_ends_are_told_of_a_narrower_tunnel() {
    let mut world = world();
    width(&mut world, 1440);
    connect(&mut world, "192.0.2.9", 4001);
    connect(&mut world, "2001:db8::9", 4002);
    world.send([udp(("10.6.0.2", 4003), ("192.0.2.9", 9), b"none of TCP")]);
    world.sent("uk");
    width(&mut world, 1300);
    let told = world.sent("uk");
    assert_eq!(told.len(), 2, "each connection, and nobody else");
    for bytes in told {
        verify_checksums(&bytes).unwrap();
        let parsed = Parsed::from_bytes(&bytes).unwrap();
        let quoted = vpn_core::packet::Quoted::of(&bytes, &parsed).unwrap();
        assert_eq!(quoted.flow.src(), parsed.flow.dst(), "about its segment");
        assert_eq!(quoted.flow.src_port(), 443);
        let icmp = parsed.transport as usize;
        assert_eq!(bytes[icmp + 6..icmp + 8], 1300u16.to_be_bytes());
        let tcp = icmp + 8 + if parsed.flow.src().is_ipv4() { 20 } else { 40 };
        assert_eq!(bytes[tcp + 4..tcp + 8], 0x2222u32.to_be_bytes(), "expected");
    }
    // Wider again, or as it is: nothing to say.
    width(&mut world, 1300);
    width(&mut world, 1440);
    assert!(world.sent("uk").is_empty());
    // A tunnel that comes back narrower has connections that live on.
    world.down("uk");
    width(&mut world, 1280);
    assert_eq!(world.sent("uk").len(), 2);
}

/// More of them than the queue has room for: the rest when it has.
#[test]
fn all_far_ends_are_told_in_the_end() {
    let config = RouterConfig {
        queue_packets: 8,
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, &[("uk", &["10.6.0.2/32", "fd00:6::2/128"])]);
    world.rule_for_all("uk");
    width(&mut world, 1440);
    for port in 0..30 {
        connect(&mut world, "192.0.2.9", 5000 + port);
    }
    width(&mut world, 1300);
    let mut told = Vec::new();
    for _ in 0..10 {
        told.extend(world.sent("uk"));
        world.advance(std::time::Duration::from_millis(5));
    }
    let mut ports: Vec<u16> = told
        .iter()
        .map(|bytes| {
            let parsed = Parsed::from_bytes(bytes).unwrap();
            let quoted = vpn_core::packet::Quoted::of(bytes, &parsed).unwrap();
            quoted.flow.dst_port()
        })
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, (5000..5030).collect::<Vec<_>>());
}
