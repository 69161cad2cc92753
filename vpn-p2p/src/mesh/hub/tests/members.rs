//! Who becomes a member, with what, and who is found.

use super::*;

#[test]
fn nodes_register_and_find_each_other_by_address_key_and_tag() {
    let mut world = World::open();
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let key = b.keys.public();
    assert_eq!(a.finds(&mut world, "10.77.0.2"), Some(key));
    assert_eq!(a.finds(&mut world, "10.77.0.3"), None);
    for what in [What::Peer(b.identity.id().0), What::Tag(b.tag().0)] {
        let (record, online) = a.find(&mut world, what).unwrap();
        assert!(online && record.record().session == key);
    }
    assert_eq!(a.find(&mut world, What::Peer([7; 32])), None);
    let pong = a.ask(&mut world, &ToHub::Ping { nonce: 4 });
    let observed = Some("192.0.2.1:1".parse().unwrap());
    assert_eq!(pong, [ToMember::Pong { nonce: 4, observed }]);
    assert!(b.ask(&mut world, &ToHub::Bye).is_empty());
    let (_, online) = a.find(&mut world, What::Tag(b.tag().0)).unwrap();
    assert!(!online, "away, and its record is kept");
    let status = world.hub.status();
    assert_eq!(
        (status.online, status.members, status.registered),
        (1, 2, 2)
    );
}

#[test]
fn only_the_list_and_the_token_admit() {
    let mut listed = Node::new(udp("192.0.2.1:1"), &["10.77.0.1"]);
    let mut config = open();
    let key = listed.identity.id();
    config.members = vec![Admitted::new(key, vec![address("10.77.0.1")])];
    let mut world = World::new(config);
    listed.join(&mut world);
    assert_eq!(listed.register_with(&mut world, None), Ok(false));
    let mut other = Node::new(udp("192.0.2.2:2"), &["10.77.0.2"]);
    other.join(&mut world);
    for wrong in [
        None,
        Some(token("")),
        Some(token("open sesam")),
        Some(token("open sesame ")),
    ] {
        assert_eq!(
            other.register_with(&mut world, wrong),
            Err(Refusal::NotAdmitted)
        );
    }
    assert_eq!(world.hub.status().online, 1);
    assert!(
        other.ask(&mut world, &ToHub::Ping { nonce: 1 }).is_empty(),
        "no member"
    );
    assert_eq!(other.register(&mut world), Ok(false));
    // Of somebody else's, nothing.
    for theirs in ["10.77.0.1", "10.78.0.1", "10.77.0.255"] {
        let mut thief = Node::new(udp("192.0.2.3:3"), &[theirs]);
        thief.join(&mut world);
        let refused = thief.register(&mut world);
        assert!(
            matches!(refused, Err(Refusal::Address { .. })),
            "{refused:?}"
        );
    }
    // What is pinned is all there is.
    listed.record.addresses = vec![address("10.77.0.9")];
    listed.record.sequence += 1;
    let refused = listed.register(&mut world);
    assert!(
        matches!(refused, Err(Refusal::Address { .. })),
        "{refused:?}"
    );
}

/// L-9: whoever came later took the address of who had it.
#[test]
fn who_came_first_keeps_its_address_until_its_record_is_over() {
    let mut world = World::open();
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let key = a.keys.public();
    let mut thief = Node::new(udp("192.0.2.2:2"), &["10.77.0.1", "10.77.0.2"]);
    thief.join(&mut world);
    let refused = thief.register(&mut world);
    assert!(
        matches!(refused, Err(Refusal::Address { address, .. }) if address == a.record.addresses[0])
    );
    assert_eq!(a.finds(&mut world, "10.77.0.1"), Some(key));
    a.ask(&mut world, &ToHub::Bye);
    thief.join(&mut world);
    assert!(thief.register(&mut world).is_err(), "away is not over");
    let later = world.now + Duration::from_secs(2);
    world.hub.handle_timeout(later, UNIX + 3600);
    assert_eq!(world.hub.status().members, 0);
    world.now = later;
    thief.join(&mut world);
    assert_eq!(thief.register(&mut world), Ok(false));
}

