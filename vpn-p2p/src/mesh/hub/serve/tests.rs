//! The server on loopback, counted.

use std::net::TcpStream as StdTcp;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpSocket, UdpSocket};
use vpn_core::{DropCounters, Packet, PacketBatch, TransportState};

use super::work::{WAITING, Work};
use super::*;
use crate::mesh::hub::Neighbour;
use crate::mesh::hub::tests::neighbours::with_neighbours;
use crate::mesh::hub::tests::{Node, UNIX, World, open, token};
use crate::mesh::keys::Keys as _;
use crate::mesh::tls::TlsOpener;
use crate::mesh::wire::frame::{FAR, HELLO, carry_header, is_frame, relay_header};
use crate::mesh::wire::{Between, Frame, Plain as _, Tag, ToHub, ToMember, What};
use crate::session::Opened;
use crate::streams::{Budget, Contents, PoolConfig, StreamPool};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn started(config: HubConfig, limits: TlsLimits) -> HubServer {
    let identity = Identity::generate().unwrap();
    let listen = Listen::on(&["127.0.0.1:0".parse().unwrap()], true).unwrap();
    HubServer::start(config, limits, &identity, listen).unwrap()
}

/// Over what a node speaks.
enum Wire {
    Udp(UdpSocket),
    Tls(StreamPool),
}

impl Wire {
    async fn udp(server: &HubServer) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server.local_addrs()[0]).await.unwrap();
        Self::Udp(socket)
    }

    async fn tls(server: &HubServer, identity: &Identity) -> Self {
        let to = server.local_addrs().to_vec();
        let opener = TlsOpener::new(identity, server.id(), to, |_| TcpSocket::new_v4()).unwrap();
        let config = PoolConfig {
            contents: Contents::Opaque,
            ..PoolConfig::default()
        };
        let pool = StreamPool::connect(Arc::new(opener), config, Budget::new(8 << 20)).unwrap();
        let mut state = pool.state();
        while !matches!(state.next().await, TransportState::Up(_)) {}
        Self::Tls(pool)
    }

    async fn send(&self, datagram: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(datagram).await.unwrap(), datagram.len()),
            Self::Tls(pool) => {
                let mut batch = PacketBatch::new(1, 65_535);
                batch.push(Packet::from_slice(datagram)).unwrap();
                let mut drops = DropCounters::default();
                while pool.try_send(&mut batch, &mut drops).unwrap() == 0 {
                    pool.writable().await.unwrap();
                }
            }
        }
    }

    async fn receive(&self) -> BytesMut {
        let received = async {
            match self {
                Self::Udp(socket) => {
                    let mut buffer = [0; 65_535];
                    let count = socket.recv(&mut buffer).await.unwrap();
                    BytesMut::from(&buffer[..count])
                }
                Self::Tls(pool) => loop {
                    let mut batch = PacketBatch::new(1, 65_535);
                    pool.readable().await.unwrap();
                    if pool.try_recv(&mut batch).unwrap() > 0 {
                        return BytesMut::from(batch.packets()[0].bytes());
                    }
                },
            }
        };
        tokio::time::timeout(PATIENCE, received).await.unwrap()
    }
}

/// A member, by whatever wire.
struct Live {
    node: Node,
    wire: Wire,
}

impl Live {
    async fn member(server: &HubServer, address: &str, tls: bool) -> Self {
        let mut node = Node::new(Origin::Tls(0), &[address]);
        node.record.expires = unix() + 3600;
        let wire = match tls {
            true => Wire::tls(server, &node.identity).await,
            false => Wire::udp(server).await,
        };
        Self::by(node, wire).await
    }

    async fn by(mut node: Node, wire: Wire) -> Self {
        wire.send(&Frame::Hello { nonce: 1 }.to_bytes()).await;
        let welcome = wire.receive().await;
        let Ok(Frame::Welcome { cookie, record, .. }) = Frame::read(&welcome) else {
            panic!("no welcome");
        };
        let hub = crate::mesh::SignedRecord::from_bytes(record, unix()).unwrap();
        let mut session = node.keys.session(hub.record().session);
        let record = node.signed();
        wire.send(
            &Frame::Join {
                cookie,
                record: &record,
            }
            .to_bytes(),
        )
        .await;
        wire.send(&session.initiate(false).unwrap()).await;
        let Opened::Reply(keepalive) = session.open(wire.receive().await) else {
            panic!("no session");
        };
        wire.send(&keepalive).await;
        node.session = Some(session);
        let mut live = Self { node, wire };
        let token = Some(token("open sesame"));
        let registered = live
            .ask(&ToHub::Register {
                id: 1,
                token,
                record,
            })
            .await;
        assert!(
            matches!(registered, ToMember::Registered { id: 1, .. }),
            "{registered:?}"
        );
        live
    }

