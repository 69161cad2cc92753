//! RST segments as a foreign parser reads them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use bytes::BytesMut;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use vpn_core::packet::{Packet, TcpMarks, TcpReset};

const FAMILIES: [bool; 2] = [false, true];

/// A segment with these numbers, flags (bits of the flags byte) and payload.
fn segment(v6: bool, numbers: (u32, u32), flags: u8, payload: &[u8]) -> Vec<u8> {
    let ip = match v6 {
        false => PacketBuilder::ipv4([10, 5, 0, 2], [192, 0, 2, 1], 64),
        true => PacketBuilder::ipv6([1; 16], [2; 16], 64),
    };
    let mut tcp = ip.tcp(4000, 443, numbers.0, 1024);
    if flags & 0x10 != 0 {
        tcp = tcp.ack(numbers.1);
    }
    for (bit, set) in [(0x01, 0), (0x02, 1), (0x04, 2)] {
        if flags & bit != 0 {
            tcp = match set {
                0 => tcp.fin(),
                1 => tcp.syn(),
                _ => tcp.rst(),
            };
        }
    }
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, payload).unwrap();
    bytes
}

fn answer(bytes: &[u8]) -> Option<Vec<u8>> {
    let parsed = Packet::from_slice(bytes).parse().unwrap();
    let mut out = BytesMut::new();
    TcpReset::answering(bytes, &parsed)?.write(&mut out);
    Some(out.to_vec())
}

/// The TCP header; every checksum must be right.
fn tcp_of(bytes: &[u8]) -> etherparse::TcpHeader {
    vpn_core::testing::verify_checksums(bytes).unwrap();
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// With an acknowledgment the RST stands where the sender looks; without, it acknowledges.
    #[test]
    fn an_answer_is_exact(
        v6 in any::<bool>(),
        sequence in any::<u32>(),
        acknowledgment in any::<u32>(),
        flags in 0u8..0x20,
        payload in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let flags = flags & 0x13;
        let sent = segment(v6, (sequence, acknowledgment), flags, &payload);
        let answer = answer(&sent).unwrap();
        let header = tcp_of(&answer);
        prop_assert!(header.rst);
        prop_assert_eq!((header.source_port, header.destination_port), (443, 4000));
        let length = payload.len() as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        let next = sequence.wrapping_add(length);
        if flags & 0x10 != 0 {
            prop_assert_eq!((header.sequence_number, header.ack), (acknowledgment, false));
        } else {
            prop_assert_eq!((header.sequence_number, header.ack), (0, true));
            prop_assert_eq!(header.acknowledgment_number, next);
        }
        let parsed = Packet::from_slice(&sent).parse().unwrap();
        let marks = TcpMarks::read(&sent, &parsed).unwrap();
        prop_assert_eq!(marks.next, next);
    }
}

#[test]
fn a_reset_is_never_answered() {
    for v6 in FAMILIES {
        assert_eq!(answer(&segment(v6, (1, 2), 0x14, b"")), None);
        assert_eq!(answer(&segment(v6, (1, 2), 0x04, b"")), None);
    }
}
