//! TCP: exact connections, what outlives its process, interfaces.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use vpn_core::Protocol;
use vpn_core::owner::{Doubt, SocketPart, SocketState};
use vpn_routing::owner::LinuxOwners;

use crate::common::*;

const SITE: &str = "127.0.0.9:80";

fn ends(stream: &TcpStream) -> vpn_core::OwnerQuery {
    let local = stream.local_addr().unwrap().to_string();
    query(
        Protocol::TCP,
        &local,
        &stream.peer_addr().unwrap().to_string(),
    )
}

#[test]
fn two_users_who_share_a_source_port_are_told_apart_by_the_connection() {
    in_namespace(|| {
        let owners = owners();
        let sites = ["127.0.0.9:80", "127.0.0.8:80"];
        let listeners = sites.map(|site| TcpListener::bind(site).unwrap());
        let connect = |uid, site: &str| {
            let socket = shared(Type::STREAM, uid, "127.0.0.1:5000", None);
            socket.connect(&addr(site).into()).unwrap();
            socket
        };
        let (alice, bob) = (connect(ALICE, sites[0]), connect(BOB, sites[1]));
        let asked = sites.map(|site| query(Protocol::TCP, "127.0.0.1:5000", site));
        known(&owners, &asked[0], ALICE, &alice);
        known(&owners, &asked[1], BOB, &bob);
        drop(listeners);
    });
}

/// A SYN has an owner: its socket is found before it is connected.
#[test]
fn a_connection_that_is_not_answered_yet_has_an_owner() {
    in_namespace(|| {
        let owners = owners();
        // A queue of one, full: further SYNs get no answer.
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&addr(SITE).into()).unwrap();
        listener.listen(0).unwrap();
        let _full = TcpStream::connect(SITE).unwrap();
        let opening = shared(Type::STREAM, ALICE, "127.0.0.1:5000", None);
        opening.set_nonblocking(true).unwrap();
        let _ = opening.connect(&addr(SITE).into());
        let asked = query(Protocol::TCP, "127.0.0.1:5000", SITE);
        known(&owners, &asked, ALICE, &opening);
    });
}

#[test]
fn what_no_process_holds_any_more_is_nobodys_and_not_roots() {
    in_namespace(|| {
        let owners = owners();
        let listener = TcpListener::bind(SITE).unwrap();
        let connect = || {
            let client = give(TcpStream::connect(SITE).unwrap(), ALICE);
            (client, listener.accept().unwrap().0)
        };
        // Closed, and not acknowledged by the other side's FIN: FIN-WAIT-2 without a process.
        let (client, server) = connect();
        let asked = ends(&client);
        known(&owners, &asked, ALICE, &client);
        drop(client);
        let evidence = unknown(&owners, &asked, Doubt::Orphaned);
        let [socket] = &evidence.sockets[..] else {
            panic!("{evidence}");
        };
        assert_eq!(socket.part, SocketPart::Orphaned);
        assert_eq!(socket.state, SocketState::Closing);
        // And then TIME-WAIT, of which the kernel says "user 0".
        drop(server);
        let evidence = unknown(&owners, &asked, Doubt::Orphaned);
        assert_eq!(evidence.sockets[0].uid, 0);
        // Closed with data that the other side does not read.
        let (mut client, server) = connect();
        let asked = ends(&client);
        client.set_nonblocking(true).unwrap();
        while client.write(&[0; 64 * 1024]).is_ok() {}
        drop(client);
        unknown(&owners, &asked, Doubt::Orphaned);
        drop(server);
    });
}

/// A half-closed connection is still somebody's.
#[test]
fn a_connection_its_process_still_reads_from_keeps_its_owner() {
    in_namespace(|| {
        let owners = owners();
        let listener = TcpListener::bind(SITE).unwrap();
        let client = give(TcpStream::connect(SITE).unwrap(), ALICE);
        let _server = listener.accept().unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        known(&owners, &ends(&client), ALICE, &client);
    });
}

#[test]
fn a_connection_bound_to_an_interface_is_found_on_that_one_only() {
    in_namespace(|| {
        let listener = TcpListener::bind(SITE).unwrap();
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind_device(Some(b"lo")).unwrap();
        bound.connect(&addr(SITE).into()).unwrap();
        let stream = give(TcpStream::from(bound), BOB);
        known(&owners(), &ends(&stream), BOB, &stream);
        let elsewhere = LinuxOwners::new(LOOPBACK + 1).unwrap();
        unknown(&elsewhere, &ends(&stream), Doubt::NoSocket);
        drop(listener);
    });
}

/// The socket on the wire is one the kernel made; the user's stands behind it.
#[test]
fn multipath_tcp_belongs_to_who_opened_it() {
    in_namespace(|| {
        let owners = owners();
        let listener = TcpListener::bind(SITE).unwrap();
        let kind = Some(SocketProtocol::MPTCP);
        let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, kind) else {
            return skipped("this kernel has no MPTCP");
        };
        let socket = give(socket, ALICE);
        socket.connect(&addr(SITE).into()).unwrap();
        let stream = TcpStream::from(socket);
        let (answer, evidence) = ask(&owners, &ends(&stream));
        assert_eq!(answer.map(|(uid, _)| uid), Some(ALICE), "{evidence}");
        drop(listener);
    });
}

/// R5, N-1: interleaved short connections of two users on the same ports.
#[test]
fn short_connections_of_two_users_never_trade_owners() {
    const CONNECTIONS: u32 = 4000;
    in_namespace(|| {
        let owners = owners();
        let listener = TcpListener::bind(SITE).unwrap();
        for round in 0..CONNECTIONS {
            let uid = if round % 2 == 0 { ALICE } else { BOB };
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            // Ends with a reset, so that its port is free at once.
            socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            socket.set_reuse_address(true).unwrap();
            let port = 5000 + round / 2 % 8;
            let local = format!("127.0.0.1:{port}");
            socket.bind(&addr(&local).into()).unwrap();
            let socket = give(socket, uid);
            socket.connect(&addr(SITE).into()).unwrap();
            known(&owners, &query(Protocol::TCP, &local, SITE), uid, &socket);
            drop(listener.accept().unwrap());
        }
    });
}
