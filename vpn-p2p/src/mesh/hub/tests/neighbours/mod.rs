//! What is believed of other hubs, and of who only says that it is one.

mod claims;

use super::*;
use crate::mesh::wire::frame::{FAR, carry_header};
use crate::mesh::wire::{Asked, Between};

/// A hub with two neighbours that join it, and both of them.
pub(in crate::mesh::hub) fn with_neighbours(
    max_hops: u8,
    change: impl FnOnce(&mut HubConfig),
) -> (World, [Node; 2]) {
    let mut nodes = [1, 2].map(|n| Node::new(udp(&format!("198.51.100.{n}:{n}")), &[]));
    let mut config = open();
    config.max_hops = max_hops;
    let keys = nodes.iter().map(|node| node.identity.id());
    config.neighbours = keys.map(Neighbour::new).collect();
    change(&mut config);
    let mut world = World::new(config);
    for node in &mut nodes {
        node.join(&mut world);
        assert_eq!(node.register_with(&mut world, None), Ok(false));
    }
    (world, nodes)
}

/// Somebody of another hub.
fn stranger(address: &str) -> Node {
    Node::new(udp("203.0.113.9:9"), &[address])
}

impl Node {
    fn says(&mut self, world: &mut World, message: Between) -> Vec<(Origin, Vec<u8>)> {
        let sealed = self.seal(&ToHub::Between(message));
        world.send(self.at, &sealed)
    }

    /// Introduces somebody behind it to a member.
    fn introduces(&mut self, world: &mut World, who: &Node, to: Tag) -> Vec<(Origin, Vec<u8>)> {
        let (to, record, hops, hubs) = (to.0, who.signed(), 1, 1);
        let message = Between::Introduce {
            to,
            record,
            hops,
            hubs,
        };
        self.says(world, message)
    }

    fn carry(&self, to: Tag, from: Tag, hops: u8) -> Vec<u8> {
        [&carry_header(to, from, hops)[..], &[4; 40]].concat()
    }
}

const fn asked(number: u64) -> Asked {
    Asked {
        hub: [8; 8],
        number,
    }
}

#[test]
fn a_neighbour_is_no_member_and_has_no_address() {
    let (mut world, [mut x, _]) = with_neighbours(3, |config| config.max_members = 1);
    let status = world.hub.status();
    assert_eq!(
        (status.members, status.neighbours, status.provisional),
        (0, 2, 0)
    );
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let what = What::Tag(x.tag().0);
    let said = a.ask(&mut world, &ToHub::Find { id: 1, what });
    assert!(
        said.is_empty(),
        "nobody here, so others are asked: {said:?}"
    );
    assert!(
        x.ask(
            &mut world,
            &ToHub::Find {
                id: 1,
                what: What::Tag(a.tag().0)
            }
        )
        .is_empty()
    );
    // It is kept like a member: an empty message is answered, and silence ends it.
    assert!(x.is_here(&mut world));
    world.wait(100);
    assert_eq!(world.hub.status().neighbours, 0);
}

#[test]
fn datagrams_come_with_the_senders_name_and_go_with_both() {
    let (mut world, [mut x, _]) = with_neighbours(3, |_| {});
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let r = stranger("10.77.0.9");
    let said = x.introduces(&mut world, &r, a.tag());
    let record = r.signed();
    assert_eq!(a.open(&said), [ToMember::Changed { record }]);
    let said = world.send(x.at, &x.carry(a.tag(), r.tag(), 1));
    let relayed = [&relay_header(r.tag(), FAR)[..], &[4; 40]].concat();
    assert_eq!(said, [(a.at, relayed)]);
    let said = world.send(a.at, &a.relay(r.tag(), &[4; 40]));
    assert_eq!(said, [(x.at, a.carry(r.tag(), a.tag(), 1))]);
    assert_eq!(world.hub.status().carried_packets, 1);
}

