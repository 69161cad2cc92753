//! What a router does to packets on their way: errors about them translated, segment sizes
//! lowered, datagrams cut. Against full recomputation, and etherparse as oracle.

#![allow(clippy::unwrap_used, reason = "a failing test says so")]

use std::net::IpAddr;

use bytes::BytesMut;
use proptest::prelude::*;
use vpn_core::packet::{
    Complaint, IcmpError, Packet, Parsed, Quoted, Requote, clamp_mss, tcp_flags,
};
use vpn_core::testing::{build, verify_checksums};
use vpn_core::{FlowKey, Protocol};

fn error_about(complaint: Complaint, about: &[u8]) -> Vec<u8> {
    let parsed = Parsed::from_bytes(about).unwrap();
    let mut out = BytesMut::new();
    IcmpError::new(complaint, about, &parsed)
        .unwrap()
        .write(&mut out);
    out.to_vec()
}

fn addr(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => [10, n, 0, 1].into(),
        true => [0xfd00, u16::from(n), 0, 0, 0, 0, 0, 1].into(),
    }
}

/// A packet as sent, and its key; kinds 0 to 3.
fn sent(kind: u8, v6: bool, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let (src, dst) = ((addr(v6, 1), ports.0), (addr(v6, 2), ports.1));
    match kind {
        0 => build::tcp(src, dst, tcp_flags::ACK, 7, payload),
        1 => build::udp(src, dst, payload),
        2 => build::icmp_echo(src.0, dst.0, build::Echo::Request, ports.0, 7, payload),
        _ => build::ip(src.0, dst.0, Protocol(47), payload),
    }
}

