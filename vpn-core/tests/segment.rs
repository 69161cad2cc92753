//! Cutting super-packets: nothing is lost, every segment is complete, and etherparse agrees.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use vpn_core::packet::segment::{SegmentError, Segments, complete_checksum, split};
use vpn_core::packet::{BufferPool, Gso, Offload, Packet, tcp_flags};
use vpn_core::testing::{build, verify_checksums};

fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<([u8; 4], u16, [u8; 4], u16)>()
        .prop_map(|(a, p, b, q)| ((IpAddr::from(a), p).into(), (IpAddr::from(b), q).into()));
    let v6 = any::<([u8; 16], u16, [u8; 16], u16)>()
        .prop_map(|(a, p, b, q)| ((IpAddr::from(a), p).into(), (IpAddr::from(b), q).into()));
    prop_oneof![v4, v6]
}

fn cut(packet: &Packet) -> Vec<Packet> {
    let mut out = Vec::new();
    let mut pool = BufferPool::new(4, 1500);
    let count = split(packet, &mut pool, |segment| out.push(segment)).unwrap();
    assert_eq!(count, out.len());
    assert_eq!(count, packet.segments());
    out
}

/// etherparse computes the checksum anew: an oracle that shares no code with ours.
fn assert_complete(bytes: &[u8]) {
    verify_checksums(bytes).unwrap();
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let net = sliced.net.unwrap();
    let transport = sliced.transport.unwrap();
    let (found, expected) = match (&net, &transport) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let sum = tcp.calc_checksum_ipv4(header.source, header.destination);
            (tcp.checksum(), sum.unwrap())
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let sum = udp
                .to_header()
                .calc_checksum_ipv4_raw(header.source, header.destination, udp.payload())
                .unwrap();
            (udp.checksum(), sum)
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let header = ip.header().to_header();
            let sum = tcp.calc_checksum_ipv6(header.source, header.destination);
            (tcp.checksum(), sum.unwrap())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            let sum = udp
                .to_header()
                .calc_checksum_ipv6_raw(header.source, header.destination, udp.payload())
                .unwrap();
            (udp.checksum(), sum)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(found, expected);
}

