//! Members and hubs by UDP and TLS on loopback.

use super::*;

#[tokio::test]
async fn members_of_udp_and_tls_reach_each_other_and_nothing_is_left_after_close() {
    let server = started(open(), TlsLimits::default());
    let mut members = Vec::new();
    for (n, tls) in [false, false, true, true].into_iter().enumerate() {
        members.push(Live::member(&server, &format!("10.77.0.{}", n + 1), tls).await);
    }
    for from in &members {
        for to in members.iter().filter(|to| to.tag() != from.tag()) {
            from.relays(to, &[4; 1000]).await;
        }
    }
    let status = server.status();
    assert_eq!(
        (status.hub.online, status.hub.relayed_packets, status.unsent),
        (4, 12, 0)
    );
    assert!(status.streams >= 2);
    let at = server.local_addrs().to_vec();
    server.close().await;
    server.close().await;
    assert!(server.shared.upgrade().is_none());
    assert_eq!(server.status().streams, 0);
    Listen::on(&at, true).unwrap();
    let Live { mut node, wire } = members.remove(0);
    let said = wire.receive().await;
    let Opened::Packet(plain) = node.session.as_mut().unwrap().open(said) else {
        panic!("no bye");
    };
    assert_eq!(ToMember::from_plain(&plain), Some(ToMember::Bye));
}

#[tokio::test]
async fn one_hub_joins_another_and_their_members_reach_each_other() {
    let identities = [1, 2].map(|n| Identity::from_bytes(&[n; 32]));
    let listen = || Listen::on(&["127.0.0.1:0".parse().unwrap()], true).unwrap();
    let mut neighbour = Neighbour::new(identities[1].id());
    let far = HubConfig {
        neighbours: vec![neighbour.clone()],
        ..open()
    };
    let far = HubServer::start(far, TlsLimits::default(), &identities[0], listen()).unwrap();
    neighbour.key = identities[0].id();
    neighbour.endpoints = far.local_addrs().to_vec();
    let near = HubConfig {
        neighbours: vec![neighbour],
        ..open()
    };
    let near = HubServer::start(near, TlsLimits::default(), &identities[1], listen()).unwrap();
    let joined = async {
        while [&near, &far]
            .map(|hub| hub.neighbours()[0].origin)
            .contains(&None)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, joined).await.unwrap();
    let mut a = Live::member(&near, "10.77.0.1", false).await;
    let b = Live::member(&far, "10.77.0.2", false).await;
    let what = What::Peer(b.node.identity.id().0);
    let mut found = ToMember::NotFound { id: 1 };
    while matches!(found, ToMember::NotFound { .. }) {
        found = a.ask(&ToHub::Find { id: 1, what }).await;
    }
    assert!(
        matches!(found, ToMember::Found { online: true, .. }),
        "{found:?}"
    );
    a.wire.send(&a.node.relay(b.tag(), &[4; 1000])).await;
    let mut expected = b.node.relay(a.tag(), &[4; 1000]);
    // How many hubs it passed.
    expected[2] = 1;
    assert_eq!(b.wire.receive().await, expected);
    near.close().await;
    far.close().await;
}

/// A hub with several addresses: a connected socket, like a NAT and a node itself, takes nothing from
/// any other than the one it asked at.
#[tokio::test]
async fn members_are_answered_from_where_they_asked() {
    let identity = Identity::generate().unwrap();
    let listen = Listen::on(&["0.0.0.0:0".parse().unwrap()], false).unwrap();
    let server = HubServer::start(open(), TlsLimits::default(), &identity, listen).unwrap();
    let port = server.local_addrs()[0].port();
    let mut members = Vec::new();
    for n in 1..=3 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .connect((format!("127.0.0.{n}"), port))
            .await
            .unwrap();
        let mut node = Node::new(Origin::Tls(0), &[&format!("10.77.0.{n}")]);
        node.record.expires = unix() + 3600;
        members.push(Live::by(node, Wire::Udp(socket)).await);
    }
    for from in &members {
        for to in members.iter().filter(|to| to.tag() != from.tag()) {
            from.relays(to, &[4; 1000]).await;
        }
    }
    server.close().await;
}

