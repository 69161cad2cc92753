//! UDP: shared ports, explicit addresses, interfaces, ports that change hands.

use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};
use vpn_core::Protocol;
use vpn_core::owner::{Doubt, Lookup, SocketPart};
use vpn_routing::owner::LinuxOwners;

use crate::common::*;

const ALICES: &str = "127.0.0.1:5000";
const SITE: &str = "127.0.0.9:53";

/// N-2: the key was the port alone, so that TCP and UDP of one port were one program.
#[test]
fn one_port_of_two_protocols_has_two_owners() {
    in_namespace(|| {
        let owners = owners();
        let listener = std::net::TcpListener::bind(SITE).unwrap();
        let tcp = shared(Type::STREAM, ALICE, ALICES, None);
        tcp.connect(&addr(SITE).into()).unwrap();
        let udp = udp(BOB, ALICES);
        known(&owners, &query(Protocol::TCP, ALICES, SITE), ALICE, &tcp);
        known(&owners, &query(Protocol::UDP, ALICES, SITE), BOB, &udp);
        drop(listener);
    });
}

/// N-1: whoever came first in a table had every flow.
#[test]
fn a_port_that_two_users_share_is_nobodys_until_one_leaves() {
    in_namespace(|| {
        let owners = owners();
        let first = udp(ALICE, ALICES);
        known(&owners, &query(Protocol::UDP, ALICES, SITE), ALICE, &first);
        let second = udp(BOB, ALICES);
        let asked = query(Protocol::UDP, ALICES, SITE);
        let evidence = unknown(&owners, &asked, Doubt::SeveralUsers);
        assert_eq!(evidence.lookups.last(), Some(&Lookup::PortSharers));
        let users: Vec<u32> = evidence.sockets.iter().map(|s| s.uid).collect();
        assert!(users.contains(&ALICE) && users.contains(&BOB), "{evidence}");
        drop(first);
        // Another flow: that one stays nobody's for a moment.
        let other = query(Protocol::UDP, ALICES, "127.0.0.9:54");
        known(&owners, &other, BOB, &second);
    });
}

#[test]
fn a_port_that_is_shared_for_balancing_belongs_to_its_user() {
    in_namespace(|| {
        let owners = owners();
        let balanced = |uid| {
            let socket = give(Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap(), uid);
            socket.set_reuse_port(true).unwrap();
            socket
        };
        let (one, two) = (balanced(ALICE), balanced(ALICE));
        for socket in [&one, &two] {
            socket.bind(&addr(ALICES).into()).unwrap();
        }
        let asked = query(Protocol::UDP, ALICES, SITE);
        // Which of the two cannot be told, and need not be.
        assert_eq!(ask(&owners, &asked).0, Some((ALICE, 0)));
        // A socket can be given away after it was bound.
        let _two = give(two, BOB);
        let next = query(Protocol::UDP, ALICES, "127.0.0.9:54");
        unknown(&owners, &next, Doubt::SeveralUsers);
    });
}

/// A datagram may name its source: Bob, bound to another address, can send what looks like Alice's.
#[test]
fn another_users_socket_at_another_address_of_the_port_is_a_doubt() {
    in_namespace(|| {
        let owners = owners();
        let alice = udp(ALICE, ALICES);
        known(&owners, &query(Protocol::UDP, ALICES, SITE), ALICE, &alice);
        let bob = udp(BOB, "127.0.0.7:5000");
        let next = query(Protocol::UDP, ALICES, "127.0.0.9:54");
        let evidence = unknown(&owners, &next, Doubt::SeveralUsers);
        let bobs = evidence.sockets.iter().find(|s| s.uid == BOB).unwrap();
        assert_eq!(bobs.part, SocketPart::OtherSource);
        drop(bob);
        let own = udp(ALICE, "127.0.0.7:5000");
        let third = query(Protocol::UDP, ALICES, "127.0.0.9:55");
        known(&owners, &third, ALICE, &alice);
        drop(own);
    });
}

