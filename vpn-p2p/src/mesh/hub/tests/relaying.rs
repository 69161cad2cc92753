//! What is relayed, to whom, and how much.

use super::*;

#[test]
fn datagrams_go_to_the_tag_and_bear_the_senders() {
    let mut world = World::open();
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let inner = [4, 0, 0, 0, 9, 9];
    let said = world.send(a.at, &a.relay(b.tag(), &inner));
    assert_eq!(said, [(b.at, b.relay(a.tag(), &inner))]);
    let to = Relayed::To {
        origin: b.at,
        tag: a.tag(),
    };
    assert_eq!(world.hub.relay(a.at, b.tag(), 5000, 5, world.now), to);
    assert_eq!(world.hub.status().relayed_packets, 6);
    assert_eq!(world.hub.status().relayed_bytes, 5018);
    // To nobody, to itself, from nobody.
    for tag in [Tag([1; 8]), a.tag()] {
        let said = world.send(a.at, &a.relay(tag, &inner));
        assert_eq!(said, [(a.at, Frame::Absent { tag }.to_bytes())]);
    }
    let elsewhere = udp("192.0.2.1:2");
    let said = world.send(elsewhere, &a.relay(b.tag(), &inner));
    let hint = Frame::Stranger { echo: b.tag().0 };
    assert_eq!(said, [(elsewhere, hint.to_bytes())]);
    b.ask(&mut world, &ToHub::Bye);
    let said = world.send(a.at, &a.relay(b.tag(), &inner));
    assert_eq!(said, [(a.at, Frame::Absent { tag: b.tag() }.to_bytes())]);
}

#[test]
fn an_introduction_is_the_senders_own_registered_record() {
    let mut world = World::open();
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let introduce = |record: &[u8]| Frame::Introduce { record }.to_bytes();
    let good = introduce(&a.signed());
    // In the session of who is to believe it.
    let said = world.send(a.at, &a.relay(b.tag(), &good));
    let record = a.signed();
    assert_eq!(b.open(&said), [ToMember::Changed { record }]);
    a.record.sequence = 2;
    a.record.addresses = vec![address("10.77.0.2")];
    let frames = [
        introduce(&a.signed()),
        introduce(&b.signed()),
        introduce(&[]),
        Frame::Hello { nonce: 1 }.to_bytes(),
        vec![0xff],
    ];
    for frame in frames {
        assert!(world.send(a.at, &a.relay(b.tag(), &frame)).is_empty());
    }
    assert_eq!(world.hub.status().malformed, 5);
}

/// L-17: isolation cut off the one that all have to reach.
#[test]
fn isolated_members_reach_the_one_that_all_reach() {
    let mut common = Node::new(udp("192.0.2.1:1"), &["10.77.0.1"]);
    let mut config = open();
    config.isolation = true;
    let mut admitted = Admitted::new(common.identity.id(), common.record.addresses.clone());
    admitted.reaches_all = true;
    config.members = vec![admitted];
    let mut world = World::new(config);
    common.join(&mut world);
    assert_eq!(common.register(&mut world), Ok(false));
    let mut a = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let mut b = Node::member(&mut world, "192.0.2.3:3", &["10.77.0.3"]);
    assert!(a.finds(&mut world, "10.77.0.1").is_some());
    assert!(common.finds(&mut world, "10.77.0.2").is_some());
    assert!(a.finds(&mut world, "10.77.0.3").is_none());
    assert!(b.find(&mut world, What::Tag(a.tag().0)).is_none());
    let said = world.send(a.at, &a.relay(b.tag(), &[4]));
    assert_eq!(said, [(a.at, Frame::Absent { tag: b.tag() }.to_bytes())]);
    assert_eq!(world.hub.status().isolated, 1);
    for (from, to) in [(&a, &common), (&common, &b)] {
        let said = world.send(from.at, &from.relay(to.tag(), &[4]));
        assert_eq!(said[0].0, to.at);
    }
}

#[test]
fn one_member_relays_and_asks_so_much_and_the_others_as_before() {
    let mut config = open();
    config.limits.relay_bytes = Rate::new(1000, 2000);
    config.limits.control = Rate::new(1, 3);
    let mut world = World::new(config);
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let mut passed = |from: Origin, tag| {
        let relayed = (0..10).map(|_| world.hub.relay(from, tag, 500, 1, world.now));
        relayed.filter(|r| matches!(r, Relayed::To { .. })).count()
    };
    assert_eq!(passed(a.at, b.tag()), 4);
    assert_eq!(passed(b.at, a.tag()), 4);
    world.now += Duration::from_secs(1);
    let relayed = world.hub.relay(a.at, b.tag(), 1000, 1, world.now);
    assert!(matches!(relayed, Relayed::To { .. }));
    assert_eq!(
        world.hub.relay(a.at, b.tag(), 500, 1, world.now),
        Relayed::Limited
    );
    let answered = (0..10).filter(|_| a.is_here(&mut world)).count();
    assert_eq!(answered, 3);
    assert!(world.hub.status().limited > 12);
}

#[test]
fn a_client_of_tls_is_a_member_until_its_streams_end() {
    let mut world = World::open();
    let at = Origin::Tls(1);
    let mut a = Node::new(at, &["10.77.0.1"]);
    a.join(&mut world);
    assert_eq!(a.register(&mut world), Ok(false));
    let b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let long = vec![4; 60_000];
    let said = world.send(at, &a.relay(b.tag(), &long));
    assert_eq!(said, [(b.at, b.relay(a.tag(), &long))]);
    assert_eq!(world.send(b.at, &b.relay(a.tag(), &[4]))[0].0, at);
    let now = world.now;
    world.hub.closed(1, now);
    let said = world.send(b.at, &b.relay(a.tag(), &[4]));
    assert_eq!(said, [(b.at, Frame::Absent { tag: a.tag() }.to_bytes())]);
    assert_eq!(world.hub.status().online, 1);
    assert_eq!(world.hub.sessions.len(), 1);
}
