//! ICMP and other protocols without ports: ping and raw sockets.

use std::time::Instant;

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use vpn_core::owner::{Doubt, Lookup};
use vpn_core::{OwnerAnswer, OwnerResolver, Protocol};

use vpn_routing::owner::UNKNOWN_FOR;

use crate::common::*;

/// Lets every group open ping sockets, in this namespace.
fn allow_ping() {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
}

/// The families: protocol, our end with the identifier, the other end, the socket's protocol.
const FAMILIES: [(Protocol, &str, &str, SocketProtocol); 2] = [
    (
        Protocol::ICMP,
        "127.0.0.1:4711",
        "127.0.0.9:0",
        SocketProtocol::ICMPV4,
    ),
    (
        Protocol::ICMPV6,
        "[::1]:4711",
        "[::1]:0",
        SocketProtocol::ICMPV6,
    ),
];

#[test]
fn a_ping_belongs_to_the_identifier_and_a_shared_one_to_nobody() {
    in_namespace(|| {
        allow_ping();
        let owners = owners();
        for (protocol, local, remote, kind) in FAMILIES {
            let ping = |uid, local: &str| shared(Type::DGRAM, uid, local, Some(kind));
            let alice = ping(ALICE, local);
            let bobs = local.replace("4711", "4712");
            let bob = ping(BOB, &bobs);
            known(&owners, &query(protocol, local, remote), ALICE, &alice);
            known(&owners, &query(protocol, &bobs, remote), BOB, &bob);
            // Both reuse the address: the kernel allows it.
            let _too = ping(BOB, local);
            let other = remote.replace("127.0.0.9", "127.0.0.8");
            let asked = query(protocol, local, &other);
            let evidence = unknown(&owners, &asked, Doubt::SeveralUsers);
            assert_eq!(evidence.lookups, [Lookup::EchoSockets]);
        }
    });
}

#[test]
fn a_raw_socket_sends_what_no_ping_socket_does() {
    in_namespace(|| {
        allow_ping();
        let owners = owners();
        for (protocol, local, remote, kind) in FAMILIES {
            let domain = Domain::for_address(addr(local));
            let raw = |uid| give(Socket::new(domain, Type::RAW, Some(kind)).unwrap(), uid);
            let alice = raw(ALICE);
            let asked = query(protocol, local, remote);
            known(&owners, &asked, ALICE, &alice);
            // Who has the identifier as a ping socket is meant: raw sockets choose any.
            let ping = shared(Type::DGRAM, BOB, local, Some(kind));
            known(&owners, &asked, BOB, &ping);
            drop(ping);
            let _bob = raw(BOB);
            let evidence = unknown(&owners, &asked, Doubt::SeveralUsers);
            assert_eq!(evidence.lookups, [Lookup::EchoSockets, Lookup::RawSockets]);
        }
    });
}

#[test]
fn a_protocol_without_ports_belongs_to_its_raw_socket() {
    const GRE: Protocol = Protocol(47);
    in_namespace(|| {
        let owners = owners();
        let asked = query(GRE, "127.0.0.1:0", "127.0.0.9:0");
        let before = Instant::now();
        unknown(&owners, &asked, Doubt::NoSocket);
        let kind = Some(SocketProtocol::from(i32::from(GRE.0)));
        let gre = give(Socket::new(Domain::IPV4, Type::RAW, kind).unwrap(), ALICE);
        let next = query(GRE, "127.0.0.1:0", "127.0.0.8:0");
        known(&owners, &next, ALICE, &gre);
        // For a moment what was looked up in vain stays as it was: a flood is cheap.
        let again = owners.resolve(&asked);
        if before.elapsed() < UNKNOWN_FOR {
            assert_eq!(again, OwnerAnswer::Unknown);
        }
    });
}