#[test]
fn nobody_but_a_neighbour_carries() {
    let (mut world, [mut x, _]) = with_neighbours(3, |_| {});
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let b = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let r = stranger("10.77.0.9");
    x.introduces(&mut world, &r, a.tag());
    let elsewhere = udp("203.0.113.1:1");
    for from in [b.at, elsewhere] {
        let said = world.send(from, &x.carry(a.tag(), r.tag(), 1));
        assert!(matches!(
            Frame::read(&said[0].1),
            Ok(Frame::Stranger { .. })
        ));
        assert_eq!((said.len(), said[0].0), (1, from));
    }
    // What hubs say means nothing from a member.
    let sealed = a.seal(&ToHub::Between(Between::NotFound { asked: asked(1) }));
    let before = world.hub.status().malformed;
    assert!(world.send(a.at, &sealed).is_empty());
    // Nor what is not sealed, from anybody.
    let frame = Frame::Introduce {
        record: &r.signed(),
    }
    .to_bytes();
    let forged = [&carry_header(a.tag(), r.tag(), 1)[..], &frame].concat();
    assert!(world.send(x.at, &forged).is_empty());
    assert_eq!(world.hub.status().malformed, before + 2);
}

#[test]
fn hops_end_and_nothing_goes_back_or_round() {
    let (mut world, mut hubs) = with_neighbours(4, |_| {});
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let (r, s) = (stranger("10.77.0.9"), stranger("10.77.0.8"));
    hubs[0].introduces(&mut world, &r, a.tag());
    let at = hubs.each_ref().map(|hub| hub.at);
    let counts = |world: &World| {
        let status = world.hub.status();
        [status.no_hops, status.looped, status.absent]
    };
    // No more than this hub allows, whatever the other says.
    for hops in [2, 3, 255] {
        let said = world.send(at[1], &a.carry(r.tag(), s.tag(), hops));
        assert_eq!(said, [(at[0], a.carry(r.tag(), s.tag(), 1))], "{hops}");
    }
    for (hub, to, from, hops, expected) in [
        (1, r.tag(), s.tag(), 1, [1, 0, 0]),
        (1, r.tag(), s.tag(), 0, [2, 0, 0]),
        (1, a.tag(), s.tag(), 0, [3, 0, 0]),
        (0, r.tag(), s.tag(), 2, [3, 1, 0]),
        (0, s.tag(), r.tag(), 2, [3, 1, 1]),
    ] {
        let said = world.send(at[hub], &a.carry(to, from, hops));
        assert_eq!(counts(&world), expected);
        // It is told, so that it asks for the way anew.
        let (to, from) = (to.0, from.0);
        let hint = Between::Absent { to, from, hops: 2 };
        assert_eq!(hubs[hub].open(&said), [ToMember::Between(hint)]);
    }
    // Our own member's: it went round.
    assert!(world.send(at[0], &a.carry(r.tag(), a.tag(), 2)).is_empty());
    assert_eq!(counts(&world), [3, 2, 1]);
}

#[test]
fn a_question_is_passed_on_once_and_not_to_where_it_was() {
    let (mut world, [mut x, mut y]) = with_neighbours(4, |_| {});
    let find = |number, hops, visited| Between::Find {
        asked: asked(number),
        what: What::Peer([7; 32]),
        hops,
        visited,
    };
    let nobody = |number| {
        let asked = asked(number);
        ToMember::Between(Between::NotFound { asked })
    };
    let own = Tag::from(world.identity.id()).0;
    let said = x.says(&mut world, find(1, 2, vec![[8; 8]]));
    let passed = y.open(&said);
    let [
        ToMember::Between(Between::Find {
            hops: 1, visited, ..
        }),
    ] = &passed[..]
    else {
        panic!("{passed:?}");
    };
    assert_eq!(*visited, [[8; 8], own]);
    // The same by the other way, with hops left over, and without any, and where it was here before.
    let said = y.says(&mut world, find(1, 2, vec![[8; 8]]));
    assert_eq!((y.open(&said), x.open(&said).len()), (vec![nobody(1)], 0));
    let said = y.says(&mut world, find(2, 1, vec![]));
    assert_eq!((y.open(&said), x.open(&said).len()), (vec![nobody(2)], 0));
    let said = y.says(&mut world, find(3, 2, vec![own]));
    assert_eq!((y.open(&said), x.open(&said).len()), (vec![nobody(3)], 0));
    let said = y.says(&mut world, find(4, 2, vec![x.tag().0]));
    assert_eq!((y.open(&said), x.open(&said).len()), (vec![nobody(4)], 0));
    // Its answer goes back to who asked.
    let said = y.says(&mut world, Between::NotFound { asked: asked(1) });
    assert_eq!(x.open(&said), [nobody(1)]);
    // One that is not answered ends by itself.
    x.says(&mut world, find(5, 2, vec![[8; 8]]));
    let said = world.wait(5);
    assert_eq!(x.open(&said), [nobody(5)]);
}