/// A connected socket may send to elsewhere all the same.
#[test]
fn another_users_socket_connected_elsewhere_is_a_doubt() {
    in_namespace(|| {
        let owners = owners();
        let alice = udp_to(ALICE, ALICES, SITE);
        let asked = query(Protocol::UDP, ALICES, SITE);
        known(&owners, &asked, ALICE, &alice);
        let bob = udp_to(BOB, ALICES, "127.0.0.8:53");
        unknown(&owners, &asked, Doubt::SeveralUsers);
        drop(bob);
        let mine = udp_to(ALICE, ALICES, "127.0.0.8:53");
        let there = query(Protocol::UDP, ALICES, "127.0.0.8:53");
        known(&owners, &there, ALICE, &mine);
    });
}

#[test]
fn a_socket_bound_to_another_interface_is_not_asked_for_ours() {
    in_namespace(|| {
        let local = "0.0.0.0:5000";
        let bound = udp(BOB, local);
        bound.bind_device(Some(b"lo")).unwrap();
        let here = owners();
        known(&here, &query(Protocol::UDP, ALICES, SITE), BOB, &bound);
        let open = udp(ALICE, local);
        // Either can have sent it on loopback, only one of them elsewhere.
        let next = query(Protocol::UDP, ALICES, "127.0.0.9:54");
        unknown(&here, &next, Doubt::SeveralUsers);
        let elsewhere = LinuxOwners::new(LOOPBACK + 1).unwrap();
        known(&elsewhere, &next, ALICE, &open);
        let evidence = ask(&elsewhere, &next).1;
        let bobs = evidence.sockets.iter().find(|s| s.uid == BOB).unwrap();
        assert_eq!(
            (bobs.device, bobs.part),
            (Some(LOOPBACK), SocketPart::OtherInterface)
        );
    });
}

#[test]
fn a_dual_stack_socket_counts_for_both_families() {
    in_namespace(|| {
        let owners = owners();
        let dual = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        dual.set_only_v6(false).unwrap();
        dual.set_reuse_address(true).unwrap();
        dual.bind(&addr("[::]:5000").into()).unwrap();
        let dual = give(dual, ALICE);
        let (v4, v6) = (
            query(Protocol::UDP, ALICES, SITE),
            query(Protocol::UDP, "[::1]:5000", "[::1]:53"),
        );
        known(&owners, &v4, ALICE, &dual);
        known(&owners, &v6, ALICE, &dual);
        let bobs = udp(BOB, "0.0.0.0:5000");
        unknown(&owners, &v4, Doubt::SeveralUsers);
        known(&owners, &v6, ALICE, &dual);
        drop((dual, bobs));
        // One that is limited to IPv6 is no doubt.
        let only = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        only.set_only_v6(true).unwrap();
        only.bind(&addr("[::]:5000").into()).unwrap();
        let _only = give(only, ALICE);
        let bobs = udp(BOB, "0.0.0.0:5000");
        let next = query(Protocol::UDP, ALICES, "127.0.0.9:54");
        known(&owners, &next, BOB, &bobs);
    });
}

/// N-2: a port kept its first owner for five minutes.
#[test]
fn a_port_that_changes_hands_between_two_packets_changes_owners() {
    /// Enough for any memory by port or flow to show, short enough for every run.
    const ROUNDS: u32 = 2000;
    in_namespace(|| {
        let owners = owners();
        let asked = query(Protocol::UDP, ALICES, SITE);
        let mut before = 0;
        for round in 0..ROUNDS {
            let uid = if round % 2 == 0 { ALICE } else { BOB };
            let socket = match round % 4 {
                0 | 1 => udp(uid, ALICES),
                _ => udp_to(uid, ALICES, SITE),
            };
            known(&owners, &asked, uid, &socket);
            let now = inode(&socket);
            assert_ne!(now, before, "two sockets are told apart");
            before = now;
        }
    });
}

#[test]
fn an_inherited_socket_keeps_its_maker() {
    in_namespace(|| {
        use std::os::unix::process::CommandExt;
        let owners = owners();
        let socket = udp(ALICE, ALICES);
        let number = inode(&socket);
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .stdin(OwnedFd::from(socket))
            .uid(BOB)
            .spawn()
            .unwrap();
        let (answer, evidence) = ask(&owners, &query(Protocol::UDP, ALICES, SITE));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(answer, Some((ALICE, number)), "{evidence}");
    });
}
