//! What is believed of a hub, and what it is told.

use super::*;

#[test]
fn another_key_is_not_believed_and_told() {
    let mut world = World::new();
    world.hub.signs_as = Some(Identity::generate().unwrap());
    world.run(60.0);
    assert!(world.hub.member.is_none(), "nothing was said to it");
    let status = world.link.status();
    assert!(status.why.contains("another key"), "{}", status.why);
    assert!(status.counters.disbelieved > 0);
}

#[test]
fn a_welcome_from_elsewhere_or_for_another_nonce_is_nothing() {
    let mut world = World::new();
    world.udp = false;
    world.flush();
    let hello = world.sent[0].2.clone();
    let welcome = world.hub.take(Carrier::Udp, &hello).remove(0);
    let frame = Frame::read(&welcome).unwrap();
    let elsewhere = Some(at("203.0.113.9:51820"));
    world.link.frame(
        Carrier::Udp,
        elsewhere,
        &frame,
        &world.keys,
        world.now,
        UNIX,
    );
    assert_eq!(world.link.status().state, LinkState::Greeting);
    let mut other = welcome.clone();
    other[HEADER] ^= 1;
    world.deliver(Carrier::Udp, &other);
    assert_eq!(world.link.status().state, LinkState::Greeting);
    world.deliver(Carrier::Tls, &welcome);
    assert_eq!(world.link.status().state, LinkState::Greeting);
    world.deliver(Carrier::Udp, &welcome);
    assert_eq!(world.link.status().state, LinkState::Joining);
}

#[test]
fn a_new_record_is_registered_at_once_and_until_it_is_taken() {
    let mut world = World::new();
    world.run(1.0);
    world.udp = false;
    world.tls = false;
    world.new_record(2);
    world.run(0.4);
    world.udp = true;
    world.run(0.5);
    assert_eq!(world.hub.registered, [1, 2]);
    world.new_record(2);
    world.run(5.0);
    assert_eq!(world.hub.registered, [1, 2], "the same is nothing new");
    let refusal = Refusal::Route("10.0.0.0/8".into());
    world.hub.refuses = Some(refusal.clone());
    world.new_record(3);
    world.run(1.0);
    assert!(world.is_up(), "it stays with what the hub knew before");
    assert_eq!(
        world.events.last().map(|it| &it.1),
        Some(&LinkEvent::Refused(refusal))
    );
}

#[test]
fn who_is_refused_is_told_and_tries_again_at_once_with_a_new_record() {
    let mut world = World::new();
    world.hub.refuses = Some(Refusal::Old(7));
    world.run(0.5);
    assert!(!world.is_up());
    assert_eq!(
        world.events.last().map(|it| &it.1),
        Some(&LinkEvent::Refused(Refusal::Old(7)))
    );
    world.hub.refuses = None;
    world.new_record(8);
    world.run(0.5);
    assert!(world.is_up());
    world.hub.refuses = Some(Refusal::NotAdmitted);
    world.new_record(9);
    world.run(0.5);
    assert!(!world.is_up());
    world.hub.refuses = None;
    world.run(5.0);
    assert!(world.is_up(), "it is tried again by itself");
}

#[test]
fn the_token_is_in_the_registration_only() {
    let token = Token("abc".to_owned().into());
    let mut world = World::with(|config| config.token = Some(token.clone()));
    world.run(0.5);
    let (_, first) = &world.hub.heard[0];
    assert!(matches!(first, ToHub::Register { token: Some(it), .. } if *it == token));
    let shows = |(_, _, bytes): &(_, _, Vec<u8>)| bytes.windows(3).any(|it| it == b"abc");
    assert!(!world.sent.iter().any(shows));
    assert!(!format!("{:?}", world.link).contains("abc"));
}

#[test]
fn who_is_looked_for_is_found_or_not_and_nobody_else_is_taken_for_it() {
    let mut world = World::new();
    let wanted = What::Address("10.77.0.2".parse().unwrap());
    world.link.find(1, wanted, world.now);
    world.run(0.5);
    let found = |world: &World, id| {
        let is = |(_, event): &(_, LinkEvent)| matches!(event, LinkEvent::Found { id: it, .. } if *it == id);
        world.events.iter().any(is)
    };
    assert!(found(&world, 1), "asked before it was up");
    world.lose = 50;
    world.link.find(2, wanted, world.now);
    world.run(2.0);
    assert!(found(&world, 2), "asked again");
    world.lose = 0;
    let other = What::Address("10.77.0.9".parse().unwrap());
    world.link.find(3, other, world.now);
    world.run(5.1);
    assert!(!found(&world, 3));
    assert!(
        world
            .events
            .iter()
            .any(|(_, it)| *it == LinkEvent::Unanswered { id: 3 })
    );
    for id in 10..=10 + u32::try_from(MAX_FINDS).unwrap() {
        world.link.find(id, other, world.now);
    }
    world.flush();
    let last = world.events.last().map(|it| it.1.clone());
    let over = 10 + u32::try_from(MAX_FINDS).unwrap();
    assert_eq!(last, Some(LinkEvent::Unanswered { id: over }));
}

#[test]
fn a_change_is_passed_on_and_acknowledged_but_no_forged_one() {
    let mut world = World::new();
    world.run(0.5);
    let peer = Identity::generate().unwrap();
    let new = record(&peer, world.keys.public(), 4);
    let mut forged = new.to_bytes();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for bytes in [forged, new.to_bytes()] {
        let told = world
            .hub
            .seal(&ToMember::Changed { record: bytes })
            .unwrap();
        world.deliver(Carrier::Udp, &told);
        world.flush();
    }
    let changed = |(_, it): &&(_, LinkEvent)| matches!(it, LinkEvent::Changed(_));
    assert_eq!(world.events.iter().filter(changed).count(), 1);
    let have = ToHub::Have {
        peer: peer.id().0,
        sequence: 4,
    };
    assert_eq!(world.hub.heard.last(), Some(&(Carrier::Udp, have)));
}
