//! What a book believes, remembers and says about addresses, against a naive one too.

use super::*;
use crate::directory::records::{Draft, MAX_SKEW, MAX_VALIDITY};
use crate::identity::Identity;
use proptest::prelude::*;

const TERMS: Terms = Terms::new(b"test record v1\0");
const NOW: u64 = 1_000_000;

fn id(peer: u8) -> PeerId {
    Identity::from_bytes(&[peer; 32]).id()
}

fn address(host: u8) -> IpAddr {
    [10, 0, 0, host].into()
}

fn record(peer: u8, sequence: u64, expires: u64, hosts: &[u8]) -> PeerRecord {
    let draft = Draft {
        addresses: hosts.iter().map(|host| address(*host)).collect(),
        sequence,
        expires,
        body: Default::default(),
    };
    draft
        .sign(&Identity::from_bytes(&[peer; 32]), &TERMS)
        .unwrap()
}

#[test]
fn the_newest_counts_and_an_older_one_never_comes_back() {
    let mut book = Book::new(TERMS);
    let (old, new) = (
        record(1, 4, NOW + MAX_VALIDITY, &[4]),
        record(1, 5, NOW + 100, &[5]),
    );
    book.insert(old.clone(), NOW).unwrap();
    assert_eq!(book.holder(address(4), NOW), Some(&old));
    book.insert(new.clone(), NOW).unwrap();
    assert_eq!(book.get(id(1), NOW), Some(&new));
    assert_eq!(book.holder(address(4), NOW), None, "given up");
    let refused = Err(RecordError::Old { have: 5 });
    assert_eq!(book.insert(old.clone(), NOW), refused);
    assert_eq!(book.insert(new.clone(), NOW), refused);
    // The newer one expired and was taken out, and the older one would still be valid.
    assert_eq!(book.expire(NOW + 100), [id(1)]);
    assert_eq!(book.get(id(1), NOW + 100), None);
    assert_eq!(book.insert(old, NOW + MAX_VALIDITY - 1), refused);
    // When no older one can be valid, its number is forgotten.
    let end = NOW + MAX_VALIDITY + MAX_SKEW;
    book.expire(end - 1);
    assert_eq!(book.len(), 1);
    book.expire(end);
    assert!(book.is_empty());
}

#[test]
fn an_expired_record_is_nowhere_also_before_it_is_taken_out() {
    let mut book = Book::new(TERMS);
    book.insert(record(1, 1, NOW + 10, &[1]), NOW).unwrap();
    assert!(book.get(id(1), NOW + 9).is_some());
    assert!(book.get(id(1), NOW + 10).is_none());
    assert!(book.holder(address(1), NOW + 10).is_none());
    assert_eq!(book.records(NOW + 10).count(), 0);
}

#[test]
fn what_expired_by_a_clock_that_was_ahead_comes_back_and_nothing_else_of_its_number() {
    let mut book = Book::new(TERMS);
    let (older, held) = (
        record(1, 4, NOW + 5000, &[4]),
        record(1, 5, NOW + 3000, &[5]),
    );
    book.insert(held.clone(), NOW).unwrap();
    // Two hours ahead for a moment: it is taken out.
    assert_eq!(book.expire(NOW + 7200), [id(1)]);
    let refused = Err(RecordError::Old { have: 5 });
    assert_eq!(book.insert(older, NOW + 1), refused);
    let other = record(1, 5, NOW + 4000, &[6]);
    assert_eq!(book.insert(other.clone(), NOW + 1), refused);
    book.insert(held.clone(), NOW + 1).unwrap();
    assert_eq!(book.holder(address(5), NOW + 1), Some(&held));
    // While it is there, it is nothing new.
    assert_eq!(book.insert(held.clone(), NOW + 1), refused);
    // So is one that was taken out by hand.
    assert_eq!(book.remove(id(1)), Some(held.clone()));
    assert_eq!(book.insert(other, NOW + 2), refused);
    book.insert(held, NOW + 2).unwrap();
}

#[test]
fn what_was_entered_by_a_clock_that_was_ahead_shuts_nobody_out() {
    let mut book = Book::new(TERMS);
    let year = 365 * 24 * 60 * 60;
    book.insert(record(1, 900, NOW + year + 10, &[1]), NOW + year)
        .unwrap();
    // It would be refused now, so it is not believed, also without a successor.
    assert_eq!(book.get(id(1), NOW), None);
    assert_eq!(book.holder(address(1), NOW), None);
    let now = record(1, 5, NOW + 10, &[2]);
    book.insert(now.clone(), NOW).unwrap();
    assert_eq!(book.get(id(1), NOW), Some(&now));
    let refused = book.insert(record(1, 4, NOW + 10, &[3]), NOW);
    assert_eq!(refused, Err(RecordError::Old { have: 5 }));
    // Ahead by a minute: both are believed, and the newest counts as ever.
    book.insert(record(2, 7, NOW + 1000, &[2]), NOW + 60)
        .unwrap();
    let refused = book.insert(record(2, 6, NOW + 1000, &[2]), NOW);
    assert_eq!(refused, Err(RecordError::Old { have: 7 }));
    // Numbers are not remembered for a year either.
    book.insert(record(3, 1, NOW + year + 10, &[]), NOW + year)
        .unwrap();
    book.remove(id(3));
    book.expire(NOW);
    book.expire(NOW + MAX_VALIDITY + MAX_SKEW);
    assert_eq!(book.sequence(id(3)), None);
}

