//! What is asked when, what waits, and whose packets are let in.

use super::*;
use crate::directory::records::Draft;
use crate::identity::Identity;
use crate::libp2p::body::TERMS;

const UNIX: u64 = 1_000_000;

fn id(of: u8) -> PeerId {
    Identity::from_bytes(&[of; 32]).id()
}

/// Those of peer 1, which has address 1.
fn decided_by(authority: Authority) -> Addresses {
    let place = Place {
        me: id(1),
        own: vec![[10, 7, 0, 1].into()],
        networks: vec!["10.7.0.0/16".parse().unwrap()],
        authority,
    };
    Addresses::new(place, 100)
}

fn addresses() -> Addresses {
    decided_by(Authority::Claims)
}

fn record(of: u8, sequence: u64, host: u8) -> PeerRecord {
    let draft = Draft {
        addresses: vec![[10, 7, 0, host].into()],
        sequence,
        expires: UNIX + 100,
        ..Draft::default()
    };
    draft
        .sign(&Identity::from_bytes(&[of; 32]), &TERMS)
        .unwrap()
}

fn packet() -> Packet {
    Packet::from_slice(&[0x45; 100])
}

#[test]
fn one_question_at_a_time_and_what_waits_goes_where_it_belongs() {
    let (mut all, now) = (addresses(), Instant::now());
    let to: IpAddr = [10, 7, 0, 2].into();
    for _ in 0..2 {
        assert_eq!(all.find(to, now, UNIX), Where::Waits);
        all.hold(to, &packet(), now);
    }
    assert_eq!(all.take_questions(), [to]);
    let two = record(2, 1, 2);
    all.learn(two.clone(), now, UNIX).unwrap();
    let found = Some(vec![two.peer]);
    let (peer, waited) = all.answered(to, found, now, UNIX).waited.unwrap();
    assert_eq!((peer, waited.len()), (two.peer, 2));
    assert_eq!(all.find(to, now, UNIX), Where::Peer(two.peer));
    assert!(!all.has_questions());
    // Its end is the record's.
    assert_eq!(all.find(to, now, UNIX + 100), Where::Waits);
    assert_eq!(all.take_questions(), [to]);
}

#[test]
fn that_nobody_has_it_is_believed_for_longer_each_time() {
    let (mut all, mut now) = (addresses(), Instant::now());
    let to: IpAddr = [10, 7, 0, 2].into();
    let mut pause = NOBODY_FIRST;
    for _ in 0..8 {
        assert_eq!(all.find(to, now, UNIX), Where::Waits);
        assert_eq!(all.take_questions(), [to]);
        all.hold(to, &packet(), now);
        assert!(all.answered(to, Some(vec![]), now, UNIX).waited.is_none());
        let before = now + pause - Duration::from_millis(1);
        let dropped = Where::Drop(DropReason::NoSession);
        assert_eq!(all.find(to, before, UNIX), dropped);
        now += pause;
        pause = (pause * 2).min(NOBODY_LONGEST);
    }
    assert_eq!(all.holding.drops.get(DropReason::NoSession), 8);
}

#[test]
fn a_scan_is_bounded_and_what_is_no_members_is_not_asked_about() {
    let (mut all, now) = (addresses(), Instant::now());
    for text in [
        "10.8.0.1",
        "10.7.0.1",
        "10.7.0.0",
        "10.7.255.255",
        "224.0.0.1",
        "fd00::1",
    ] {
        let dropped = Where::Drop(DropReason::NotRoutable);
        assert_eq!(
            all.find(text.parse().unwrap(), now, UNIX),
            dropped,
            "{text}"
        );
    }
    let host = |n: usize| IpAddr::from([10, 7, 1 + (n >> 8) as u8, n as u8]);
    for n in 0..MAX_LOOKUPS {
        assert_eq!(all.find(host(n), now, UNIX), Where::Waits);
    }
    let full = Where::Drop(DropReason::HoldFull);
    assert_eq!(all.find(host(MAX_LOOKUPS), now, UNIX), full);
    assert_eq!(all.take_questions().len(), MAX_LOOKUPS);
    all.answered(host(0), Some(vec![]), now, UNIX);
    let later = now + NOBODY_FIRST;
    assert_eq!(all.find(host(MAX_LOOKUPS), later, UNIX), Where::Waits);
}