proptest! {
    #[test]
    fn tcp_segments_concatenate_to_the_payload(
        (src, dst) in ends(),
        flags: u8,
        sequence: u32,
        size in 1u16..1400,
        payload in prop::collection::vec(any::<u8>(), 0..9000),
        options in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        // Bounded, so that tiny segments do not make thousands of packets.
        let payload = &payload[..payload.len().min(usize::from(size) * 40)];
        let whole = build::tcp_with_options(src, dst, flags, sequence, &options, payload);
        let mut packet = build::partial(&whole);
        packet.offload.gso = Some(Gso { size });
        let segments = cut(&packet);
        let mut joined = Vec::new();
        for (i, segment) in segments.iter().enumerate() {
            assert_complete(segment.bytes());
            prop_assert_eq!(segment.offload, Offload::NONE);
            let sliced = SlicedPacket::from_ip(segment.bytes()).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
            prop_assert_eq!(tcp.sequence_number(), sequence.wrapping_add(joined.len() as u32));
            let (first, last) = (i == 0, i + 1 == segments.len());
            prop_assert_eq!(tcp.psh(), last && flags & tcp_flags::PSH != 0);
            prop_assert_eq!(tcp.fin(), last && flags & tcp_flags::FIN != 0);
            prop_assert_eq!(tcp.cwr(), first && flags & tcp_flags::CWR != 0);
            prop_assert_eq!(tcp.ack(), flags & tcp_flags::ACK != 0);
            prop_assert_eq!(tcp.ece(), flags & 0x40 != 0);
            prop_assert!(last || tcp.payload().len() == usize::from(size));
            if let Some(NetSlice::Ipv4(ip)) = sliced.net {
                prop_assert_eq!(ip.header().identification(), i as u16);
            }
            joined.extend_from_slice(tcp.payload());
        }
        prop_assert_eq!(&joined[..], payload);
    }

    #[test]
    fn udp_datagrams_concatenate_to_the_payload(
        (src, dst) in ends(),
        size in 1u16..1400,
        payload in prop::collection::vec(any::<u8>(), 0..9000),
    ) {
        let payload = &payload[..payload.len().min(usize::from(size) * 40)];
        let packet = build::super_udp(src, dst, size, payload);
        let mut joined = Vec::new();
        for segment in cut(&packet) {
            assert_complete(segment.bytes());
            let sliced = SlicedPacket::from_ip(segment.bytes()).unwrap();
            let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
            prop_assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
            prop_assert_ne!(udp.checksum(), 0);
            joined.extend_from_slice(udp.payload());
        }
        prop_assert_eq!(&joined[..], payload);
    }

    /// The order on the hot path: translated whole, then cut.
    #[test]
    fn a_translated_super_packet_cuts_into_complete_segments(
        (src, dst) in ends(), new: ([u8; 4], [u8; 16], u16), udp: bool, destination: bool,
        payload in prop::collection::vec(any::<u8>(), 0..4000),
    ) {
        // Of the family that the packet has.
        let new = match src.is_ipv4() {
            true => SocketAddr::from((new.0, new.2)),
            false => SocketAddr::from((new.1, new.2)),
        };
        let mut packet = if udp {
            build::super_udp(src, dst, 1000, &payload)
        } else {
            build::super_tcp(src, dst, tcp_flags::ACK, 1, 1000, &payload)
        };
        let parsed = packet.parse().unwrap();
        let to = match destination {
            true => parsed.flow.with_destination(new.ip(), new.port()),
            false => parsed.flow.with_source(new.ip(), new.port()),
        };
        packet.translate(&parsed, &to);
        for segment in cut(&packet) {
            assert_complete(segment.bytes());
        }
    }

    #[test]
    fn a_completed_partial_checksum_is_the_built_one(
        (src, dst) in ends(), udp: bool, payload in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let whole = if udp {
            build::udp(src, dst, &payload)
        } else {
            build::tcp(src, dst, tcp_flags::ACK, 1, &payload)
        };
        let mut packet = build::partial(&whole);
        complete_checksum(&mut packet).unwrap();
        prop_assert_eq!(packet.bytes(), &whole[..]);
        prop_assert_eq!(packet.offload, Offload::NONE);
    }

    #[test]
    fn any_bytes_and_any_offload_give_a_result(
        bytes in prop::collection::vec(any::<u8>(), 0..200), v6: bool, size: u16, partial: bool,
    ) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = if v6 { 0x60 } else { 0x45 };
        }
        let offload = Offload { gso: Some(Gso { size }), partial_checksum: partial };
        let mut packet = Packet::from_slice(&bytes).with_offload(offload);
        let mut out = [0; 300];
        if let Ok(segments) = Segments::new(&packet) {
            for i in 0..segments.count() {
                prop_assert_eq!(segments.write_to(i, &mut out), Some(segments.len_of(i)));
            }
            prop_assert_eq!(segments.write_to(segments.count(), &mut out), None);
        }
        let _ = complete_checksum(&mut packet);
    }
}

#[test]
fn a_computed_udp_checksum_of_zero_is_sent_as_ffff() {
    // Chosen so that the sum is 0xffff: the payload is the complement of the rest.
    let base = build::udp("10.0.0.1:1", "10.0.0.2:2", &[0, 0]);
    let filler = [base[26], base[27]];
    let packet = build::partial(&build::udp("10.0.0.1:1", "10.0.0.2:2", &filler));
    let segments = cut(&packet);
    assert_eq!(segments[0].bytes()[26..28], [0xff, 0xff]);
    let mut packet = packet;
    complete_checksum(&mut packet).unwrap();
    assert_eq!(packet.bytes()[26..28], [0xff, 0xff]);
}

#[test]
fn a_udp_super_packet_without_checksum_stays_without() {
    let mut bytes = build::udp("10.0.0.1:1", "10.0.0.2:2", &[1; 30]);
    bytes[26..28].fill(0);
    let mut packet = Packet::from_slice(&bytes);
    packet.offload.gso = Some(Gso { size: 10 });
    for segment in cut(&packet) {
        assert_eq!(segment.bytes()[26..28], [0, 0]);
    }
}

#[test]
fn what_cannot_be_cut_is_refused_by_name() {
    let ping = build::icmp_echo("10.0.0.1", "10.0.0.2", build::Echo::Request, 1, 1, b"ping");
    let packet = Packet::from_slice(&ping);
    assert!(matches!(
        Segments::new(&packet),
        Err(SegmentError::Protocol(_))
    ));
    let zero = build::super_udp("10.0.0.1:1", "10.0.0.2:2", 0, b"x");
    assert_eq!(Segments::new(&zero).unwrap_err(), SegmentError::ZeroSize);
    let datagram = build::udp("10.0.0.1:1", "10.0.0.2:2", &[0; 3000]);
    for fragment in build::fragments(&datagram, 1500, 1) {
        let packet = Packet::from_slice(&fragment);
        assert_eq!(Segments::new(&packet).unwrap_err(), SegmentError::Fragment);
    }
}
