//! What is believed of other hubs, and of who only says that it is one.

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

/// An exit of this hub, and a neighbour with a route to everywhere: what is in the mesh is its member's,
/// of whichever hub that is.
#[test]
fn a_network_around_the_mesh_is_no_answer_for_an_address_in_it() {
    let mut exit = Node::new(udp("192.0.2.3:3"), &["10.77.0.3"]);
    exit.record.routes = vec!["0.0.0.0/0".parse().unwrap()];
    let (mut world, [mut x, mut y]) = with_neighbours(3, |config| {
        let mut admitted = Admitted::new(exit.identity.id(), exit.record.addresses.clone());
        admitted.routes = exit.record.routes.clone();
        config.members = vec![admitted];
    });
    exit.join(&mut world);
    assert_eq!(exit.register(&mut world), Ok(false));
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let outside = a.finds(&mut world, "203.0.113.77");
    assert_eq!(outside, Some(exit.keys.public()));
    let what = What::Address(address("10.77.0.9"));
    let sealed = a.seal(&ToHub::Find { id: 5, what });
    let said = world.send(a.at, &sealed);
    let find = x.open(&said);
    let [ToMember::Between(Between::Find { asked, .. })] = find[..] else {
        panic!("{find:?}");
    };
    let found = |who: &Node| Between::Found {
        asked,
        record: who.signed(),
        online: true,
        hubs: 1,
    };
    let mut around = stranger("10.77.0.8");
    around.record.routes = exit.record.routes.clone();
    let said = x.says(&mut world, found(&around));
    assert!(a.open(&said).is_empty(), "it has a network around it");
    let r = stranger("10.77.0.9");
    let said = y.says(&mut world, found(&r));
    let said = a.open(&said);
    assert!(matches!(&said[..], [ToMember::Found { id: 5, record, .. }] if *record == r.signed()));
}

/// A record that is valid for longer than any of ours may be is believed from nobody.
#[test]
fn an_answer_bears_no_record_that_is_good_for_ever() {
    let (mut world, [mut x, _]) = with_neighbours(3, |_| {});
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut long = stranger("10.77.0.9");
    long.record.expires = UNIX + 25 * 3600;
    let what = What::Address(address("10.77.0.9"));
    let sealed = a.seal(&ToHub::Find { id: 5, what });
    let said = world.send(a.at, &sealed);
    let find = x.open(&said);
    let [ToMember::Between(Between::Find { asked, .. })] = find[..] else {
        panic!("{find:?}");
    };
    for (expires, answers) in [(UNIX + 25 * 3600, 0), (UNIX + 3600, 1)] {
        long.record.expires = expires;
        let record = long.signed();
        let said = x.says(
            &mut world,
            Between::Found {
                asked,
                record,
                online: true,
                hubs: 1,
            },
        );
        assert_eq!(a.open(&said).len(), answers);
    }
    assert_eq!(world.hub.status().refused_record, 1);
}

/// Three hubs in a ring tell each other of the same record.
#[test]
fn the_way_to_somebody_is_not_the_last_ones_that_speaks_of_it() {
    let (mut world, [mut x, mut y]) = with_neighbours(4, |_| {});
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut r = stranger("10.77.0.9");
    let tag = r.tag();
    let changed = |who: &Node, hubs| Between::Changed {
        record: who.signed(),
        hubs,
    };
    let goes_to = |world: &mut World| {
        let said = world.send(a.at, &a.relay(tag, &[4; 40]));
        said.first().map(|(to, _)| *to)
    };
    x.says(&mut world, changed(&r, 1));
    y.says(&mut world, changed(&r, 2));
    y.says(&mut world, changed(&r, 1));
    assert_eq!(goes_to(&mut world), Some(x.at), "no shorter one");
    // A new record, by the long way first.
    r.record.sequence += 1;
    y.says(&mut world, changed(&r, 2));
    x.says(&mut world, changed(&r, 1));
    assert_eq!(goes_to(&mut world), Some(x.at), "the shorter one");
    // Where it is gone, who says that it is there has it.
    let (to, from, hops) = (r.tag().0, a.tag().0, 1);
    x.says(&mut world, Between::Absent { to, from, hops });
    y.says(&mut world, changed(&r, 2));
    assert_eq!(goes_to(&mut world), Some(y.at));
    // And where its hub is.
    world.send(y.at, &y.seal(&ToHub::Bye));
    x.says(&mut world, changed(&r, 2));
    assert_eq!(goes_to(&mut world), Some(x.at));
}