/// L-19: any member could make itself the way to everywhere.
#[test]
fn networks_behind_members_are_the_lists_and_the_longest_counts() {
    let (mut a, mut b) = (
        Node::new(udp("192.0.2.1:1"), &["10.77.0.1"]),
        Node::new(udp("192.0.2.2:2"), &["10.77.0.2"]),
    );
    let mut config = open();
    for node in [&a, &b] {
        let mut admitted = Admitted::new(node.identity.id(), node.record.addresses.clone());
        admitted.routes = vec!["192.168.0.0/16".parse().unwrap()];
        config.members.push(admitted);
    }
    // Whoever may choose does not choose one from behind another.
    config.networks.push("192.168.0.0/16".parse().unwrap());
    let mut world = World::new(config);
    let mut thief = Node::new(udp("192.0.2.3:3"), &["192.168.5.1"]);
    thief.join(&mut world);
    let refused = thief.register(&mut world);
    assert!(
        matches!(refused, Err(Refusal::Address { .. })),
        "{refused:?}"
    );
    a.record.routes = vec!["192.168.0.0/16".parse().unwrap()];
    b.record.routes = vec!["192.168.5.0/24".parse().unwrap()];
    for node in [&mut a, &mut b] {
        node.join(&mut world);
        assert_eq!(node.register(&mut world), Ok(false));
    }
    let (first, second) = (a.keys.public(), b.keys.public());
    assert_eq!(a.finds(&mut world, "192.168.5.1"), Some(second));
    assert_eq!(b.finds(&mut world, "192.168.6.1"), Some(first));
    b.record.routes = vec!["0.0.0.0/0".parse().unwrap()];
    b.record.sequence += 1;
    let refused = Refusal::Route("0.0.0.0/0".to_owned());
    assert_eq!(
        b.register(&mut world),
        Err(refused),
        "more than the list says"
    );
    b.record.routes = a.record.routes.clone();
    assert!(
        matches!(b.register(&mut world), Err(Refusal::Route(_))),
        "another's"
    );
    assert_eq!(
        a.finds(&mut world, "192.168.5.1"),
        Some(second),
        "nothing changed"
    );
}

#[test]
fn a_newer_record_replaces_and_watchers_hear_of_it_until_they_have_it() {
    let mut world = World::open();
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    assert!(a.finds(&mut world, "10.77.0.2").is_some());
    b.record.sequence = 2;
    b.record.addresses = vec![address("10.77.0.3")];
    let register = ToHub::Register {
        id: 5,
        token: Some(token("open sesame")),
        record: b.signed(),
    };
    let sealed = b.seal(&register);
    let said = world.send(b.at, &sealed);
    assert!(matches!(b.open(&said)[..], [ToMember::Registered { .. }]));
    let changed = a.open(&said);
    assert_eq!(changed, [ToMember::Changed { record: b.signed() }]);
    let said = world.wait(1);
    assert_eq!(a.open(&said), changed, "again");
    let (peer, sequence) = (b.identity.id().0, 2);
    assert!(
        a.ask(&mut world, &ToHub::Have { peer, sequence })
            .is_empty()
    );
    let said = world.wait(10);
    assert!(a.open(&said).is_empty());
    assert_eq!(a.finds(&mut world, "10.77.0.2"), None, "it gave that up");
    assert_eq!(a.finds(&mut world, "10.77.0.3"), Some(b.keys.public()));
    b.record.sequence = 1;
    assert_eq!(b.register(&mut world), Err(Refusal::Old(2)));
    let said = world.wait(0);
    assert!(said.is_empty());
}

#[test]
fn a_full_hub_keeps_places_for_its_list_and_takes_back_who_was_there() {
    let mut listed = Node::new(udp("192.0.2.1:1"), &["10.77.0.1"]);
    let mut config = open();
    config.max_members = 3;
    let key = listed.identity.id();
    config.members = vec![Admitted::new(key, vec![address("10.77.0.1")])];
    let mut world = World::new(config);
    let mut first = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let mut second = Node::member(&mut world, "192.0.2.3:3", &["10.77.0.3"]);
    let mut third = Node::new(udp("192.0.2.4:4"), &["10.77.0.4"]);
    third.join(&mut world);
    assert_eq!(third.register(&mut world), Err(Refusal::Full(3)));
    listed.join(&mut world);
    assert_eq!(listed.register(&mut world), Ok(false));
    // Restarted, with another session key: no second place is needed.
    first.keys = noise();
    first.record.session = first.keys.public();
    first.record.sequence = 9;
    first.join(&mut world);
    assert_eq!(first.register(&mut world), Ok(false));
    // Who is away makes room.
    second.ask(&mut world, &ToHub::Bye);
    assert_eq!(third.register(&mut world), Ok(false));
    assert_eq!(world.hub.status().members, 3);
    second.join(&mut world);
    assert_eq!(second.register(&mut world), Err(Refusal::Full(3)));
}

