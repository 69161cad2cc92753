//! Decides how much of a node's part of the directory one peer may have: its newest record, under as many
//! keys as that has, however many it signs; and how much one peer may give. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use vpn_core::{PeerId, PeerRecord};

use crate::directory::kademlia::slot::Slot;
use crate::libp2p::rate::Rate;

/// Records that one peer may give at once, and how many more each second: a record is under nine keys at
/// most, and is given again every 20 minutes, or after a pause of a second when that failed.
const BURST: u32 = 128;
const PER_SECOND: u32 = 2;

/// What is kept of one peer.
#[derive(Debug)]
struct Share {
    sequence: u64,
    /// Until when an older record could count, in seconds since the Unix epoch.
    until: u64,
    /// Where something of it is kept, with its number.
    slots: BTreeMap<Slot, u64>,
}

/// Who has how much.
#[derive(Debug)]
pub(super) struct Shares {
    max_peers: usize,
    peers: HashMap<PeerId, Share>,
    givers: Rate<PeerId, BURST, PER_SECOND>,
}

impl Shares {
    /// Of so many peers something may be kept.
    pub(super) fn new(max_peers: usize) -> Self {
        Self {
            max_peers,
            peers: HashMap::new(),
            givers: Rate::default(),
        }
    }

    /// Whether this peer may give one more.
    pub(super) fn may_give(&mut self, giver: PeerId, now: Instant) -> bool {
        self.givers.may(giver, now)
    }

    /// Whether nothing newer of its peer was seen.
    pub(super) fn is_newest(&self, record: &PeerRecord) -> bool {
        let share = self.peers.get(&record.peer);
        share.is_none_or(|share| share.sequence <= record.sequence)
    }

    /// Whether this very record is kept there.
    pub(super) fn has(&self, slot: Slot, record: &PeerRecord) -> bool {
        let share = self.peers.get(&record.peer);
        share.is_some_and(|share| share.slots.get(&slot) == Some(&record.sequence))
    }

    /// Whether there is room for this peer's.
    pub(super) fn has_room(&self, peer: PeerId) -> bool {
        self.peers.len() < self.max_peers || self.peers.contains_key(&peer)
    }

    /// This is kept here now, and no older one of its peer counts until then. Where else something of
    /// that peer was kept that it no longer claims: it has to go.
    pub(super) fn enter(&mut self, slot: Slot, record: &PeerRecord, until: u64) -> Vec<Slot> {
        let share = self.peers.entry(record.peer).or_insert_with(|| Share {
            sequence: record.sequence,
            until,
            slots: BTreeMap::new(),
        });
        share.until = share.until.max(until);
        share.sequence = share.sequence.max(record.sequence);
        let gone = share.slots.extract_if(.., |slot, _| !slot.holds(record));
        let gone = gone.map(|(slot, _)| slot).collect();
        share.slots.insert(slot, record.sequence);
        gone
    }

    /// Nothing of this peer is kept there any more.
    pub(super) fn leave(&mut self, slot: Slot, peer: PeerId) {
        if let Some(share) = self.peers.get_mut(&peer) {
            share.slots.remove(&slot);
        }
    }

    /// Forgets what cannot count any more, and who gave nothing for long.
    pub(super) fn sweep(&mut self, now: Instant, unix: u64) {
        self.peers.retain(|_, share| share.until > unix);
        self.givers.sweep(now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::directory::records::{Draft, MAX_ADDRESSES, Terms};
    use crate::identity::Identity;

    fn record(sequence: u64, first: u8, addresses: u8) -> PeerRecord {
        let hosts = (first..first + addresses).map(|host| [10, 7, 0, host].into());
        let draft = Draft {
            addresses: hosts.collect(),
            sequence,
            expires: 1000,
            ..Draft::default()
        };
        draft
            .sign(&Identity::from_bytes(&[1; 32]), &Terms::new(b"test\0"))
            .unwrap()
    }

    /// It signs one record after the other, each with other addresses.
    #[test]
    fn however_many_a_peer_signs_it_has_nine_keys() {
        let mut shares = Shares::new(10);
        let mut kept = BTreeSet::new();
        for sequence in 1..=30 {
            let record = record(sequence, sequence as u8 * 8, MAX_ADDRESSES as u8);
            assert!(shares.is_newest(&record));
            let claims = record.addresses.iter().map(|a| Slot::Address(*a));
            for slot in claims.chain([Slot::Peer(record.peer)]) {
                kept.insert(slot);
                for gone in shares.enter(slot, &record, 1000) {
                    kept.remove(&gone);
                }
            }
            assert_eq!(kept.len(), 1 + MAX_ADDRESSES);
        }
        assert!(!shares.is_newest(&record(29, 1, 1)));
        let last = record(30, 240, 1);
        assert!(shares.has(Slot::Peer(last.peer), &last));
        assert!(!shares.has(Slot::Address([10, 7, 0, 1].into()), &last));
        assert!(!shares.has(Slot::Peer(last.peer), &record(29, 1, 1)));
        // What came under one key is not under the others yet.
        let newer = record(31, 240, 1);
        let claim = Slot::Address(newer.addresses[0]);
        shares.enter(claim, &newer, 1000);
        assert!(shares.has(claim, &newer) && !shares.has(Slot::Peer(newer.peer), &newer));
        // As long as the older one could count.
        shares.sweep(Instant::now(), 999);
        assert!(!shares.is_newest(&record(29, 1, 1)));
        shares.sweep(Instant::now(), 1000);
        assert!(shares.is_newest(&record(29, 1, 1)));
    }

    #[test]
    fn peers_and_what_each_gives_are_bounded() {
        let mut shares = Shares::new(1);
        let record = record(1, 1, 1);
        assert!(shares.has_room(record.peer));
        shares.enter(Slot::Peer(record.peer), &record, 1000);
        assert!(shares.has_room(record.peer) && !shares.has_room(PeerId([9; 32])));
        let (giver, now) = (PeerId([3; 32]), Instant::now());
        assert!((0..BURST).all(|_| shares.may_give(giver, now)));
        assert!(!shares.may_give(giver, now));
        assert!(shares.may_give(PeerId([4; 32]), now));
        let later = now + Duration::from_secs(1);
        assert!((0..PER_SECOND).all(|_| shares.may_give(giver, later)));
        assert!(!shares.may_give(giver, later));
        shares.sweep(later + Duration::from_secs(600), 0);
        assert!((0..BURST).all(|_| shares.may_give(giver, later)));
    }
}