#[test]
fn a_neighbour_names_nobody_who_has_what_is_ours() {
    let listed = Identity::generate().unwrap();
    let (mut world, [mut x, _]) = with_neighbours(3, |config| {
        let pinned = vec![address("10.77.0.5")];
        config.members = vec![Admitted::new(listed.id(), pinned)];
    });
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut long = stranger("10.77.0.9");
    long.record.expires = UNIX + 100 * 24 * 3600;
    for who in [&stranger("10.77.0.1"), &stranger("10.77.0.5"), &long, &a] {
        let bad = (who.signed(), who.tag());
        let said = x.says(
            &mut world,
            Between::Introduce {
                to: a.tag().0,
                record: bad.0,
                hops: 1,
                hubs: 1,
            },
        );
        assert!(said.is_empty());
        assert!(world.hub.neighbours()[0].members == 0);
    }
    let status = world.hub.status();
    assert_eq!((status.refused_beyond, status.refused_record), (3, 1));
    // Ours is found here, whatever others say.
    assert!(a.finds(&mut world, "10.77.0.1").is_some());
}

#[test]
fn an_answer_is_believed_from_who_was_asked_about_who_was_asked_for() {
    let (mut world, [mut x, mut y]) = with_neighbours(3, |_| {});
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let r = stranger("10.77.0.9");
    let what = What::Address(address("10.77.0.9"));
    let sealed = a.seal(&ToHub::Find { id: 5, what });
    let said = world.send(a.at, &sealed);
    let find = x.open(&said);
    let [ToMember::Between(Between::Find { asked, hops: 1, .. })] = find[..] else {
        panic!("{find:?}");
    };
    assert_eq!(y.open(&said), find, "everybody is asked");
    let found = |who: &Node, hubs| Between::Found {
        asked,
        record: who.signed(),
        online: true,
        hubs,
    };
    let other = stranger("10.77.0.8");
    let said = x.says(&mut world, found(&other, 1));
    assert!(a.open(&said).is_empty(), "not who was asked for");
    let said = x.says(&mut world, found(&r, 2));
    assert!(a.open(&said).is_empty(), "too far");
    let said = x.says(&mut world, found(&r, 1));
    assert!(a.open(&said).is_empty(), "it said there is nobody");
    let said = y.says(&mut world, found(&r, 1));
    let record = r.signed();
    let answer = ToMember::Found {
        id: 5,
        record,
        online: true,
    };
    assert_eq!(a.open(&said), [answer]);
    // The next one is answered at once, and what changes is told.
    assert!(a.finds(&mut world, "10.77.0.9").is_some());
    let mut newer = stranger("10.77.0.9");
    (newer.identity, newer.record) = (r.identity, r.record);
    newer.record.sequence += 1;
    let said = y.says(
        &mut world,
        Between::Changed {
            record: newer.signed(),
            hubs: 1,
        },
    );
    let record = newer.signed();
    assert_eq!(a.open(&said), [ToMember::Changed { record }]);
    // That it is gone ends its way, and costs the member a hint.
    let (to, from, hops) = (newer.tag().0, a.tag().0, 1);
    let said = y.says(&mut world, Between::Absent { to, from, hops });
    let hint = Frame::Absent { tag: newer.tag() }.to_bytes();
    assert!(said.contains(&(a.at, hint)));
    assert_eq!(world.hub.neighbours()[1].members, 0);
}

