//! Who is no member, and wants to be taken for one: nothing is accepted, nobody is kicked.

use proptest::prelude::*;

use super::*;

/// A hub with two members, and what an adversary is held against: both are still there.
fn world() -> (World, Node, Node) {
    let mut world = World::open();
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    (world, a, b)
}

fn unharmed(world: &mut World, a: &mut Node, b: &mut Node) {
    let keys = [a.keys.public(), b.keys.public()];
    for (node, other, key) in [
        (&mut *a, "10.77.0.2", keys[1]),
        (&mut *b, "10.77.0.1", keys[0]),
    ] {
        assert!(node.is_here(world));
        assert_eq!(node.finds(world, other), Some(key));
    }
    let said = world.send(a.at, &a.relay(b.tag(), &[4; 32]));
    assert_eq!(said, [(b.at, b.relay(a.tag(), &[4; 32]))]);
    assert_eq!(world.hub.status().online, 2);
}

const EVIL: &str = "203.0.113.66:6";

#[test]
fn without_the_cookie_of_its_address_nobody_joins() {
    let (mut world, mut a, mut b) = world();
    let before = world.hub.sessions.len();
    let mut evil = Node::new(udp(EVIL), &["10.77.0.6"]);
    let record = evil.signed();
    let others = world.cookie(udp("203.0.113.66:7"));
    let mut old = world.cookie(evil.at);
    world.wait(60);
    for cookie in [[0; COOKIE], others, old] {
        let join = Frame::Join {
            cookie,
            record: &record,
        };
        assert!(world.send(evil.at, &join.to_bytes()).is_empty());
    }
    old = world.cookie(evil.at);
    old[0] ^= 1;
    let join = Frame::Join {
        cookie: old,
        record: &record,
    };
    assert!(world.send(evil.at, &join.to_bytes()).is_empty());
    assert_eq!(world.hub.sessions.len(), before);
    assert_eq!(world.hub.status().bad_cookies, 4);
    // So it gets no handshake either, and that costs nothing.
    let hub = world.hub.record().record().session;
    let initiation = evil.keys.session(hub).initiate(false).unwrap();
    let said = world.send(evil.at, &initiation);
    assert!(matches!(
        Frame::read(&said[0].1),
        Ok(Frame::Stranger { .. })
    ));
    evil.record.sequence += 1;
    unharmed(&mut world, &mut a, &mut b);
}

#[test]
fn a_forged_record_is_not_looked_at_further() {
    let (mut world, mut a, mut b) = world();
    let evil = Node::new(udp(EVIL), &["10.77.0.6"]);
    let cookie = world.cookie(evil.at);
    let good = evil.signed();
    for at in 0..good.len() {
        let mut record = good.clone();
        record[at] ^= 0x40;
        let join = Frame::Join {
            cookie,
            record: &record,
        };
        assert!(world.send(evil.at, &join.to_bytes()).is_empty());
    }
    let joins = world.hub.status().joins;
    assert_eq!(joins, 2, "the members'");
    unharmed(&mut world, &mut a, &mut b);
}

#[test]
fn anothers_record_makes_nobody_a_member() {
    let (mut world, mut a, mut b) = world();
    // With its own cookie and somebody's record, as any member can have it.
    let evil = Node::new(udp(EVIL), &[]);
    let cookie = world.cookie(evil.at);
    let record = a.signed();
    let join = Frame::Join {
        cookie,
        record: &record,
    }
    .to_bytes();
    world.send(evil.at, &join);
    assert_eq!(world.hub.status().provisional, 1);
    // Its handshake is not that record's.
    let hub = world.hub.record().record().session;
    let initiation = evil.keys.session(hub).initiate(false).unwrap();
    let said = world.send(evil.at, &initiation);
    assert!(matches!(
        Frame::read(&said[0].1),
        Ok(Frame::Stranger { .. })
    ));
    unharmed(&mut world, &mut a, &mut b);
    world.wait(11);
    assert_eq!(world.hub.status().provisional, 0);
    unharmed(&mut world, &mut a, &mut b);
}

/// L-9, L-21: nobody registers what is another's: its record, its key, its address.
#[test]
fn a_session_registers_its_own_record_only() {
    let (mut world, mut a, mut b) = world();
    let mut evil = Node::new(udp(EVIL), &["10.77.0.6"]);
    evil.join(&mut world);
    let register = |record| ToHub::Register {
        id: 1,
        token: Some(token("open sesame")),
        record,
    };
    // Of a member; of its own, with a member's session key.
    let theirs = a.signed();
    evil.record.session = a.keys.public();
    let mixed = evil.signed();
    evil.record.session = evil.keys.public();
    for record in [theirs, mixed, vec![], vec![0; 1900]] {
        let answer = evil.ask(&mut world, &register(record));
        assert_eq!(
            answer,
            [ToMember::Refused {
                id: 1,
                why: Refusal::Record
            }]
        );
    }
    evil.record.addresses = a.record.addresses.clone();
    assert!(matches!(
        evil.register(&mut world),
        Err(Refusal::Address { .. })
    ));
    unharmed(&mut world, &mut a, &mut b);
}

