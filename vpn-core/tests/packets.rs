//! The parser against etherparse, and translation against full recomputation.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use etherparse::{LaxSlicedPacket, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use vpn_core::packet::{Message, Packet, Parsed, TcpMarks, tcp_flags};
use vpn_core::testing::build::{self, Echo};
use vpn_core::testing::verify_checksums;
use vpn_core::{FlowKey, Protocol};

fn addr(v4: bool) -> BoxedStrategy<IpAddr> {
    if v4 {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    }
}

/// Source, destination, and the address to translate to: one family.
fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr, SocketAddr)> {
    any::<bool>().prop_flat_map(|v4| {
        let end = || (addr(v4), any::<u16>()).prop_map(SocketAddr::from);
        (end(), end(), end())
    })
}

fn packet(kind: u8, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let (a, b) = (src.ip(), dst.ip());
    match kind % 6 {
        0 => build::tcp(src, dst, tcp_flags::ACK, 7, payload),
        1 => build::udp(src, dst, payload),
        2 => build::icmp_echo(a, b, Echo::Request, src.port(), 1, payload),
        3 => build::icmp_echo(a, b, Echo::Reply, dst.port(), 1, payload),
        4 => build::icmp(a, b, 3, 1, 0, payload),
        _ => build::icmp(a, b, 135, 0, 0, payload),
    }
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Source,
    Destination,
    Both,
}

/// The flow with other ends, as far as they are of this side.
fn moved(flow: &FlowKey, side: Side, new: [(IpAddr, u16); 2]) -> FlowKey {
    let ([src, dst], source, destination) = match side {
        Side::Source => (new, true, false),
        Side::Destination => (new, false, true),
        Side::Both => (new, true, true),
    };
    let flow = if source {
        flow.with_source(src.0, src.1)
    } else {
        *flow
    };
    if destination {
        flow.with_destination(dst.0, dst.1)
    } else {
        flow
    }
}

fn sides() -> impl Strategy<Value = Side> {
    prop_oneof![
        Just(Side::Source),
        Just(Side::Destination),
        Just(Side::Both)
    ]
}

/// Translates to another source.
fn from_elsewhere(packet: &mut Packet, addr: IpAddr, port: u16) {
    let parsed = packet.parse().unwrap();
    let to = parsed.flow.with_source(addr, port);
    packet.translate(&parsed, &to);
}

/// IPv6 with these extension headers, each `(protocol, 8-byte units beyond the first)`.
fn extended(chain: &[(u8, u8)], upper: &[u8], protocol: u8) -> Vec<u8> {
    let mut body = Vec::new();
    for (i, (_, units)) in chain.iter().enumerate() {
        let next = chain.get(i + 1).map_or(protocol, |(p, _)| *p);
        let mut header = vec![0; 8 * (usize::from(*units) + 1)];
        (header[0], header[1]) = (next, *units);
        body.extend(header);
    }
    body.extend(upper);
    let first = chain.first().map_or(protocol, |(p, _)| *p);
    build::ip("fd00::1", "fd00::2", Protocol(first), &body)
}