    async fn ask(&mut self, message: &ToHub) -> ToMember {
        let sealed = self.node.seal(message);
        self.wire.send(&sealed).await;
        loop {
            let answer = self.wire.receive().await;
            let session = self.node.session.as_mut().unwrap();
            if !is_frame(&answer)
                && let Opened::Packet(plain) = session.open(answer)
            {
                return ToMember::from_plain(&plain).unwrap();
            }
        }
    }

    fn tag(&self) -> Tag {
        self.node.tag()
    }

    async fn relays(&self, to: &Self, content: &[u8]) {
        self.wire.send(&self.node.relay(to.tag(), content)).await;
        assert_eq!(to.wire.receive().await, to.node.relay(self.tag(), content));
    }
}

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

/// A buffer as a socket with coalescing fills it.
fn take(work: &mut Work, world: &mut World, from: Origin, datagram: &[u8]) {
    let bytes = BytesMut::from(datagram);
    work.take(&mut world.hub, from, datagram.len(), bytes, world.now, UNIX);
}

fn at(n: u16) -> Origin {
    Origin::Udp(SocketAddr::from(([203, 0, 113, 1], n + 1)))
}

#[test]
fn what_is_relayed_comes_first_and_handshakes_wait_within_bounds() {
    let mut world = World::open();
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let mut work = Work::default();
    let hello = Frame::Hello { nonce: 1 }.to_bytes();
    let mut handshake = [1; 148];
    handshake[1..4].fill(0);
    let relayed = a.relay(b.tag(), &[4; 100]);
    for round in 1..=20 {
        for n in 0..500 {
            let datagram = if n % 2 == 0 { &handshake[..] } else { &hello };
            take(&mut work, &mut world, at(n), datagram);
        }
        take(&mut work, &mut world, a.at, &relayed);
        assert_eq!(work.forwards.len(), round, "at once, behind 500 handshakes");
        let (hellos, others) = (world.hub.status().hellos, world.hub.status().strangers);
        work.finish(&mut world.hub, world.now, UNIX);
        let status = world.hub.status();
        let cost = (status.hellos - hellos) + 16 * (status.strangers - others);
        assert!((32..=80).contains(&cost), "{cost}");
    }
    assert!(work.waits() && work.crowded >= 20 * 500 - 20 * 64 - WAITING as u64);
    let mut rounds = 0;
    while work.waits() {
        work.finish(&mut world.hub, world.now, UNIX);
        rounds += 1;
    }
    assert!(rounds <= WAITING / 4 + 1);
    assert!(work.said.len() < 20 * 64 + WAITING);
}