#[test]
fn who_is_silent_is_gone_and_who_says_anything_is_not() {
    let mut world = World::open();
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    for _ in 0..4 {
        world.wait(30);
        let empty = a.seal_bytes(&[]);
        let answer = world.send(a.at, &empty);
        let [(_, answer)] = &answer[..] else {
            panic!("no answer");
        };
        let session = a.session.as_mut().unwrap();
        assert!(matches!(
            session.open(BytesMut::from(&answer[..])),
            Opened::Keepalive
        ));
    }
    let (_, online) = a.find(&mut world, What::Tag(b.tag().0)).unwrap();
    assert!(!online);
    // It is told when it comes back, and may.
    let sealed = b.seal(&ToHub::Ping { nonce: 1 });
    let said = world.send(b.at, &sealed);
    let [(to, hint)] = &said[..] else {
        panic!("{said:?}");
    };
    let echo = *sealed[4..].first_chunk().unwrap();
    assert_eq!(
        (*to, Frame::read(hint)),
        (b.at, Ok(Frame::Stranger { echo }))
    );
    b.join(&mut world);
    assert_eq!(b.register(&mut world), Ok(false));
    assert!(a.find(&mut world, What::Tag(b.tag().0)).unwrap().1);
    world.wait(200);
    let status = world.hub.status();
    assert_eq!((status.online, status.members), (0, 2));
    assert_eq!(world.hub.sessions.len(), 0);
}

#[test]
fn a_member_that_moved_is_found_by_what_it_sealed_and_learns_where_it_is() {
    let mut world = World::open();
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let sealed = a.seal(&ToHub::Ping { nonce: 8 });
    a.at = udp("198.51.100.7:7");
    let said = world.send(a.at, &sealed);
    let observed = a.at.address();
    let pong = |nonce| ToMember::Pong { nonce, observed };
    assert_eq!(a.open(&said), [pong(0), pong(8)]);
    let relayed = world.send(b.at, &b.relay(a.tag(), &[4; 40]));
    assert_eq!(relayed, [(a.at, a.relay(b.tag(), &[4; 40]))]);
    let old = world.send(udp("192.0.2.1:1"), &a.relay(b.tag(), &[4; 40]));
    assert!(matches!(Frame::read(&old[0].1), Ok(Frame::Stranger { .. })));
    // From TLS back it goes by asking: that anything else arrives by UDP says nothing about ours.
    let (before, tls) = (a.at, Origin::Tls(1));
    a.at = tls;
    a.join(&mut world);
    a.register(&mut world).unwrap();
    let find = ToHub::Find {
        id: 1,
        what: What::Tag([0; 8]),
    };
    a.at = before;
    assert_eq!(a.ask(&mut world, &find), [ToMember::NotFound { id: 1 }]);
    let relayed = world.send(b.at, &b.relay(a.tag(), &[4; 40]));
    assert_eq!(relayed[0].0, tls);
    let asked = a.ask(&mut world, &ToHub::Ping { nonce: 2 });
    assert!(matches!(
        asked[..],
        [
            ToMember::Pong { nonce: 0, .. },
            ToMember::Pong { nonce: 2, .. }
        ]
    ));
    let relayed = world.send(b.at, &b.relay(a.tag(), &[4; 40]));
    assert_eq!(relayed[0].0, before);
    // The end of what it left is not its end.
    let now = world.now;
    world.hub.closed(1, now);
    assert!(a.is_here(&mut world));
}

#[test]
fn a_list_that_contradicts_itself_is_refused() {
    let new = |config| {
        let identity = Identity::generate().unwrap();
        Hub::new(config, &identity, Box::new(noise()), Instant::now(), UNIX).map(|_| ())
    };
    let key = |n| PeerId([n; 32]);
    let admitted = |n, a: &str| Admitted::new(key(n), vec![address(a)]);
    let list = |members| HubConfig {
        members,
        ..HubConfig::default()
    };
    let twice = new(list(vec![admitted(1, "10.0.0.1"), admitted(1, "10.0.0.2")]));
    assert!(matches!(twice, Err(HubError::Key(_))));
    let twice = new(list(vec![admitted(1, "10.0.0.1"), admitted(2, "10.0.0.1")]));
    assert!(matches!(twice, Err(HubError::Address(_))));
    let mut short = list(vec![admitted(1, "10.0.0.1"), admitted(2, "10.0.0.2")]);
    short.max_members = 1;
    assert!(matches!(
        new(short),
        Err(HubError::Members { most: 1, listed: 2 })
    ));
}

/// Somebody speaks in a member's name from its address: what it proves next puts that right.
#[test]
fn a_place_that_was_taken_is_taken_back_by_who_proves_to_be_there() {
    let mut world = World::open();
    let mut thief = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut a = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let b = Node::member(&mut world, "192.0.2.3:3", &["10.77.0.3"]);
    let (home, keepalive) = (thief.at, ToHub::Ping { nonce: 1 });
    let forged = thief.seal(&keepalive);
    world.send(a.at, &forged);
    let again = thief.seal(&keepalive);
    world.send(home, &again);
    // Its frames come from nobody now.
    assert!(
        world
            .send(a.at, &a.relay(b.tag(), &[4; 40]))
            .iter()
            .all(|(to, _)| *to == a.at)
    );
    let proof = a.seal(&keepalive);
    world.send(a.at, &proof);
    let said = world.send(a.at, &a.relay(b.tag(), &[4; 40]));
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].0, b.at);
}