proptest! {
    #[test]
    fn any_bytes_give_a_typed_result(
        bytes in prop::collection::vec(any::<u8>(), 0..200), first: u8,
    ) {
        let mut bytes = bytes;
        if let Some(b) = bytes.first_mut() {
            *b = if first & 1 == 0 { 0x45 | first & 0x0f } else { 0x60 | first & 0x0f };
        }
        if let Ok(parsed) = Parsed::from_bytes(&bytes) {
            prop_assert!(parsed.transport <= parsed.payload);
            prop_assert!(u32::from(parsed.payload) <= parsed.total_len);
            prop_assert!(parsed.total_len as usize <= bytes.len());
        }
        let mut packet = Packet::from_slice(&bytes);
        if let Ok(parsed) = packet.parse() {
            let target = |v4: bool| IpAddr::from_str(if v4 { "192.0.2.9" } else { "fd00::9" }).unwrap();
            for v4 in [true, false] {
                let to = FlowKey::new(parsed.flow.protocol(), (target(v4), 1), (target(v4), 2));
                packet.translate(&parsed, &to);
            }
        }
        prop_assert_eq!(packet.len(), bytes.len());
    }

    /// A well-formed packet with bytes changed: where both accept, both read the same ports.
    #[test]
    fn ports_are_those_of_etherparse(
        (src, dst, _) in ends(), kind: u8,
        damage in prop::collection::vec((0usize..80, any::<u8>()), 0..4), cut in 0usize..100,
    ) {
        let mut bytes = packet(kind, src, dst, b"0123456789abcdef");
        for (at, value) in damage {
            if let Some(b) = bytes.get_mut(at) {
                *b = value;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(80)));
        let Ok(parsed) = Parsed::from_bytes(&bytes) else { return Ok(()) };
        let Ok(sliced) = LaxSlicedPacket::from_ip(&bytes) else { return Ok(()) };
        let ports = match &sliced.transport {
            Some(TransportSlice::Tcp(t)) => Some((t.source_port(), t.destination_port())),
            Some(TransportSlice::Udp(u)) => Some((u.source_port(), u.destination_port())),
            _ => None,
        };
        let ours = matches!(parsed.message, Message::Tcp(_) | Message::Udp)
            .then(|| (parsed.flow.src_port(), parsed.flow.dst_port()));
        if ours.is_some() && ports.is_some() {
            prop_assert_eq!(ours, ports);
        }
        // Strictly well-formed packets are accepted by both, alike.
        if let Ok(strict) = SlicedPacket::from_ip(&bytes)
            && !parsed.first_fragment
            && matches!(strict.transport, Some(TransportSlice::Tcp(_) | TransportSlice::Udp(_)))
        {
            prop_assert_eq!(ours, ports);
        }
    }

    #[test]
    fn translated_checksums_equal_full_recomputation(
        (src, dst, new) in ends(), kind: u8, side in sides(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = packet(kind, src, dst, &payload);
        let mut packet = Packet::from_slice(&bytes);
        let parsed = packet.parse().unwrap();
        // Where there is a port or an identifier.
        let port = |old, new| if old == 0 { 0 } else { new };
        let ports = match parsed.message {
            Message::Tcp(_) | Message::Udp => [new.port(); 2],
            _ => [parsed.flow.src_port(), parsed.flow.dst_port()].map(|old| port(old, new.port())),
        };
        let to = moved(&parsed.flow, side, ports.map(|port| (new.ip(), port)));
        packet.translate(&parsed, &to);
        prop_assert_eq!(verify_checksums(packet.bytes()), Ok(()));
        let translated = packet.parse().unwrap();
        prop_assert_eq!(translated.flow, to);
        prop_assert_eq!(Parsed { flow: parsed.flow, ..translated }, parsed);
        // There and back is identity.
        packet.translate(&translated, &parsed.flow);
        prop_assert_eq!(packet.bytes(), &bytes[..]);
    }

    /// N-9: a port change leaves a partial checksum untouched.
    #[test]
    fn n9_a_port_change_leaves_a_partial_checksum(
        (src, dst, new) in ends(), udp: bool, side in sides(),
    ) {
        let bytes = packet(u8::from(udp), src, dst, b"x");
        let mut packet = build::partial(&bytes);
        let parsed = packet.parse().unwrap();
        let at = usize::from(parsed.transport) + if udp { 6 } else { 16 };
        let before = packet.bytes()[at..at + 2].to_vec();
        let flow = parsed.flow;
        let to = moved(&flow, side, [(flow.src(), new.port()), (flow.dst(), new.port())]);
        packet.translate(&parsed, &to);
        let sum = |b: &[u8]| u16::from_be_bytes([b[0], b[1]]) % 0xffff;
        prop_assert_eq!(sum(&packet.bytes()[at..]), sum(&before));
        prop_assert_eq!(packet.parse().unwrap().flow, to);
    }

    /// N-9: UDP without a checksum stays without.
    #[test]
    fn n9_udp_zero_stays_zero(a: [u8; 4], b: [u8; 4], c: [u8; 4], port: u16, side in sides()) {
        let mut bytes = build::udp((IpAddr::from(a), 1), (IpAddr::from(b), 2), b"x");
        bytes[26..28].fill(0);
        let mut packet = Packet::from_slice(&bytes);
        let parsed = packet.parse().unwrap();
        let to = moved(&parsed.flow, side, [(IpAddr::from(c), port); 2]);
        packet.translate(&parsed, &to);
        prop_assert_eq!(&packet.bytes()[26..28], &[0, 0]);
        prop_assert_eq!(verify_checksums(packet.bytes()), Ok(()));
    }

    /// S-13, N-4: a later fragment has no ports, whatever its payload looks like.
    #[test]
    fn s13_n4_later_fragments_have_no_ports(
        (src, dst, new) in ends(), kind: u8, payload in prop::collection::vec(any::<u8>(), 2000..3000),
    ) {
        let whole = packet(kind, src, dst, &payload);
        for (i, bytes) in build::fragments(&whole, 576, 5).iter().enumerate() {
            let mut packet = Packet::from_slice(bytes);
            let parsed = packet.parse().unwrap();
            prop_assert_eq!(parsed.first_fragment, i == 0);
            prop_assert_eq!(parsed.message == Message::LaterFragment, i > 0);
            if i > 0 {
                prop_assert_eq!((parsed.flow.src_port(), parsed.flow.dst_port()), (0, 0));
                // N-9: translation leaves its payload alone.
                from_elsewhere(&mut packet, new.ip(), new.port());
                prop_assert_eq!(verify_checksums(packet.bytes()), Ok(()));
                let body = usize::from(parsed.transport);
                prop_assert_eq!(&packet.bytes()[body..], &bytes[body..]);
            }
        }
    }

    /// S-13, N-5: extension headers cannot hide a port.
    #[test]
    fn s13_n5_extension_headers_hide_no_port(
        chain in prop::collection::vec((prop::sample::select(vec![0u8, 43, 60, 135, 139, 140]), 0u8..4), 0..=8),
        src_port: u16, dst_port: u16,
    ) {
        let mut upper = vec![0; 8];
        upper[..2].copy_from_slice(&src_port.to_be_bytes());
        upper[2..4].copy_from_slice(&dst_port.to_be_bytes());
        upper[5] = 8;
        let parsed = Parsed::from_bytes(&extended(&chain, &upper, 17)).unwrap();
        prop_assert_eq!(parsed.message, Message::Udp);
        prop_assert_eq!((parsed.flow.src_port(), parsed.flow.dst_port()), (src_port, dst_port));
    }
}

#[test]
fn s13_a_chain_too_long_is_refused_not_passed() {
    let chain = [(60, 0); 9];
    assert!(Parsed::from_bytes(&extended(&chain, &[0, 1, 0, 2, 0, 8, 0, 0], 17)).is_err());
}

#[test]
fn n9_a_computed_udp_checksum_of_zero_becomes_ffff() {
    // The new source port is the one that brings the sum to 0xffff.
    let bytes = build::udp("10.0.0.1:0", "10.0.0.2:2", b"x");
    let port = u16::from_be_bytes([bytes[26], bytes[27]]);
    let mut packet = Packet::from_slice(&bytes);
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    from_elsewhere(&mut packet, ip, port);
    assert_eq!(packet.bytes()[26..28], [0xff, 0xff]);
    assert_eq!(verify_checksums(packet.bytes()), Ok(()));
}

/// Found by the fuzzer `parse`.
#[test]
fn the_checksum_of_an_echo_reply_of_zeros_is_ffff() {
    let here: IpAddr = "10.5.0.2".parse().unwrap();
    let there: IpAddr = "203.0.113.10".parse().unwrap();
    let bytes = build::icmp_echo(there, here, Echo::Reply, 0, 0, &[0; 32]);
    let mut packet = Packet::from_slice(&bytes);
    let before = packet.parse().unwrap();
    packet.translate(&before, &before.flow.with_destination(here, 40_000));
    let parsed = packet.parse().unwrap();
    packet.translate(&parsed, &before.flow);
    assert_eq!(verify_checksums(packet.bytes()), Ok(()));
    assert_eq!(packet.bytes(), bytes);
}

proptest! {
    /// What is read and written without a detour is what is read and written with one.
    #[test]
    fn a_plain_packet_is_what_any_packet_is(
        ports: (u16, u16, u16, u16), addresses: ([u8; 4], [u8; 4], [u8; 4], [u8; 4]),
        kind in 0u8..2, partial: bool, zero: bool,
        payload in prop::collection::vec(any::<u8>(), 0..100),
        damage in prop::collection::vec((0usize..60, any::<u8>()), 0..3), cut in 0usize..8,
    ) {
        let end = |addr: [u8; 4], port| SocketAddr::from((addr, port));
        let (a, b) = (end(addresses.0, ports.0), end(addresses.1, ports.1));
        let mut bytes = packet(kind, a, b, &payload);
        if zero && kind == 1 {
            bytes[26..28].fill(0);
        }
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(bytes.len() - cut.saturating_sub(5));
        let mut packet = Packet::from_slice(&bytes);
        packet.offload.partial_checksum = partial;
        let parsed = packet.parse();
        let Some(mut plain) = packet.plain() else { return Ok(()) };
        let parsed = parsed.unwrap();
        prop_assert_eq!(plain.flow(), parsed.flow);
        prop_assert_eq!(plain.message(), parsed.message);
        prop_assert_eq!(plain.total_len(), parsed.total_len as usize);
        prop_assert!(!parsed.first_fragment);
        if let Message::Tcp(flags) = parsed.message
            && flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::ACK) == tcp_flags::ACK
        {
            prop_assert_eq!(Some(plain.marks()), TcpMarks::read(&bytes, &parsed));
        }
        let to = parsed
            .flow
            .with_source(IpAddr::from(addresses.2), ports.2)
            .with_destination(IpAddr::from(addresses.3), ports.3);
        plain.translate(&to);
        let mut other = Packet::from_slice(&bytes);
        other.offload.partial_checksum = partial;
        other.translate(&parsed, &to);
        prop_assert_eq!(packet.bytes(), other.bytes());
    }

    /// And there is nothing to be said against most packets.
    #[test]
    fn most_packets_are_plain((src, dst, _) in ends(), kind in 0u8..2, payload in prop::collection::vec(any::<u8>(), 12..100)) {
        let mut packet = Packet::from_slice(&packet(kind, src, dst, &payload));
        prop_assert_eq!(packet.plain().is_some(), src.is_ipv4());
    }
}
