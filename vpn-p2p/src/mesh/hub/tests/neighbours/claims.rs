//! What another hub may say about ways, places and records, and how often it may ask.

use super::*;

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