#[test]
fn a_source_is_its_holders_alone_and_a_conflict_is_told_once() {
    let (mut all, now) = (addresses(), Instant::now());
    let source: IpAddr = [10, 7, 0, 2].into();
    let (one, two) = (record(3, 1, 2), record(2, 1, 2));
    assert!(!all.may_send(one.peer, source, now, UNIX));
    assert_eq!(all.learn(one.clone(), now, UNIX), Ok(vec![]));
    assert!(all.may_send(one.peer, source, now, UNIX));
    let told = all.learn(two.clone(), now, UNIX).unwrap();
    assert_eq!(told.len(), 1);
    let winner = told[0].winner;
    for peer in [one.peer, two.peer] {
        assert_eq!(all.may_send(peer, source, now, UNIX), peer == winner);
    }
    assert_eq!(all.learn(record(2, 2, 2), now, UNIX), Ok(vec![]));
    assert_eq!(all.conflicts(UNIX), told);
    let back = all.learn(two, now, UNIX);
    assert_eq!(back, Err(RecordError::Old { have: 2 }));
}

#[test]
fn nobody_is_sent_to_or_heard_from_outside_the_networks_or_at_our_address() {
    for authority in [Authority::Claims, Authority::Directory] {
        let (mut all, now) = (decided_by(authority), Instant::now());
        let draft = Draft {
            addresses: vec![[8, 8, 8, 8].into(), [10, 7, 0, 1].into()],
            sequence: 1,
            expires: UNIX + 100,
            ..Draft::default()
        };
        let claims = draft.sign(&Identity::from_bytes(&[2; 32]), &TERMS).unwrap();
        all.learn(claims.clone(), now, UNIX).unwrap();
        for address in all.take_questions() {
            all.answered(address, Some(vec![claims.peer]), now, UNIX);
        }
        for address in claims.addresses {
            let dropped = Where::Drop(DropReason::NotRoutable);
            assert_eq!(all.find(address, now, UNIX), dropped);
            assert!(!all.may_send(claims.peer, address, now, UNIX));
        }
        // That somebody says it has ours is told all the same.
        let conflicts = all.conflicts(UNIX);
        assert_eq!(conflicts.len(), 1, "{authority:?}");
        assert_eq!(conflicts[0].address, IpAddr::from([10, 7, 0, 1]));
        let mut both = conflicts[0].losers.clone();
        both.push(conflicts[0].winner);
        assert!(both.contains(&id(1)) && both.contains(&id(2)));
    }
}

/// The claim that wins by its rank, and the other one.
fn rivals() -> (PeerRecord, PeerRecord) {
    let (one, other) = (record(2, 1, 9), record(3, 1, 9));
    let winner = crate::directory::winner([10, 7, 0, 9].into(), [one.peer, other.peer]);
    match winner == Some(one.peer) {
        true => (one, other),
        false => (other, one),
    }
}

#[test]
fn who_leased_it_last_has_it_whatever_others_claim() {
    let (mut all, now) = (decided_by(Authority::Directory), Instant::now());
    let to: IpAddr = [10, 7, 0, 9].into();
    let (first, second) = rivals();
    // A claim alone is nothing.
    all.learn(first.clone(), now, UNIX).unwrap();
    assert!(!all.may_send(first.peer, to, now, UNIX));
    assert_eq!(all.take_questions(), [to]);
    all.answered(to, Some(vec![first.peer]), now, UNIX);
    assert_eq!(all.find(to, now, UNIX), Where::Peer(first.peer));
    // Its lease ended, and another one has the address: asked at once, and no conflict.
    assert_eq!(all.learn(second.clone(), now, UNIX), Ok(vec![]));
    assert_eq!(all.take_questions(), [to]);
    assert_eq!(all.find(to, now, UNIX), Where::Peer(first.peer));
    all.answered(to, Some(vec![second.peer]), now, UNIX);
    assert_eq!(all.find(to, now, UNIX), Where::Peer(second.peer));
    assert!(all.may_send(second.peer, to, now, UNIX));
    assert!(!all.may_send(first.peer, to, now, UNIX));
    assert_eq!(all.conflicts(UNIX), []);
    assert!(!all.has_questions());
}

