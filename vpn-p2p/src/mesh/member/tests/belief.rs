//! What is believed of hubs and peers, for how long, and what asking costs.

use super::*;

/// The hub names somebody for an address that the configuration gives to another key: what waits for the
/// address is not sealed to that one.
#[test]
fn what_waits_for_an_address_goes_to_nobody_who_was_refused_it() {
    let mut world = World::new(2, |place, config| {
        if place == 0 {
            config.peers = vec![KnownPeer {
                peer: PeerId([9; 32]),
                addresses: vec![address(1)],
                rules: PeerRules::default(),
            }];
        }
    });
    world.run(Duration::from_millis(100));
    assert_eq!(world.send(0, 1, b"for another"), Outlet::Held);
    world.run(Duration::from_secs(5));
    assert!(world.got(1).is_empty());
    let member = &world.members[0].1;
    assert_eq!(member.status(world.now).drops.get(DropReason::NoSession), 1);
    assert!(member.holding.is_empty());
}

/// A hub's word is good for a day, whatever the record says.
#[test]
fn nobody_is_vouched_for_longer_than_a_day() {
    let mut world = World::new(1, |_, _| {});
    let blank = world.members[0].1.own_record().record().clone();
    let who = Identity::generate().unwrap();
    let record = crate::mesh::record::Record {
        peer: who.id(),
        addresses: vec![address(7)],
        expires: UNIX + 1_000_000,
        ..blank
    };
    let (member, now) = (&mut world.members[0].1, world.now);
    let slot = member.believe(record.sign(&who), now, UNIX).unwrap();
    assert_eq!(member.entry(slot).unwrap().vouched, UNIX + 86_400);
}

#[test]
fn a_denied_peer_gets_nothing() {
    let mut world = World::new(2, |place, config| {
        if place == 1 {
            config.default_rules.policy = crate::mesh::Policy::Deny;
        }
    });
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"let me in");
    world.run(Duration::from_secs(10));
    assert!(world.got(1).is_empty());
    // What waited for it does not wait for ever, and is counted.
    let member = &world.members[0].1;
    assert_eq!(member.status(world.now).drops.get(DropReason::NoSession), 1);
    assert!(member.holding.is_empty());
    assert_ne!(world.stage(0, 1), Some(Stage::Direct));
    assert_ne!(world.stage(0, 1), Some(Stage::Relayed));
}

/// A peer that goes says so; a later packet connects again.
#[test]
fn who_goes_and_comes_back_is_found_again() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    let id: PeerId = world.members[1].1.id();
    let slot = world.members[0].1.slot_of(id).unwrap();
    let now = world.now;
    world.members[0].1.entry_mut(slot).unwrap().peer.stop(now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.stage(1, 0), Some(Stage::Announced));
    assert_eq!(world.send(1, 0, b"back"), Outlet::Held);
    world.run(Duration::from_millis(50));
    assert_eq!(world.got(0), [packet(1, 0, b"back").bytes()]);
}

/// Anybody can send in the hub's name that a peer is not there: it costs a question a second, and no
/// packet.
#[test]
fn a_forged_word_that_a_peer_is_gone_changes_nothing() {
    let mut world = World::new(2, |_, _| {});
    world.closed = vec![world.members[1].0];
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    world.got(1);
    let tag = Tag::from(world.members[1].1.id());
    let forged = crate::mesh::wire::Frame::Absent { tag }.to_bytes();
    let at = world.members[0].0;
    for n in 0..50u8 {
        world.wire.push_back((hub_at(), at, forged.clone()));
        assert!(matches!(
            world.send(0, 1, &[n]),
            Outlet::Open(_, Way::Relay(_), _)
        ));
        world.run(Duration::from_millis(20));
    }
    assert_eq!(world.got(1).len(), 50);
    let finds = world.hub.as_ref().unwrap().status().finds;
    assert!(finds <= 1 + 2, "{finds} questions");
}

/// What only looks as if it came from the hub makes nobody a peer.
#[test]
fn a_forged_introduction_is_not_believed() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    let stranger = Identity::generate().unwrap();
    let record = crate::mesh::record::Record {
        peer: stranger.id(),
        addresses: vec![address(1)],
        ..world.members[1].1.own_record().record().clone()
    };
    let record = record.sign(&stranger).to_bytes();
    let introduce = crate::mesh::wire::Frame::Introduce { record: &record }.to_bytes();
    let datagram = &introduce[..];
    let (tag, hops) = (Tag::from(stranger.id()), 0);
    let forged = crate::mesh::wire::Frame::Relay {
        tag,
        hops,
        datagram,
    }
    .to_bytes();
    world.wire.push_back((hub_at(), world.members[0].0, forged));
    world.deliver();
    assert_eq!(world.drops, [DropReason::NotAuthentic]);
    assert!(world.members[0].1.status(world.now).peers.is_empty());
    assert_eq!(world.send(0, 1, b"1"), Outlet::Held);
    world.run(Duration::from_millis(10));
    assert_eq!(world.got(1).len(), 1);
}

