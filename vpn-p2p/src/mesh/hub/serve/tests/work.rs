//! What is done first, what waits, and how much of it.

use super::*;

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
