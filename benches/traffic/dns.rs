//! Queries that are steered to the resolver of their tunnel, and their answers.

use vpn_benches::world::{ASSIGNED, app};
use vpn_core::Assigned;
use vpn_core::testing::build;
use vpn_routing::router::Egress;

use super::case::Case;
use super::lane::{Lane, RESOLVER, assigned, everything, settings};

/// The resolver that the tunnel was assigned.
const STEERED_TO: &str = "198.18.1.53:53";

/// Sockets that ask, where each asks often.
const SOCKETS: u32 = 64;

/// Sockets that ask once before all are forgotten and it starts over.
const ROUND: u32 = 4032;

/// A query (RFC 1035 §4.1) for the address of `host0000.example.com`.
fn query(id: u16, host: u32) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [&format!("host{host:04}"), "example", "com"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Its answer: an address for a minute.
fn answer(id: u16, host: u32) -> Vec<u8> {
    let mut message = query(id, host);
    message[2] |= 0x80;
    message[7] = 1;
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend([192, 0, (host >> 8) as u8, host as u8]);
    message
}

fn lane() -> Lane {
    let resolver = build::IntoSocket::into_socket(STEERED_TO).ip();
    let assigned = Assigned {
        dns: vec![resolver],
        ..assigned(1420)
    };
    Lane::new(settings(256), vec![assigned], everything())
}

fn asked(socket: u32, id: u16) -> Vec<u8> {
    build::udp(app(socket), (RESOLVER, 53), &query(id, socket))
}

fn answered(socket: u32, id: u16) -> Vec<u8> {
    let to = (std::net::IpAddr::from(ASSIGNED), app(socket).1);
    build::udp(
        build::IntoSocket::into_socket(STEERED_TO),
        std::net::SocketAddr::from(to),
        &answer(id, socket),
    )
}

/// These sockets ask, and are answered: a query and an answer each.
fn pairs(lane: &mut Lane, sockets: std::ops::Range<u32>, id: u16) {
    let tunnel = lane.tunnel(0);
    sockets
        .clone()
        .for_each(|socket| lane.put(&asked(socket, id)));
    lane.route(Egress::Device);
    sockets.for_each(|socket| lane.put(&answered(socket, id)));
    lane.route(tunnel);
}

/// Pairs of query and answer.
pub(crate) fn dns() -> Vec<Case> {
    let mut first = lane();
    let tunnel = first.tunnel(0);
    let sent = first.pass(Egress::Device, [&asked(0, 1)[..]]);
    let to = sent
        .first()
        .and_then(|p| p.parse().ok())
        .map(|p| p.flow.dst());
    assert_eq!(to, Some(build::IntoSocket::into_socket(STEERED_TO).ip()));
    let got = first.pass(tunnel, [&answered(0, 1)[..]]);
    let from = got
        .first()
        .and_then(|p| p.parse().ok())
        .map(|p| p.flow.src());
    assert_eq!(from, Some(RESOLVER));
    let (mut id, mut next) = (1, 0);
    vec![
        Case::new(
            "query and answer, one socket asks often",
            first,
            move |lane, count| {
                id = u16::wrapping_add(id, 1);
                pairs(lane, 0..(count as u32).min(SOCKETS), id);
            },
        )
        .packets(2, 2)
        .allocates(),
        Case::new(
            "query and answer, a new socket each",
            lane(),
            move |lane, count| {
                if next + count as u32 > ROUND {
                    next = 0;
                    lane.forget();
                }
                pairs(lane, next..next + count as u32, 7);
                next += count as u32;
            },
        )
        .packets(2, 2)
        .allocates(),
    ]
}