#[tokio::test]
async fn a_burst_arrives_whole_and_in_order() {
    let server = started(open(), TlsLimits::default());
    let a = Live::member(&server, "10.77.0.1", false).await;
    let b = Live::member(&server, "10.77.0.2", false).await;
    let Wire::Udp(socket) = a.wire else {
        panic!("datagrams");
    };
    let sender = Udp::new(socket.into_std().unwrap()).unwrap();
    let burst = |round: u8| -> Vec<u8> {
        let datagram = |n: u8| {
            let length = if n == 19 { 300 } else { 1000 };
            let content = [&[4, round, n][..], &vec![n; length]].concat();
            a.node.relay(b.tag(), &content)
        };
        (0..20).flat_map(datagram).collect()
    };
    for round in 0..10 {
        let burst = burst(round);
        assert_eq!(
            sender.forward(None, server.local_addrs()[0], &burst, 1015),
            0
        );
        for mut expected in burst.chunks(1015).map(<[u8]>::to_vec) {
            expected[4..12].copy_from_slice(&a.node.tag().0);
            assert!(b.wire.receive().await == expected);
        }
    }
    assert_eq!(server.status().hub.relayed_packets, 200);
    server.close().await;
}

#[tokio::test]
async fn through_a_flood_of_hellos_members_are_relayed_and_nobody_gets_more_than_he_sent() {
    let server = started(open(), TlsLimits::default());
    let a = Live::member(&server, "10.77.0.1", false).await;
    let b = Live::member(&server, "10.77.0.2", true).await;
    let to = server.local_addrs()[0];
    let mut sockets = Vec::new();
    for n in 0..100 {
        let socket = UdpSocket::bind(format!("127.0.1.{n}:0")).await.unwrap();
        sockets.push(socket);
    }
    let (mut asked, mut answered) = (0, 0);
    let hello = Frame::Hello { nonce: 1 }.to_bytes();
    let join = Frame::Join {
        cookie: [1; 16],
        record: &[7; 500],
    }
    .to_bytes();
    for round in 0..60_u8 {
        for socket in &sockets {
            for datagram in [&hello[..], &join, &[1; 148], &[4; 40]] {
                asked += socket.send_to(datagram, to).await.unwrap();
            }
        }
        a.relays(&b, &[4, round]).await;
        b.relays(&a, &[4, round]).await;
    }
    for socket in &sockets {
        let mut buffer = [0; 2048];
        while let Ok(count) = socket.try_recv(&mut buffer) {
            assert!(count <= HELLO);
            answered += count;
        }
    }
    assert!(answered > 0 && answered <= asked, "{answered} of {asked}");
    let status = server.status();
    assert_eq!((status.hub.members, status.hub.provisional), (2, 0));
    server.close().await;
}

/// L-27: connections that nobody went on with filled a table.
#[tokio::test]
async fn streams_are_bounded_before_anything_is_known_of_them() {
    let limits = TlsLimits {
        per_address: 4,
        greeting_time: Duration::from_millis(300),
        stranger_time: Duration::from_millis(300),
        ..TlsLimits::default()
    };
    let server = started(open(), limits);
    let to = server.local_addrs()[0];
    let idle: Vec<StdTcp> = (0..10).map(|_| StdTcp::connect(to).unwrap()).collect();
    let until = |done: fn(&ServerStatus) -> bool| {
        let server = &server;
        let looked = async move {
            while !done(&server.status()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looked)
    };
    until(|status| status.refused_streams >= 6).await.unwrap();
    assert!(server.status().streams <= 4);
    // They say nothing, and are not waited for.
    until(|status| status.refused_streams == 10 && status.streams == 0)
        .await
        .unwrap();
    // One that greets, and then is no member.
    let stranger = Identity::generate().unwrap();
    let wire = Wire::tls(&server, &stranger).await;
    assert!(server.status().streams > 0);
    let Wire::Tls(pool) = &wire else {
        panic!("streams");
    };
    let mut state = pool.state();
    let ended = async { while matches!(state.next().await, TransportState::Up(_)) {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    drop(idle);
    pool.close().await;
    server.close().await;
}