#[test]
fn one_neighbour_has_so_much_and_members_as_before() {
    let (mut world, [mut x, y]) = with_neighbours(3, |config| {
        config.limits.neighbours.packets = Rate::new(1, 10);
        config.limits.neighbours.control = Rate::new(1, 5);
        config.limits.neighbours.questions = Rate::new(1, 5);
    });
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let r = stranger("10.77.0.9");
    let mut passed = |node: &Node| {
        let sent = (0..50).filter(|_| {
            let said = world.send(node.at, &node.carry(a.tag(), r.tag(), 1));
            !said.is_empty()
        });
        sent.count()
    };
    assert_eq!((passed(&x), passed(&y)), (10, 10));
    let find = Between::Find {
        asked: asked(1),
        what: What::Peer([7; 32]),
        hops: 1,
        visited: vec![],
    };
    let answered = (0..50).filter(|_| !x.says(&mut world, find.clone()).is_empty());
    assert!(answered.count() <= 5);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let refused = |change: &dyn Fn(&mut HubConfig, PeerId)| {
        let identity = Identity::generate().unwrap();
        let mut config = open();
        change(&mut config, identity.id());
        Hub::new(config, &identity, Box::new(noise()), Instant::now(), UNIX).is_err()
    };
    let key = |n| Neighbour::new(PeerId([n; 32]));
    assert!(!refused(
        &|config, _| config.neighbours = vec![key(1), key(2)]
    ));
    assert!(refused(&|config, _| config.max_hops = 1));
    assert!(refused(&|config, _| config.max_hops = MAX_HOPS + 1));
    assert!(refused(
        &|config, _| config.neighbours = vec![key(1), key(1)]
    ));
    assert!(refused(
        &|config, own| config.neighbours = vec![Neighbour::new(own)]
    ));
    assert!(refused(
        &|config, _| config.neighbours = (1..=17).map(key).collect()
    ));
    assert!(refused(&|config, _| {
        config.neighbours = vec![key(1)];
        config.members = vec![Admitted::new(PeerId([1; 32]), vec![])];
    }));
}

#[test]
fn isolated_members_are_not_shown_to_other_hubs_but_those_that_reach_all() {
    let mut common = Node::new(udp("192.0.2.1:1"), &["10.77.0.1"]);
    let (mut world, [mut x, _]) = with_neighbours(3, |config| {
        config.isolation = true;
        let addresses = common.record.addresses.clone();
        let mut admitted = Admitted::new(common.identity.id(), addresses);
        admitted.reaches_all = true;
        config.members = vec![admitted];
    });
    common.join(&mut world);
    assert_eq!(common.register(&mut world), Ok(false));
    let mut a = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let r = stranger("10.77.0.9");
    for (node, crosses) in [(&mut a, false), (&mut common, true)] {
        let said = x.introduces(&mut world, &r, node.tag());
        assert_eq!(!node.open(&said).is_empty(), crosses);
        let said = world.send(x.at, &x.carry(node.tag(), r.tag(), 1));
        assert_eq!(!said.is_empty(), crosses);
        let said = world.send(node.at, &node.relay(r.tag(), &[4; 40]));
        assert_eq!(said.iter().any(|(to, _)| *to == x.at), crosses);
        let find = Between::Find {
            asked: asked(u64::from(crosses)),
            what: What::Tag(node.tag().0),
            hops: 1,
            visited: vec![],
        };
        let said = x.says(&mut world, find);
        let found = |it: &ToMember| matches!(it, ToMember::Between(Between::Found { .. }));
        assert_eq!(x.open(&said).iter().any(found), crosses);
        // A question for somebody else goes no further from who is isolated.
        let what = What::Peer([7; 32]);
        let question = node.seal(&ToHub::Find { id: 3, what });
        let said = world.send(node.at, &question);
        assert_eq!(said.iter().any(|(to, _)| *to == x.at), crosses);
    }
}
