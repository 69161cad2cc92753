//! The messages that tell a sender its packet may not pass, read by another parser.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use bytes::BytesMut;
use etherparse::{Icmpv4Type, Icmpv6Type, SlicedPacket, TransportSlice};
use vpn_core::Packet;
use vpn_core::packet::{Complaint, IcmpError};
use vpn_core::testing::build::{self, Echo};

fn about(packet: &[u8]) -> Option<Vec<u8>> {
    let parsed = Packet::from_slice(packet).parse().unwrap();
    let mut out = BytesMut::new();
    IcmpError::new(Complaint::Prohibited, packet, &parsed)?.write(&mut out);
    Some(out.to_vec())
}

#[test]
fn both_families_say_it_with_right_checksums_and_bounded_quotes() {
    let long = vec![7; 3000];
    for payload in [&long[..9], &long[..1201], &long] {
        let v4 = build::udp("10.5.0.2:5000", "203.0.113.10:9", payload);
        let message = about(&v4).unwrap();
        assert!(message.len() <= IcmpError::LONGEST_V4);
        let sliced = SlicedPacket::from_ip(&message).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else {
            panic!("{sliced:?}");
        };
        assert!(matches!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::FilterProhibited
            )
        ));
        let checksum = icmp.header().icmp_type.calc_checksum(icmp.payload());
        assert_eq!(icmp.checksum(), checksum);
        assert!(v4.starts_with(icmp.payload()));
        let v6 = build::udp("[fd00::2]:5000", "[2001:db8::1]:9", payload);
        let message = about(&v6).unwrap();
        assert!(message.len() <= IcmpError::LONGEST_V6);
        let sliced = SlicedPacket::from_ip(&message).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else {
            panic!("{sliced:?}");
        };
        assert!(matches!(
            icmp.icmp_type(),
            Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::Prohibited)
        ));
        let (src, dst) = ("2001:db8::1", "fd00::2");
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert!(icmp.is_checksum_valid(octets(src), octets(dst)));
        assert!(v6.starts_with(icmp.payload()));
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let ping = build::icmp_echo("10.5.0.2", "203.0.113.10", Echo::Request, 1, 1, b"");
    assert!(about(&ping).is_some());
    let error = build::icmp("10.5.0.2", "203.0.113.10", 3, 1, 0, &ping);
    assert!(about(&error).is_none());
    let redirect = build::icmp("10.5.0.2", "203.0.113.10", 9, 0, 0, &ping);
    assert!(about(&redirect).is_none());
    let multicast = build::udp("10.5.0.2:1", "224.0.0.1:1", b"");
    assert!(about(&multicast).is_none());
}