/// A clock that was wrong for a moment is no reason to go back.
#[test]
fn a_clock_that_was_behind_for_a_moment_forgets_no_number_of_a_record_that_is_held() {
    let mut book = Book::new(TERMS);
    let newest = record(1, 2, NOW + 10, &[1]);
    book.insert(newest.clone(), NOW).unwrap();
    book.expire(0);
    let refused = book.insert(record(1, 1, NOW + 10, &[3]), NOW);
    assert_eq!(refused, Err(RecordError::Old { have: 2 }));
    assert_eq!(book.get(id(1), NOW), Some(&newest));
}

#[test]
fn two_claims_are_told_and_decided_alike_whoever_came_first() {
    let (one, two) = (
        record(1, 9, NOW + 10, &[1, 2]),
        record(2, 1, NOW + 20, &[1]),
    );
    let said = |first: &PeerRecord, second: &PeerRecord| {
        let mut book = Book::new(TERMS);
        assert_eq!(book.insert(first.clone(), NOW), Ok(vec![]));
        let conflicts = book.insert(second.clone(), NOW).unwrap();
        assert_eq!(book.conflict(address(2), NOW), None);
        // The first one ends: no conflict is left.
        assert_eq!(book.conflict(address(1), NOW + 10), None);
        assert_eq!(book.holder(address(1), NOW + 10), Some(&two));
        conflicts
    };
    let conflicts = said(&one, &two);
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].address, address(1));
    assert_eq!(conflicts[0].losers.len(), 1);
    assert_eq!(conflicts, said(&two, &one));
}

#[test]
fn strangers_and_more_than_there_is_room_for_are_refused() {
    let mut book = Book::new(TERMS).members([id(1), id(2), id(3)]).max_peers(2);
    let refused = book.insert(record(9, 1, NOW + 10, &[]), NOW);
    assert_eq!(refused, Err(RecordError::NotMember));
    for peer in [1, 2] {
        book.insert(record(peer, 1, NOW + 10, &[]), NOW).unwrap();
    }
    let refused = book.insert(record(3, 1, NOW + 10, &[]), NOW);
    assert_eq!(refused, Err(RecordError::Full));
    // Who is there goes on.
    book.insert(record(1, 2, NOW + 10, &[]), NOW).unwrap();
    let later = NOW + MAX_VALIDITY + MAX_SKEW;
    book.insert(record(3, 1, later + 10, &[]), later).unwrap();
    assert_eq!(book.len(), 1);
}

/// All records that were ever taken, searched one by one.
#[derive(Default)]
struct Naive(Vec<(u64, PeerRecord)>);

impl Naive {
    fn newest(&self, peer: PeerId) -> Option<&PeerRecord> {
        let of = self.0.iter().map(|(_, record)| record);
        of.filter(|record| record.peer == peer)
            .max_by_key(|record| record.sequence)
    }

    fn insert(&mut self, record: &PeerRecord, unix: u64) -> bool {
        let horizon = |at: u64| at + MAX_VALIDITY + MAX_SKEW;
        let remembered = self.0.iter().rev().find(|(_, r)| r.peer == record.peer);
        let newer = remembered
            .is_none_or(|(at, known)| horizon(*at) <= unix || known.sequence < record.sequence);
        let taken = newer && record.expires > unix && record.expires <= horizon(unix);
        if taken {
            self.0.retain(|(_, r)| r.peer != record.peer);
            self.0.push((unix, record.clone()));
        }
        taken
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_says_what_a_naive_one_says(steps in proptest::collection::vec(
        (1u8..5, 0u64..6, 0u64..2 * MAX_VALIDITY, 0u64..40_000, proptest::collection::btree_set(1u8..4, 0..3), any::<bool>()),
        1..40,
    )) {
        let (mut book, mut naive, mut now) = (Book::new(TERMS), Naive::default(), NOW);
        for (peer, sequence, validity, pause, hosts, expire) in steps {
            now += pause;
            if expire {
                book.expire(now);
            }
            let hosts: Vec<u8> = hosts.into_iter().collect();
            let offered = record(peer, sequence, now + validity, &hosts);
            let taken = book.insert(offered.clone(), now).is_ok();
            prop_assert_eq!(taken, naive.insert(&offered, now));
            for peer in 1..5 {
                let wanted = naive.newest(id(peer)).filter(|record| record.expires > now);
                prop_assert_eq!(book.get(id(peer), now), wanted);
            }
            for host in 1..4 {
                let valid = naive.0.iter().map(|(_, r)| r).filter(|r| r.expires > now);
                let claims: Vec<PeerId> = valid
                    .filter(|r| r.addresses.contains(&address(host)))
                    .map(|r| r.peer)
                    .collect();
                let wanted = crate::directory::claims::winner(address(host), claims.iter().copied());
                prop_assert_eq!(book.holder(address(host), now).map(|r| r.peer), wanted);
                prop_assert_eq!(book.claimants(address(host), now).count(), claims.len());
            }
        }
    }
}