/// Who forges where it is has a place for as long as it speaks from there alone.
#[test]
fn a_hubs_place_is_its_own_again_when_it_speaks_and_nobody_elses_leaving_takes_it() {
    let (mut world, [mut x, mut y]) = with_neighbours(3, |_| {});
    let a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let r = stranger("10.77.0.9");
    let carries = |world: &mut World, x: &Node| {
        let said = world.send(x.at, &x.carry(a.tag(), r.tag(), 1));
        let to = said.first().map(|(to, _)| *to);
        (to == Some(a.at), world.hub.neighbours()[0].carried)
    };
    assert!(carries(&mut world, &x).0);
    // The other one is heard in its place.
    let (own, ping) = (y.at, y.seal(&ToHub::Ping { nonce: 1 }));
    world.send(x.at, &ping);
    let before = carries(&mut world, &x).1;
    // It speaks: it is there.
    x.ask(&mut world, &ToHub::Ping { nonce: 3 });
    assert!(carries(&mut world, &x).1 > before, "charged to who sent it");
    // The other one goes: it was there last, as it believes.
    y.at = x.at;
    let bye = y.seal(&ToHub::Bye);
    world.send(own, &bye);
    assert!(carries(&mut world, &x).0);
}

/// Names of questions cannot be used up before they are asked, and one neighbour's fill takes nothing
/// from the other.
#[test]
fn names_of_questions_are_not_guessed_and_each_neighbour_has_its_share() {
    let (mut world, [mut x, mut y]) = with_neighbours(4, |config| {
        config.limits.neighbours.questions = Rate::new(1, 100_000);
    });
    let mut a = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut names = Vec::new();
    for n in 1..=4 {
        let what = What::Peer([n; 32]);
        let question = a.seal(&ToHub::Find { id: 5, what });
        let said = world.send(a.at, &question);
        let find = x.open(&said);
        let [ToMember::Between(Between::Find { asked, .. })] = find[..] else {
            panic!("{find:?}");
        };
        names.push(asked.number);
    }
    assert!(names.iter().all(|name| *name > 1 << 32), "{names:?}");
    let apart = |pair: &[u64]| pair[0].abs_diff(pair[1]) > 1 << 32;
    assert!(names.windows(2).all(apart), "{names:?}");
    let find = |number| Between::Find {
        asked: asked(number),
        what: What::Peer([7; 32]),
        hops: 2,
        visited: vec![],
    };
    let filled = (0..2000).filter(|n| {
        let said = x.says(&mut world, find(*n));
        let passes = |it: &ToMember| matches!(it, ToMember::Between(Between::Find { .. }));
        y.open(&said).iter().any(passes)
    });
    assert_eq!(filled.count(), 1024);
    let said = y.says(&mut world, find(1 << 40));
    let passed = x.open(&said);
    assert!(
        matches!(passed[..], [ToMember::Between(Between::Find { .. })]),
        "{passed:?}"
    );
}

/// A member asks for what nobody is, as fast as it can, and so does a neighbour's.
#[test]
fn questions_of_one_member_or_hub_leave_room_for_those_of_others_and_for_answers() {
    let (mut world, [mut x, mut y]) = with_neighbours(4, |config| {
        config.limits.questions = Rate::new(1, 10);
        config.limits.neighbours.questions = Rate::new(1, 60);
    });
    let mut evil = Node::member(&mut world, "192.0.2.1:1", &["10.77.0.1"]);
    let mut good = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    let asks = |world: &mut World, node: &mut Node, x: &mut Node, n: u8| {
        let what = What::Peer([n; 32]);
        let question = node.seal(&ToHub::Find { id: 5, what });
        let said = world.send(node.at, &question);
        x.open(&said).len()
    };
    let flood = (1..=200).map(|n| asks(&mut world, &mut evil, &mut x, n));
    assert_eq!(flood.sum::<usize>(), 10);
    // The same again and again is one question.
    let again = (0..200).map(|_| asks(&mut world, &mut good, &mut x, 201));
    assert_eq!(again.sum::<usize>(), 1);
    world.now += Duration::from_millis(300);
    assert_eq!(asks(&mut world, &mut good, &mut x, 201), 1, "one was lost");
    // A neighbour's are counted by themselves, and so are ours to the other one.
    let find = |number| Between::Find {
        asked: asked(number),
        what: What::Peer([7; 32]),
        hops: 2,
        visited: vec![],
    };
    let passed = (0..200).map(|n| {
        let said = y.says(&mut world, find(n));
        x.open(&said).len()
    });
    assert_eq!(passed.sum::<usize>(), 60 - 12);
    // Nothing of that keeps introductions out.
    let r = stranger("10.77.0.9");
    let said = y.introduces(&mut world, &r, good.tag());
    assert_eq!(good.open(&said).len(), 1);
}
