//! ICMP errors from behind a tunnel, translated with the packet they quote.

use vpn_benches::world::{ASSIGNED, app, remote};
use vpn_core::packet::{Quoted, tcp_flags};
use vpn_core::testing::{build, verify_checksums};
use vpn_routing::router::Egress;

use super::case::Case;
use super::lane::{Lane, assigned, everything, settings};

/// Flows that errors are about.
const FLOWS: u32 = 64;

/// An error about a packet of each flow, as its tunnel carries it.
fn about(name: &'static str, code: u8, rest: u32, tcp: bool) -> Case {
    let mut lane = Lane::new(settings(256), vec![assigned(1420)], everything());
    let tunnel = lane.tunnel(0);
    let packet = |from: (std::net::IpAddr, u16), flow| match tcp {
        true => build::tcp(from, remote(flow), tcp_flags::SYN, 1, &[]),
        false => build::udp(from, remote(flow), &[0; 64]),
    };
    let hop = build::IntoAddr::into_addr("198.51.100.1");
    let error = |flow| {
        let wire = packet((ASSIGNED.into(), app(flow).1), flow);
        build::icmp(hop, std::net::IpAddr::from(ASSIGNED), 3, code, rest, &wire)
    };
    let errors: Vec<_> = (0..FLOWS).map(error).collect();
    for (flow, error) in (0..).zip(&errors) {
        let sent = packet(app(flow), flow);
        assert_eq!(lane.pass(Egress::Device, [&sent[..]]).len(), 1);
        let got = lane.pass(tunnel, [&error[..]]);
        assert_eq!(got.len(), 1);
        let bytes = got[0].bytes();
        assert!(verify_checksums(bytes).is_ok());
        let quoted = got[0].parse().ok().and_then(|p| Quoted::of(bytes, &p));
        let quoted = quoted.map(|q| (q.flow.src(), q.flow.src_port()));
        assert_eq!(quoted, Some(app(flow)), "as its application sent it");
    }
    Case::new(name, lane, move |lane, count| {
        for error in &errors[..count as usize] {
            lane.put(error);
        }
        lane.route(tunnel);
    })
}

/// The two that matter most: a closed port, and path MTU discovery.
pub(crate) fn errors() -> Vec<Case> {
    vec![
        about("port unreachable, about a datagram", 3, 0, false),
        about("fragmentation needed, about a segment", 4, 1280, true),
    ]
}