/// A peer may say what is new about it, but not that it has another one's session key.
#[test]
fn nobody_takes_anothers_handshakes_by_claiming_its_session_key() {
    let mut world = World::new(3, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    let victim = world.members[2].1.own_record().record().session;
    let thief = world.members[1].1.identity.clone();
    let mut record = world.members[1].1.own_record().record().clone();
    record.session = victim;
    record.sequence += 1;
    let now = world.now;
    let slot = world.members[0].1.slot_of(thief.id()).unwrap();
    world.members[0].1.claimed(slot, record.sign(&thief), now);
    world.run(Duration::from_secs(1));
    assert_ne!(world.members[0].1.by_session.get(&victim), Some(&slot));
    world.send(2, 0, b"2");
    world.run(Duration::from_millis(10));
    assert_eq!(world.got(0), [packet(2, 0, b"2").bytes()]);
}

/// A record that is over ends the peer, and frees what it had.
#[test]
fn who_is_no_member_any_more_is_no_peer_any_more() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    let now = world.now;
    let soon = UNIX + RECORD_LIFETIME.as_secs() - 1;
    world.members[0].1.look_at_ages(now, soon);
    assert_eq!(world.stage(0, 1), Some(Stage::Direct));
    world.members[0].1.look_at_ages(now, soon + 1);
    world.run(Duration::from_millis(100));
    assert_eq!(world.stage(0, 1), Some(Stage::Registered));
    assert_eq!(world.members[0].1.addresses.peer(address(1)), None);
    // The same when no hub vouches for it.
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    let slot = world.members[0].1.slot_of(world.members[1].1.id()).unwrap();
    world.members[0].1.entry_mut(slot).unwrap().vouched = UNIX;
    let now = world.now;
    world.members[0].1.look_at_ages(now, UNIX);
    world.run(Duration::from_millis(100));
    assert_eq!(world.stage(0, 1), Some(Stage::Direct), "the hub still does");
    world.members[0].1.entry_mut(slot).unwrap().vouched = UNIX;
    let now = world.now;
    world.members[0]
        .1
        .check_with(slot, HubId(0), What::Tag([9; 8]), Check::Member, now);
    world.run(Duration::from_millis(100));
    assert_eq!(
        world.stage(0, 1),
        Some(Stage::Registered),
        "it does not know it"
    );
}

/// Who makes keys makes claims, as many as it likes; what is remembered of them is not as many.
#[test]
fn claims_without_number_are_refused_and_not_all_remembered() {
    let mut world = World::new(1, |_, _| {});
    let blank = world.members[0].1.own_record().record().clone();
    let (now, own) = (world.now, address(0));
    for number in 0..1100_u32 {
        let mut secret = [7; 32];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        let claimant = Identity::from_bytes(&secret);
        let record = crate::mesh::record::Record {
            addresses: vec![own],
            ..blank.clone()
        };
        world.members[0]
            .1
            .believe(record.sign(&claimant), now, UNIX);
    }
    assert_eq!(world.members[0].1.conflicts.len(), 1024);
    assert_eq!(world.members[0].1.addresses.peer(own), None);
}

/// A key was replaced, and its address is another key's: as soon as nobody vouches for the one before.
#[test]
fn an_address_is_its_heirs_once_its_holder_is_gone_by_the_same_record() {
    let mut world = World::new(1, |_, _| {});
    let blank = world.members[0].1.own_record().record().clone();
    let (now, address) = (world.now, address(5));
    let people = [7, 8].map(|n| Identity::from_bytes(&[n; 32]));
    let [before, heir] = people.map(|who| {
        let record = crate::mesh::record::Record {
            peer: who.id(),
            addresses: vec![address],
            ..blank.clone()
        };
        record.sign(&who)
    });
    let member = &mut world.members[0].1;
    let first = member.believe(before, now, UNIX).unwrap();
    let second = member.believe(heir.clone(), now, UNIX).unwrap();
    assert_eq!(member.addresses.peer(address), Some(first), "a conflict");
    member.expire(first, now);
    member.believe(heir, now, UNIX);
    assert_eq!(member.addresses.peer(address), Some(second));
}

/// A NAT that shows another address all the time: hubs, and everybody who knows us, hear of it now and
/// then.
#[test]
fn what_changes_all_the_time_is_signed_every_few_seconds() {
    let mut world = World::new(1, |_, _| {});
    world.run(Duration::from_secs(20));
    let sequence = |world: &World| world.members[0].1.own_record().record().sequence;
    let (mut signed, mut before) = (0, sequence(&world));
    let local = |n: u16| vec![SocketAddr::from(([198, 51, 100, 10], 5000 + n))];
    for n in 0..300 {
        let now = world.now;
        world.members[0].1.set_local(local(n), now, UNIX);
        world.run(Duration::from_millis(100));
        signed += u32::from(sequence(&world) != before);
        before = sequence(&world);
    }
    assert!((10..=16).contains(&signed), "{signed} in 30 s");
    world.run(Duration::from_secs(4));
    let record = world.members[0].1.own_record().record().clone();
    assert!(record.candidates.contains(&local(299)[0]), "the last one");
    let hub = world.hub.as_ref().unwrap().members(world.now);
    assert_eq!(hub[0].record.record(), &record);
}

/// Who forges a hub's address can name every peer there is.
#[test]
fn hints_that_peers_are_gone_cost_ten_questions_a_second_in_all() {
    const COUNT: usize = 60;
    let mut world = World::new(COUNT, |_, _| {});
    world.run(Duration::from_secs(1));
    for to in 1..COUNT {
        world.send(0, to, b"hello");
    }
    world.run(Duration::from_secs(60));
    let finds = |world: &World| world.hub.as_ref().unwrap().status().finds;
    let before = finds(&world);
    for _ in 0..50 {
        for to in 1..COUNT {
            let tag = Tag::from(world.members[to].1.id());
            let hint = Frame::Absent { tag }.to_bytes();
            let (now, bytes) = (world.now, BytesMut::from(&hint[..]));
            world.members[0].1.udp(hub_at(), bytes, now, UNIX);
        }
        world.run(Duration::from_millis(100));
    }
    let asked = finds(&world) - before;
    assert!((50..=60).contains(&asked), "{asked} in 5 s");
}