#[test]
fn what_was_heard_is_not_heard_again() {
    let (mut world, mut a, mut b) = world();
    let record = a.signed();
    let register = ToHub::Register {
        id: 9,
        token: Some(token("open sesame")),
        record,
    };
    let (sealed, bye) = (a.seal(&register), a.seal(&ToHub::Bye));
    assert_eq!(world.send(a.at, &sealed).len(), 1);
    // The same from elsewhere; and one that never came, changed.
    assert!(world.send(udp(EVIL), &sealed).is_empty());
    for at in [4, 8, 16, bye.len() - 1] {
        let mut flipped = bye.clone();
        flipped[at] ^= 1;
        let said = world.send(udp(EVIL), &flipped);
        assert!(said.iter().all(|(_, hint)| hint.len() <= 12));
    }
    assert!(world.hub.status().not_authentic >= 4);
    unharmed(&mut world, &mut a, &mut b);
}

#[test]
fn a_bye_is_of_who_sealed_it() {
    let (mut world, mut a, mut b) = world();
    let mut evil = Node::new(udp(EVIL), &["10.77.0.6"]);
    evil.join(&mut world);
    assert!(
        evil.ask(&mut world, &ToHub::Bye).is_empty(),
        "no member yet"
    );
    evil.register(&mut world).unwrap();
    assert!(evil.ask(&mut world, &ToHub::Bye).is_empty());
    unharmed(&mut world, &mut a, &mut b);
}

#[test]
fn somebody_elses_tag_is_taken() {
    // Two keys that begin alike cannot be made here: the table is told that one is there.
    let (mut world, mut a, mut b) = world();
    let mut evil = Node::new(udp(EVIL), &["10.77.0.6"]);
    evil.join(&mut world);
    let mut member = world.hub.members.remove(&a.tag()).unwrap();
    member.here = None;
    world.hub.members.insert(evil.tag(), member);
    assert_eq!(evil.register(&mut world), Err(Refusal::Taken));
    let mut member = world.hub.members.remove(&evil.tag()).unwrap();
    member.here = world.hub.sessions.by_name(0).map(|id| (id, a.at));
    world.hub.members.insert(a.tag(), member);
    a.join(&mut world);
    a.register(&mut world).unwrap();
    unharmed(&mut world, &mut a, &mut b);
}

#[test]
fn a_flood_of_joins_is_bounded_and_costs_no_member_its_place() {
    let mut config = open();
    config.limits.provisional = 16;
    config.limits.joins = Rate::new(1, 8);
    let mut world = World::new(config);
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let mut last = None;
    for n in 0..40_u32 {
        let at = format!("203.0.113.{n}:6");
        let node = Node::new(udp(&at), &["10.77.0.6"]);
        for port in 1..=10 {
            let from = udp(&format!("203.0.113.{n}:{port}"));
            let cookie = world.cookie(from);
            let record = node.signed();
            world.send(
                from,
                &Frame::Join {
                    cookie,
                    record: &record,
                }
                .to_bytes(),
            );
        }
        last = Some(node);
    }
    let status = world.hub.status();
    assert_eq!(status.provisional, 16);
    assert!(
        status.joins <= 2 + 40 * 8 && status.limited >= 40 * 2,
        "{status:?}"
    );
    assert!(world.hub.sessions.len() <= 2 + 16);
    unharmed(&mut world, &mut a, &mut b);
    // And whoever joins in good faith now gets in.
    let mut good = Node::new(udp("198.51.100.1:1"), &["10.77.0.9"]);
    good.join(&mut world);
    assert_eq!(good.register(&mut world), Ok(false));
    drop(last);
}

#[test]
fn hellos_and_strangers_are_answered_with_less_and_leave_nothing() {
    let (mut world, mut a, mut b) = world();
    let (mut asked, mut answered) = (0, 0);
    for n in 0..2000_u32 {
        let from = Origin::Udp(SocketAddr::from(((0xcb00_0000 + n).to_be_bytes(), 9)));
        let hello = Frame::Hello {
            nonce: u64::from(n),
        }
        .to_bytes();
        for datagram in [
            &hello[..],
            &[4; 32],
            &a.relay(b.tag(), &[])[..],
            &[1; 148],
            &[0xff; 3],
        ] {
            asked += datagram.len();
            let said = world.send(from, datagram);
            answered += said.iter().map(|(_, said)| said.len()).sum::<usize>();
            assert!(
                said.iter()
                    .all(|(to, said)| *to == from && said.len() <= datagram.len())
            );
        }
    }
    assert!(answered <= asked && answered > 0);
    assert_eq!(world.hub.sessions.len(), 2);
    unharmed(&mut world, &mut a, &mut b);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_from_anywhere_harm_nobody(
        datagrams in prop::collection::vec((0..3_u8, 0..10_u8, prop::collection::vec(any::<u8>(), 0..700)), 0..60)
    ) {
        let (mut world, mut a, mut b) = world();
        for (place, first, mut bytes) in datagrams {
            let from = [a.at, udp(EVIL), Origin::Tls(5)][usize::from(place)];
            // What is looked at further begins so.
            if let [kind, version, ..] = &mut bytes[..] {
                (*kind, *version) = if first < 5 { (first, 0) } else { (0x7b + first, 1) };
            }
            let said = world.send(from, &bytes);
            let longest = said.iter().map(|(_, said)| said.len()).max();
            prop_assert!(longest.unwrap_or_default() <= bytes.len().max(HELLO));
        }
        unharmed(&mut world, &mut a, &mut b);
        prop_assert_eq!(world.hub.sessions.len(), 2);
    }
}