/// Pitfall: datagrams of one byte, each as dear as a handshake, filled the room of all handshakes.
#[test]
fn what_has_no_form_and_who_shows_nothing_keep_nobody_out_who_does() {
    let mut world = World::open();
    let mut node = Node::new(at(9000), &["10.77.0.1"]);
    let cookie = world.cookie(node.at);
    let record = node.signed();
    let join = Frame::Join {
        cookie,
        record: &record,
    }
    .to_bytes();
    let mut session = node.keys.session(world.hub.record().record().session);
    let initiation = session.initiate(false).unwrap();
    let hello = Frame::Hello { nonce: 1 }.to_bytes();
    let wrong = [[1; 16], [0; 16]].map(|cookie| {
        let record = &record;
        Frame::Join { cookie, record }.to_bytes()
    });
    let mut work = Work::default();
    let (mut malformed, hellos) = (world.hub.status().malformed, world.hub.status().hellos);
    for n in 0..2000 {
        let nothing: [&[u8]; 6] = [&[1], &[2], &[0x81], &[0x83, 1], &hello[..511], &[1; 148]];
        for datagram in nothing {
            take(&mut work, &mut world, at(n), datagram);
            malformed += 1;
        }
    }
    assert_eq!(world.hub.status().malformed, malformed);
    assert!(!work.waits() && work.crowded == 0, "nothing of it waits");
    for n in 0..2000 {
        for datagram in [&hello, &wrong[0], &wrong[1]] {
            take(&mut work, &mut world, at(n), datagram);
        }
    }
    assert_eq!(world.hub.status().bad_cookies, 4000);
    take(&mut work, &mut world, node.at, &join);
    take(&mut work, &mut world, node.at, &initiation);
    work.finish(&mut world.hub, world.now, UNIX);
    let response = work.said.iter().find(|(to, _)| *to == node.at);
    let Some((_, response)) = response else {
        panic!("no room behind thousands of others");
    };
    assert!(matches!(
        session.open(BytesMut::from(&response[..])),
        Opened::Reply(_)
    ));
    node.session = Some(session);
    let answered = world.hub.status().hellos - hellos;
    assert!(answered >= 16, "and {answered} of the others");
}

/// One that has a cookie leaves room for others that have one.
#[test]
fn joins_of_one_address_take_half_of_the_room() {
    let mut world = World::open();
    let node = Node::new(at(0), &["10.77.0.1"]);
    let record = node.signed();
    let mut work = Work::default();
    for n in 0..500 {
        let cookie = world.cookie(at(n));
        let record = &record;
        let join = Frame::Join { cookie, record }.to_bytes();
        take(&mut work, &mut world, at(n), &join);
    }
    assert_eq!(work.crowded, 500 - WAITING as u64 / 2);
    let elsewhere = Origin::Udp("198.51.100.1:1".parse().unwrap());
    let cookie = world.cookie(elsewhere);
    let record = &record;
    let join = Frame::Join { cookie, record }.to_bytes();
    take(&mut work, &mut world, elsewhere, &join);
    assert_eq!(work.crowded, 500 - WAITING as u64 / 2);
}

#[test]
fn a_run_is_as_long_as_its_receiver_and_its_contents_are_the_same() {
    let mut world = World::open();
    let [a, b, c] = [1, 2, 3].map(|n| {
        Node::member(
            &mut world,
            &format!("192.0.2.{n}:{n}"),
            &[&format!("10.77.0.{n}")],
        )
    });
    let mut frame = a.relay(
        b.tag(),
        &Frame::Introduce {
            record: &a.signed(),
        }
        .to_bytes(),
    );
    frame.truncate(112);
    let to = |tag| a.relay(tag, &[4; 100]);
    let parts = [
        to(b.tag()),
        to(b.tag()),
        to(c.tag()),
        to(c.tag()),
        frame,
        to(c.tag()),
        to(b.tag())[..50].to_vec(),
    ];
    let mut work = Work::default();
    work.take(
        &mut world.hub,
        a.at,
        112,
        BytesMut::from(&parts.concat()[..]),
        world.now,
        UNIX,
    );
    let runs: Vec<(Origin, usize)> = work
        .forwards
        .iter()
        .map(|f| (Origin::Udp(f.to), f.bytes.len()))
        .collect();
    assert_eq!(runs, [(b.at, 224), (c.at, 224), (c.at, 112), (b.at, 50)]);
    let sent = a.relay(a.tag(), &[4; 100]);
    assert_eq!(
        work.forwards[0].bytes[112..],
        sent[..],
        "with the sender's tag, each"
    );
    work.finish(&mut world.hub, world.now, UNIX);
    assert_eq!(
        world.hub.status().malformed,
        1,
        "cut: no record of the sender's"
    );
}

/// Pitfall: a handshake that overtakes the record of who sends it is thrown away by its receiver.
#[test]
fn an_introduction_stays_ahead_of_the_handshake_behind_it() {
    let mut world = World::open();
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let record = a.signed();
    let introduce = Frame::Introduce { record: &record }.to_bytes();
    let (first, second) = (a.relay(b.tag(), &introduce), a.relay(b.tag(), &[1; 148]));
    let mut work = Work::default();
    take(&mut work, &mut world, a.at, &first);
    take(&mut work, &mut world, a.at, &second);
    work.finish(&mut world.hub, world.now, UNIX);
    let [first, second] = &work.forwards[..] else {
        panic!("{} datagrams", work.forwards.len());
    };
    // The record comes in the receiver's session.
    let told = b.open(&[(b.at, first.bytes.to_vec())]);
    assert_eq!(told, [ToMember::Changed { record }]);
    assert_eq!(second.bytes[12..], [1; 148]);
    assert!(work.said.is_empty());
}

