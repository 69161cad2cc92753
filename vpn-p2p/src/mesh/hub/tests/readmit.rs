//! A hub that is told of other members while it runs.

use super::*;

fn config(members: &[&Node], token: Option<&str>) -> HubConfig {
    let admitted = |node: &&Node| {
        let addresses = node.record.addresses.clone();
        Admitted::new(node.identity.id(), addresses)
    };
    HubConfig {
        members: members.iter().map(admitted).collect(),
        token: token.map(super::token),
        ..open()
    }
}

/// One on the list, one by token.
fn two() -> (World, Node, Node) {
    let mut listed = Node::new(udp("192.0.2.1:1"), &["10.77.0.1"]);
    let mut world = World::new(config(&[&listed], Some("open sesame")));
    listed.join(&mut world);
    assert_eq!(listed.register_with(&mut world, None), Ok(false));
    let guest = Node::member(&mut world, "192.0.2.2:2", &["10.77.0.2"]);
    (world, listed, guest)
}

/// Sets it; who was told to go.
fn readmit(world: &mut World, config: &HubConfig, nodes: [&mut Node; 2]) -> [bool; 2] {
    let gone = world.hub.readmit(config).unwrap();
    let said = world.out();
    let told = nodes.map(|node| node.open(&said) == [ToMember::Bye]);
    assert_eq!(gone, told.iter().filter(|told| **told).count());
    told
}

#[test]
fn who_is_admitted_as_before_notices_nothing_and_a_new_one_is_let_in() {
    let (mut world, mut listed, mut guest) = two();
    let mut third = Node::new(udp("192.0.2.3:3"), &["10.77.0.3"]);
    third.join(&mut world);
    let refused = third.register_with(&mut world, None);
    assert_eq!(refused, Err(Refusal::NotAdmitted));
    let more = config(&[&listed, &third], Some("open sesame"));
    let told = readmit(&mut world, &more, [&mut listed, &mut guest]);
    assert_eq!(told, [false, false]);
    assert_eq!(third.register_with(&mut world, None), Ok(false));
    assert!(listed.is_here(&mut world) && guest.is_here(&mut world));
    assert!(guest.finds(&mut world, "10.77.0.3").is_some());
    // Who came by the token and is on the list now stays when the token goes.
    let all = config(&[&listed, &third, &guest], Some("open sesame"));
    let told = readmit(&mut world, &all, [&mut listed, &mut guest]);
    assert_eq!(told, [false, false]);
    let all = config(&[&listed, &third, &guest], None);
    let told = readmit(&mut world, &all, [&mut listed, &mut guest]);
    assert_eq!(told, [false, false]);
}

#[test]
fn who_is_not_admitted_any_more_goes_with_its_address() {
    let (mut world, mut listed, mut guest) = two();
    let none = config(&[], Some("open sesame"));
    let told = readmit(&mut world, &none, [&mut listed, &mut guest]);
    assert_eq!(told, [true, false]);
    assert!(!world.hub.is_member(listed.at));
    assert_eq!(guest.finds(&mut world, "10.77.0.1"), None);
    let mut heir = Node::member(&mut world, "192.0.2.4:4", &["10.77.0.1"]);
    assert!(heir.is_here(&mut world), "its address is free");
    for other in [None, Some("another token")] {
        let (mut world, mut listed, mut guest) = two();
        let other = config(&[&listed], other);
        let told = readmit(&mut world, &other, [&mut listed, &mut guest]);
        assert_eq!(told, [false, true], "who came by a token that is no more");
        guest.join(&mut world);
        assert_eq!(guest.register(&mut world), Err(Refusal::NotAdmitted));
    }
}

#[test]
fn who_has_what_is_another_ones_now_or_is_in_no_network_goes() {
    let (mut world, mut listed, mut guest) = two();
    let heir = Node::new(udp("192.0.2.5:5"), &["10.77.0.2"]);
    let pinned = config(&[&listed, &heir], Some("open sesame"));
    let told = readmit(&mut world, &pinned, [&mut listed, &mut guest]);
    assert_eq!(told, [false, true]);
    let (mut world, mut listed, mut guest) = two();
    let mut elsewhere = config(&[&listed], Some("open sesame"));
    elsewhere.networks = vec!["10.88.0.0/24".parse().unwrap()];
    let told = readmit(&mut world, &elsewhere, [&mut listed, &mut guest]);
    assert_eq!(told, [false, true]);
}

/// A member is told at its registration whether it is isolated.
#[test]
fn who_is_isolated_from_now_on_registers_anew() {
    let (mut world, mut listed, mut guest) = two();
    let mut apart = config(&[&listed], Some("open sesame"));
    apart.isolation = true;
    apart.members[0].reaches_all = true;
    let told = readmit(&mut world, &apart, [&mut listed, &mut guest]);
    assert_eq!(told, [false, true]);
    guest.join(&mut world);
    assert_eq!(guest.register(&mut world), Ok(true));
}

#[test]
fn where_there_is_less_room_those_that_are_away_go_first() {
    let (mut world, mut listed, mut guest) = two();
    let mut away = Node::member(&mut world, "192.0.2.6:6", &["10.77.0.6"]);
    away.ask(&mut world, &ToHub::Bye);
    world.now += Duration::from_secs(1);
    assert!(guest.is_here(&mut world));
    let mut fewer = config(&[&listed], Some("open sesame"));
    fewer.max_members = 2;
    assert_eq!(world.hub.readmit(&fewer).unwrap(), 1);
    assert!(guest.finds(&mut world, "10.77.0.6").is_none());
    fewer.max_members = 1;
    let told = readmit(&mut world, &fewer, [&mut listed, &mut guest]);
    assert_eq!(told, [false, true]);
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let (mut world, mut listed, mut guest) = two();
    let mut wrong = config(&[&listed, &listed], None);
    assert!(world.hub.readmit(&wrong).is_err());
    wrong = config(&[&listed], None);
    wrong.max_members = 0;
    assert!(world.hub.readmit(&wrong).is_err());
    assert!(world.out().is_empty());
    assert!(listed.is_here(&mut world) && guest.is_here(&mut world));
    let third = Node::member(&mut world, "192.0.2.7:7", &["10.77.0.7"]);
    assert!(world.hub.is_member(third.at), "the token admits as before");
}