/// Each record is a signature, and a message to each of those who asked.
#[test]
fn a_member_that_registers_all_the_time_is_looked_at_and_told_of_once_a_second() {
    let mut world = World::open();
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    a.finds(&mut world, "10.77.0.2").unwrap();
    let before = world.hub.status();
    let (mut answered, mut told) = (0, 0);
    for _ in 0..10 {
        for _ in 0..50 {
            b.record.sequence += 1;
            let register = ToHub::Register {
                id: 5,
                token: Some(token("open sesame")),
                record: b.signed(),
            };
            let sealed = b.seal(&register);
            let said = world.send(b.at, &sealed);
            answered += b.open(&said).len();
            told += a.open(&said).len();
        }
        let said = world.wait(1);
        told += a.open(&said).len();
    }
    assert!((20..=30).contains(&answered), "{answered} in 10 s");
    assert!((10..=12).contains(&told), "{told} in 10 s");
    assert!(world.hub.status().limited - before.limited >= 400);
    let (known, _) = a.find(&mut world, What::Tag(b.tag().0)).unwrap();
    assert!(known.record().sequence > 400, "{:?}", known.record());
    // Another session of the same member is limited like the first.
    let (limited, mut bs) = (world.hub.status().limited, b);
    bs.join(&mut world);
    for _ in 0..5 {
        bs.record.sequence += 1;
        let record = bs.signed();
        let token = Some(token("open sesame"));
        bs.ask(
            &mut world,
            &ToHub::Register {
                id: 1,
                token,
                record,
            },
        );
    }
    assert!(world.hub.status().limited - limited >= 3);
}

#[test]
fn a_record_for_ever_is_refused_and_what_the_list_does_not_pin_is_free_when_its_owner_is_away() {
    let mut listed = Node::new(udp("192.0.2.1:1"), &["10.77.0.1"]);
    let mut config = open();
    let key = listed.identity.id();
    config.members = vec![Admitted::new(key, vec![address("10.77.0.1")])];
    let mut world = World::new(config);
    let mut guest = Node::new(udp("192.0.2.2:2"), &["10.77.0.2"]);
    for node in [&mut listed, &mut guest] {
        node.join(&mut world);
        for expires in [u64::MAX, UNIX + 24 * 3600 + 1] {
            node.record.expires = expires;
            assert_eq!(node.register(&mut world), Err(Refusal::Lifetime(24 * 3600)));
        }
        node.record.expires = UNIX + 24 * 3600;
        assert_eq!(node.register(&mut world), Ok(false));
        node.ask(&mut world, &ToHub::Bye);
    }
    let mut next = Node::new(udp("192.0.2.3:3"), &["10.77.0.2"]);
    for (after, is_free) in [(3600, false), (3600, true)] {
        world.now += Duration::from_secs(after);
        let now = world.now;
        world.hub.handle_timeout(now, UNIX);
        next.join(&mut world);
        assert_eq!(next.register(&mut world).is_ok(), is_free);
        next.record.sequence += 1;
    }
    assert_eq!(world.hub.status().members, 2, "who is listed keeps its own");
}

/// Whoever relays waits for a part of them, and not for all.
#[test]
fn members_are_looked_at_a_few_at_a_time_and_all_within_a_second() {
    const COUNT: usize = 600;
    let mut world = World::open();
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let full = |rate| Bucket::full(rate, world.now);
    let limits = world.hub.config.limits.clone();
    for n in 1..COUNT as u64 {
        let away = Member {
            record: a.record.clone().sign(&a.identity),
            here: None,
            heard: world.now,
            listed: false,
            reaches_all: false,
            registrations: full(limits.registrations),
            questions: full(limits.registrations),
            relay_bytes: full(limits.relay_bytes),
            relay_packets: full(limits.relay_packets),
            relayed: 0,
        };
        world.hub.members.insert(Tag(n.to_be_bytes()), away);
    }
    world.now += Duration::from_secs(1);
    let mut left = vec![world.hub.status().members];
    // Their records are over now.
    while world.hub.next_timeout().is_some_and(|at| at <= world.now) {
        world.hub.handle_timeout(world.now, a.record.expires);
        left.push(world.hub.status().members);
    }
    assert_eq!(left, [COUNT, COUNT - 256, COUNT - 512, 0]);
    assert_eq!(world.hub.sessions.len(), 0);
}