proptest! {
    /// The quote after a translation is the packet that would have been sent over there, byte for
    /// byte as far as it is there, and every checksum is right.
    #[test]
    fn a_translated_quote_is_the_packet_of_the_other_side(
        kind in 0u8..4,
        v6 in any::<bool>(),
        ports in (1u16.., 1u16..),
        new_ports in (1u16.., 1u16..),
        payload in prop::collection::vec(any::<u8>(), 16..1500),
        cut in 28usize..1500,
    ) {
        let about = sent(kind, v6, ports, &payload);
        let header = if v6 { 40 } else { 20 };
        let mut bytes = error_about(Complaint::TooBig { mtu: 1280 }, &about);
        // Some routers quote eight bytes of the transport header and no more.
        let keep = (header + 8 + header + cut).clamp(header + 8 + header + 8, bytes.len());
        bytes = recut(&bytes, keep);
        let mut packet = Packet::from_slice(&bytes);
        let parsed = packet.parse().unwrap();
        let quoted = Quoted::of(packet.bytes(), &parsed).unwrap();
        let (a, b) = (new_ports.0, new_ports.1);
        let old = Parsed::from_bytes(&about).unwrap().flow;
        prop_assert_eq!(quoted.flow, old);
        let there = match kind {
            0 | 1 => old.with_source(addr(v6, 3), a).with_destination(addr(v6, 4), b),
            2 => old.with_source(addr(v6, 3), a).with_destination(addr(v6, 4), 0),
            _ => old.with_source(addr(v6, 3), 0).with_destination(addr(v6, 4), 0),
        };
        let requote = Requote { from: addr(v6, 9), to: addr(v6, 3), flow: there };
        requote.apply(&mut packet, &parsed, &quoted);
        verify_checksums(packet.bytes()).unwrap();
        let parsed = packet.parse().unwrap();
        prop_assert_eq!((parsed.flow.src(), parsed.flow.dst()), (addr(v6, 9), addr(v6, 3)));
        prop_assert_eq!(Quoted::of(packet.bytes(), &parsed).unwrap().flow, there);
        // What was sent over there.
        let mut whole = Packet::from_slice(&about);
        let at = whole.parse().unwrap();
        whole.translate(&at, &there);
        let quote = &packet.bytes()[header + 8..];
        prop_assert_eq!(quote, &whole.bytes()[..quote.len()]);
    }

    /// Any bytes in a quote are read or refused.
    #[test]
    fn any_quote_is_read_or_refused(v6 in any::<bool>(), quote in prop::collection::vec(any::<u8>(), 0..120)) {
        let protocol = if v6 { Protocol::ICMPV6 } else { Protocol::ICMP };
        let kind = if v6 { 1 } else { 3 };
        let bytes = build::icmp(addr(v6, 1), addr(v6, 2), kind, 0, 0, &quote);
        prop_assert_eq!(Parsed::from_bytes(&bytes).unwrap().flow.protocol(), protocol);
        let mut packet = Packet::from_slice(&bytes);
        let parsed = packet.parse().unwrap();
        if let Some(quoted) = Quoted::of(packet.bytes(), &parsed) {
            let flow = FlowKey::new(quoted.flow.protocol(), (addr(v6, 3), 1), (addr(v6, 4), 2));
            Requote { from: addr(v6, 5), to: addr(v6, 6), flow }.apply(&mut packet, &parsed, &quoted);
            verify_checksums(packet.bytes()).unwrap();
        }
    }

    #[test]
    fn a_segment_size_is_lowered_and_the_checksum_stays_right(
        v6 in any::<bool>(),
        mss in any::<u16>(),
        mtu in 600u16..2000,
        odd in 0usize..3,
        partial in any::<bool>(),
    ) {
        let mut options = vec![1u8; odd];
        options.extend([2, 4]);
        options.extend(mss.to_be_bytes());
        options.resize(8, 0);
        let bytes = build::tcp_with_options(
            (addr(v6, 1), 1), (addr(v6, 2), 2), tcp_flags::SYN, 7, &options, &[],
        );
        let mut packet = if partial { build::partial(&bytes) } else { Packet::from_slice(&bytes) };
        let before = packet.bytes().to_vec();
        let parsed = packet.parse().unwrap();
        let changed = clamp_mss(&mut packet, &parsed, mtu);
        let most = mtu - if v6 { 60 } else { 40 };
        prop_assert_eq!(changed, mss > most);
        let at = usize::from(parsed.transport) + 20 + odd + 2;
        let now = u16::from_be_bytes([packet.bytes()[at], packet.bytes()[at + 1]]);
        prop_assert_eq!(now, mss.min(most));
        if partial {
            let sum = usize::from(parsed.transport) + 16;
            prop_assert_eq!(&packet.bytes()[sum..sum + 2], &before[sum..sum + 2]);
        } else {
            verify_checksums(packet.bytes()).unwrap();
        }
    }

    /// Fragments put together are the packet, whatever the MTU, and also when it was a fragment.
    #[test]
    fn fragments_together_are_the_packet(
        payload in prop::collection::vec(any::<u8>(), 1..4000),
        mtu in 68u16..1500,
        first in prop::option::of(600usize..1500),
    ) {
        let whole = build::udp((addr(false, 1), 1), (addr(false, 2), 2), &payload);
        let parts = match first {
            Some(first) => build::fragments(&whole, first, 99),
            None => {
                let mut whole = whole.clone();
                whole[6] &= !0x40;
                whole[10..12].copy_from_slice(&[0, 0]);
                let sum = !vpn_core::packet::checksum::fold(
                    vpn_core::packet::checksum::sum(&whole[..20], 0));
                whole[10..12].copy_from_slice(&sum.to_be_bytes());
                vec![whole]
            }
        };
        let mut together = vec![0u8; whole.len() - 20];
        let mut ends = 0;
        for part in parts {
            for fragment in Packet::from_slice(&part).fragments(mtu).unwrap() {
                let bytes = fragment.bytes();
                prop_assert!(bytes.len() <= usize::from(mtu));
                let ip = etherparse::Ipv4HeaderSlice::from_slice(bytes).unwrap();
                prop_assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
                let at = usize::from(ip.fragments_offset().value()) * 8;
                together[at..at + bytes.len() - 20].copy_from_slice(&bytes[20..]);
                ends += usize::from(!ip.more_fragments());
            }
        }
        prop_assert_eq!(ends, 1);
        prop_assert_eq!(&together[..], &whole[20..]);
    }
}

/// The error with `keep` bytes, its lengths and checksums right.
fn recut(bytes: &[u8], keep: usize) -> Vec<u8> {
    let mut bytes = bytes[..keep].to_vec();
    let v6 = bytes[0] >> 4 == 6;
    let header = if v6 { 40 } else { 20 };
    let (src, dst) = (addr(v6, 2), addr(v6, 1));
    let rest = u32::from_be_bytes(bytes[header + 4..header + 8].try_into().unwrap());
    let (kind, code) = (bytes[header], bytes[header + 1]);
    let quote = bytes.split_off(header + 8);
    build::icmp(src, dst, kind, code, rest, &quote)
}

#[test]
fn what_may_not_be_fragmented_is_not() {
    let whole = build::udp((addr(false, 1), 1), (addr(false, 2), 2), &[0; 2000]);
    let mut dont = whole.clone();
    dont[6] |= 0x40;
    assert!(Packet::from_slice(&dont).fragments(1000).is_none());
    let v6 = build::udp((addr(true, 1), 1), (addr(true, 2), 2), &[0; 2000]);
    assert!(Packet::from_slice(&v6).fragments(1000).is_none());
}

/// N-9: errors with a wrong checksum are not made good.
#[test]
fn a_broken_error_is_not_read() {
    let about = sent(1, false, (1, 2), &[0; 64]);
    let mut bytes = error_about(Complaint::NoRoute, &about);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let parsed = Parsed::from_bytes(&bytes).unwrap();
    assert_eq!(Quoted::of(&bytes, &parsed), None);
}
