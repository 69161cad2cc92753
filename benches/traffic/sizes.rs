//! Datagrams in fragments, and packets larger than their tunnel carries.

use std::time::Duration;

use vpn_benches::world::{ASSIGNED, app, remote};
use vpn_core::packet::{Packet, tcp_flags};
use vpn_core::testing::{build, verify_checksums};
use vpn_routing::router::Egress;

use super::case::Case;
use super::lane::{Lane, assigned, everything, settings};

/// Bytes of payload of a datagram in fragments: an NFS read, or EDNS without restraint.
const DATAGRAM: usize = 8000;

/// Fragments of one, at 1,400 bytes each.
const FRAGMENTS: u64 = 6;

/// Datagrams at a time: a batch holds their fragments.
const DATAGRAMS: u64 = 10;

/// Senders that are told in one go: fewer than the router tells at once.
const TOLD: u64 = 32;

fn wire() -> (std::net::IpAddr, u16) {
    (ASSIGNED.into(), app(0).1)
}

fn lane(mtu: u16) -> Lane {
    Lane::new(settings(1600), vec![assigned(mtu)], everything())
}

/// Without the IP header.
fn bodies<'a>(packets: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    packets
        .into_iter()
        .flat_map(|p| &p[20..])
        .copied()
        .collect()
}

/// A datagram of 8,000 bytes in six fragments, both ways.
pub(crate) fn fragments() -> Vec<Case> {
    let payload: Vec<u8> = (0..DATAGRAM).map(|i| i as u8).collect();
    let whole = build::udp(app(0), remote(0), &payload);
    let answer = build::udp(remote(0), wire(), &payload);
    let parts = |whole: &[u8], id| build::fragments(whole, 1400, id);
    let expected = build::udp(wire(), remote(0), &payload);
    let mut lanes = [lane(1420), lane(1420), lane(1420)];
    let tunnel = lanes[0].tunnel(0);
    for lane in &mut lanes {
        let sent = parts(&whole, 1);
        assert_eq!(sent.len() as u64, FRAGMENTS);
        let got = lane.pass(Egress::Device, sent.iter().map(Vec::as_slice));
        assert_eq!(
            bodies(got.iter().map(Packet::bytes)),
            bodies([&expected[..]])
        );
        // The other way the first comes last, and leaves first.
        let sent = parts(&answer, 1);
        let got = lane.pass(tunnel, sent.iter().rev().map(Vec::as_slice));
        assert_eq!(got.len() as u64, FRAGMENTS);
    }
    let case = |name, lane, from, whole: Vec<u8>, reverse: bool| {
        let mut id = 2;
        let turn = move |lane: &mut Lane, count| {
            for _ in 0..count {
                let mut list = parts(&whole, id);
                id += 1;
                if reverse {
                    list.reverse();
                }
                list.iter().for_each(|part| lane.put(part));
            }
            lane.route(from);
        };
        Case::new(name, lane, turn)
            .packets(FRAGMENTS, FRAGMENTS)
            .step(DATAGRAMS)
    };
    let [out, back, reverse] = lanes;
    vec![
        case("fragment out, in order", out, Egress::Device, whole, false).allocates(),
        case("fragment in, in order", back, tunnel, answer.clone(), false).allocates(),
        case(
            "fragment in, the first comes last",
            reverse,
            tunnel,
            answer,
            true,
        )
        .allocates(),
    ]
}

/// Packets of 1,400 bytes for a tunnel that carries 1,280.
pub(crate) fn too_large() -> Vec<Case> {
    let datagram = build::udp(app(0), remote(0), &[7; 1372]);
    // Without "don't fragment".
    let may_be_cut = build::fragments(&datagram, datagram.len(), 1).remove(0);
    let mut cut = lane(1280);
    let got = cut.pass(Egress::Device, [&may_be_cut[..]]);
    assert!(got.len() == 2 && got.iter().all(|p| p.len() <= 1280));
    let segment = build::tcp(app(1), remote(1), tcp_flags::ACK, 2, &[7; 1360]);
    let syn = build::tcp(app(1), remote(1), tcp_flags::SYN, 1, &[]);
    let mut told = lane(1280);
    assert_eq!(told.pass(Egress::Device, [&syn[..]]).len(), 1);
    let got = told.pass(Egress::Device, [&segment[..]]);
    let says: Vec<_> = got.iter().map(|p| p.bytes()[20..22].to_vec()).collect();
    assert_eq!(says, [[3, 4]], "fragmentation needed");
    assert!(verify_checksums(got[0].bytes()).is_ok());
    vec![
        Case::new("too large, cut in two", cut, move |lane, count| {
            (0..count).for_each(|_| lane.put(&may_be_cut));
            lane.route(Egress::Device);
        })
        .packets(1, 2)
        .allocates(),
        Case::new("too large, its sender is told", told, move |lane, count| {
            // Who sends a flood is not answered by one: the router tells 100 a second.
            lane.wait(Duration::from_secs(1));
            (0..count).for_each(|_| lane.put(&segment));
            lane.route(Egress::Device);
        })
        .step(TOLD),
    ]
}