/// The same from hub to hub: sealed messages wait for the end of a batch elsewhere.
#[test]
fn another_hubs_introduction_stays_ahead_of_the_handshake_behind_it() {
    let (mut world, [mut x, _]) = with_neighbours(3, |_| {});
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let r = Node::new(x.at, &["10.77.0.9"]);
    let introduce = x.seal(&ToHub::Between(Between::Introduce {
        to: a.tag().0,
        record: r.signed(),
        hops: 1,
        hubs: 1,
    }));
    let handshake = [&carry_header(a.tag(), r.tag(), 1)[..], &[1; 148]].concat();
    let mut work = Work::default();
    take(&mut work, &mut world, x.at, &introduce);
    take(&mut work, &mut world, x.at, &handshake);
    work.finish(&mut world.hub, world.now, UNIX);
    let [first, second] = &work.forwards[..] else {
        panic!("{} datagrams", work.forwards.len());
    };
    let told = a.open(&[(a.at, first.bytes.to_vec())]);
    let record = r.signed();
    assert_eq!(told, [ToMember::Changed { record }]);
    assert_eq!(
        second.bytes[..],
        [&relay_header(r.tag(), FAR)[..], &[1; 148]].concat()
    );
}

/// A hub that we join answers at its endpoint, where it is no member: its answer does not wait among those
/// of everybody, nor is it forgotten with strangers at which of our addresses it asked.
#[test]
fn a_flood_of_strangers_keeps_out_no_answer_of_a_hub_that_we_join() {
    let far = udp_at("198.51.100.9:51820");
    let mut config = open();
    let mut neighbour = Neighbour::new(Identity::generate().unwrap().id());
    neighbour.endpoints = far.address().into_iter().collect();
    config.neighbours = vec![neighbour];
    let mut world = World::new(config);
    assert!(super::udp::is_lasting(&world.hub, far));
    let mut handshake = [0; 148];
    handshake[0] = 1;
    let stranger = |n: u16| Origin::Udp(SocketAddr::from(([10, 9, (n >> 8) as u8, n as u8], 7)));
    assert!(!super::udp::is_lasting(&world.hub, stranger(1)));
    let mut work = Work::default();
    for n in 0..WAITING as u16 {
        take(&mut work, &mut world, stranger(n), &handshake);
    }
    assert_eq!(work.crowded, 0);
    let (mut response, mut cookie) = ([0; 92], [0; 64]);
    (response[0], cookie[0]) = (2, 3);
    for answer in [&response[..], &cookie] {
        take(&mut work, &mut world, far, answer);
        assert_eq!(work.crowded, 0);
        take(&mut work, &mut world, stranger(300), answer);
        assert_eq!(std::mem::take(&mut work.crowded), 1);
    }
}

/// Of strangers, too, one address leaves room for others, and has it again when it was heard.
#[test]
fn one_stranger_takes_half_of_the_room_of_all() {
    let mut world = World::open();
    let mut work = Work::default();
    let hello = Frame::Hello { nonce: 1 }.to_bytes();
    let elsewhere = udp_at("198.51.100.1:1");
    for _ in 0..3 {
        for n in 0..500 {
            take(&mut work, &mut world, at(n), &hello);
        }
        assert_eq!(work.crowded, 500 - WAITING as u64 / 2);
        take(&mut work, &mut world, elsewhere, &hello);
        assert_eq!(std::mem::take(&mut work.crowded), 500 - WAITING as u64 / 2);
        while work.waits() {
            work.finish(&mut world.hub, world.now, UNIX);
        }
    }
    let hellos = world.hub.status().hellos;
    assert_eq!(hellos, 3 * (WAITING as u64 / 2 + 1));
}

fn udp_at(text: &str) -> Origin {
    Origin::Udp(text.parse().unwrap())
}