#[test]
fn who_cannot_be_connected_is_doubted_and_a_newcomer_waits_for_no_pause() {
    let (mut all, now) = (decided_by(Authority::Directory), Instant::now());
    let to: IpAddr = [10, 7, 0, 9].into();
    let (dead, next) = rivals();
    all.learn(dead.clone(), now, UNIX).unwrap();
    assert_eq!(all.find(to, now, UNIX), Where::Waits);
    all.take_questions();
    all.answered(to, Some(vec![dead.peer]), now, UNIX);
    all.hold_for(dead.peer, &packet(), now);
    all.not_connected(dead.peer, now, UNIX);
    assert_eq!(all.take_questions(), [to]);
    all.answered(to, Some(vec![]), now, UNIX);
    let nobody = Where::Drop(DropReason::NoSession);
    assert_eq!(all.find(to, now, UNIX), nobody);
    // Its record is valid still. What comes during a question is asked once more.
    all.learn(next.clone(), now, UNIX).unwrap();
    assert_eq!(all.take_questions(), [to]);
    all.learn(record(2, 2, 9), now, UNIX).unwrap();
    all.hold(to, &packet(), now);
    assert!(all.answered(to, Some(vec![]), now, UNIX).waited.is_none());
    assert_eq!(all.find(to, now, UNIX), Where::Waits);
    assert_eq!(all.take_questions(), [to]);
    let answered = all.answered(to, Some(vec![next.peer]), now, UNIX);
    let (peer, waited) = answered.waited.unwrap();
    assert_eq!((peer, waited.len()), (next.peer, 1));
}

#[test]
fn claims_count_while_who_decides_cannot_be_asked() {
    let (mut all, now) = (decided_by(Authority::Directory), Instant::now());
    let to: IpAddr = [10, 7, 0, 9].into();
    let (first, second) = rivals();
    all.learn(second.clone(), now, UNIX).unwrap();
    assert!(!all.is_settled(second.peer, now, UNIX));
    assert_eq!(all.take_questions(), [to]);
    all.answered(to, None, now, UNIX);
    assert!(all.is_settled(second.peer, now, UNIX));
    assert_eq!(all.find(to, now, UNIX), Where::Peer(second.peer));
    assert!(all.may_send(second.peer, to, now, UNIX));
    assert!(!all.has_questions());
    // It is asked now and then, and nobody waits for that.
    let later = now + NOBODY_FIRST;
    assert_eq!(all.find(to, later, UNIX), Where::Peer(second.peer));
    assert_eq!(all.take_questions(), [to]);
    all.answered(to, Some(vec![second.peer]), later, UNIX);
    // What it said stays, also when it is away again and somebody else claims more.
    all.learn(first.clone(), later, UNIX).unwrap();
    all.take_questions();
    all.answered(to, None, later, UNIX);
    assert_eq!(all.find(to, later, UNIX), Where::Peer(second.peer));
    assert!(!all.may_send(first.peer, to, later, UNIX));
}

#[test]
fn packets_for_a_peer_that_is_being_connected_stay_in_order() {
    let (mut all, now) = (addresses(), Instant::now());
    let peer = record(2, 1, 2).peer;
    assert!(all.hold_for(peer, &packet(), now));
    assert!(!all.hold_for(peer, &packet(), now));
    assert_eq!(all.connected(peer).len(), 2);
    // What came while those were sent.
    assert!(all.is_connecting(peer));
    assert!(all.connected(peer).is_empty());
    assert!(!all.is_connecting(peer));
    all.hold_for(peer, &packet(), now);
    all.not_connected(peer, now, UNIX);
    assert_eq!(all.holding.drops.get(DropReason::NoSession), 1);
}
