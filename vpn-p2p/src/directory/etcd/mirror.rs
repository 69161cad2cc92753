//! What etcd has, kept here: events go in, lookups are answered without asking. Pure.
//!
//! etcd decides whose a leased address is: of several claims of it only its holder's counts. A record
//! that etcd has not any more is nowhere, but remembered: the same one may come back, an older one not.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use vpn_core::{PeerId, PeerRecord};

use super::keys::{Key, Keys, unhex};
use super::past::Past;
use crate::directory::book::Book;
use crate::directory::records::{MAX_ADDRESSES, RecordError, decode};

#[derive(Debug)]
pub(super) struct Mirror {
    keys: Keys,
    book: Book,
    /// Whose records etcd has now.
    present: HashSet<PeerId>,
    /// Whose leased addresses are.
    holders: HashMap<IpAddr, PeerId>,
    max_holders: usize,
    /// Up to which revision of etcd this is; `None` before it was loaded.
    revision: Option<i64>,
    /// By what etcd is known again.
    past: Past,
    refused: u64,
}

/// What is loaded page by page, and counts when all of it is there: a copy of two moments would give
/// addresses to nodes that do not have them. Bounded as the mirror is.
#[derive(Debug, Default)]
pub(super) struct Loading {
    present: HashSet<PeerId>,
    holders: HashMap<IpAddr, PeerId>,
    /// By what etcd is known again.
    pub(super) past: Past,
}

impl Mirror {
    pub(super) fn new(keys: Keys, book: Book) -> Self {
        Self {
            keys,
            max_holders: crate::directory::MAX_PEERS * MAX_ADDRESSES,
            book,
            present: HashSet::new(),
            holders: HashMap::new(),
            revision: None,
            past: Past::default(),
            refused: 0,
        }
    }

    pub(super) const fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// Everything up to this revision was applied.
    pub(super) fn reached(&mut self, revision: i64) {
        self.revision = self.revision.max(Some(revision));
    }

    /// A key was written at this revision, and whether it was not there before.
    pub(super) fn noted_written(&mut self, key: &[u8], revision: i64, is_new: bool) {
        if let Some(kind) = self.keys.kind_of(key) {
            self.past.wrote(kind, key, revision, is_new);
        }
    }

    /// A key was deleted.
    pub(super) fn noted_deleted(&mut self, key: &[u8]) {
        if let Some(kind) = self.keys.kind_of(key) {
            self.past.deleted(kind, key);
        }
    }

    /// By what etcd is known again.
    pub(super) fn past(&self) -> Past {
        self.past.clone()
    }

    /// It has to be loaded anew; until then it says what it said.
    pub(super) fn lost(&mut self) {
        self.revision = None;
    }

    /// An entry of what etcd has at a revision, while all of it is loaded. Returns whose record is newer
    /// than one that was there all the time: what is new by itself is told when all is there.
    pub(super) fn page(
        &mut self,
        loading: &mut Loading,
        key: &[u8],
        value: &[u8],
        unix: u64,
    ) -> Option<PeerId> {
        match self.keys.read(key)? {
            Key::Address(address) => {
                let holder = std::str::from_utf8(value).ok().and_then(unhex);
                match holder.filter(|_| loading.holders.len() < self.max_holders) {
                    Some(holder) => drop(loading.holders.insert(address, holder)),
                    None => self.refused += 1,
                }
                None
            }
            Key::Record(peer) => {
                let newer = self.enter(peer, value, unix)?;
                loading.present.insert(peer);
                let was_there = self.present.contains(&peer);
                (newer && was_there).then_some(peer)
            }
        }
    }

    /// An entry that is too long to be fetched.
    pub(super) fn skipped(&mut self) {
        self.refused += 1;
    }

    /// All pages of this revision are there: they replace what was. Returns whose records are new.
    pub(super) fn loaded(&mut self, all: Loading, revision: i64) -> Vec<PeerId> {
        let before = std::mem::replace(&mut self.present, all.present);
        self.holders = all.holders;
        self.past = all.past;
        self.revision = Some(revision);
        self.present.difference(&before).copied().collect()
    }

    /// A key was written. Returns whose record is new.
    pub(super) fn written(&mut self, key: &[u8], value: &[u8], unix: u64) -> Option<PeerId> {
        let changed = self.put(key, value, unix)?;
        (changed.newer || changed.back).then_some(changed.peer)
    }

    /// A key was deleted, or its lease is over.
    pub(super) fn deleted(&mut self, key: &[u8]) {
        match self.keys.read(key) {
            Some(Key::Record(peer)) => {
                self.present.remove(&peer);
            }
            Some(Key::Address(address)) => {
                self.holders.remove(&address);
            }
            None => {}
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8], unix: u64) -> Option<Changed> {
        match self.keys.read(key)? {
            Key::Address(address) => {
                let holder = std::str::from_utf8(value).ok().and_then(unhex);
                let room = self.holders.len() < self.max_holders;
                match holder {
                    Some(holder) if room || self.holders.contains_key(&address) => {
                        self.holders.insert(address, holder);
                    }
                    _ => self.refused += 1,
                }
                None
            }
            Key::Record(peer) => {
                let newer = self.enter(peer, value, unix)?;
                let back = self.present.insert(peer);
                Some(Changed { peer, newer, back })
            }
        }
    }

    /// Enters a peer's record: whether it is newer than what was known. `None` if it is not believed.
    fn enter(&mut self, peer: PeerId, value: &[u8], unix: u64) -> Option<bool> {
        let record = decode(value).ok().filter(|record| record.peer == peer);
        let Some(record) = record else {
            self.refused += 1;
            return None;
        };
        let sequence = record.sequence;
        match self.book.insert(record, unix) {
            Ok(_) => Some(true),
            Err(RecordError::Old { have }) if have == sequence => Some(false),
            Err(error) => {
                tracing::debug!(%peer, %error, "etcd has a record that is not believed");
                self.refused += 1;
                None
            }
        }
    }

    pub(super) fn get(&self, peer: PeerId, unix: u64) -> Option<&PeerRecord> {
        let present = self.present.contains(&peer);
        self.book.get(peer, unix).filter(|_| present)
    }

    /// Who claims an address; only its holder where it is leased.
    pub(super) fn claimants(&self, address: IpAddr, unix: u64) -> Vec<PeerRecord> {
        let holder = self.holders.get(&address);
        let claims = self.book.claimants(address, unix);
        let claims = claims.filter(|record| self.present.contains(&record.peer));
        claims
            .filter(|record| holder.is_none_or(|holder| *holder == record.peer))
            .cloned()
            .collect()
    }

    /// How many records there are, and how many were not believed.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.present.len(), self.refused)
    }

    /// Makes room of what expired.
    pub(super) fn expire(&mut self, unix: u64) {
        for peer in self.book.expire(unix) {
            self.present.remove(&peer);
        }
    }

    pub(super) const fn terms(&self) -> &crate::directory::Terms {
        self.book.terms()
    }
}

struct Changed {
    peer: PeerId,
    /// Newer than what was known.
    newer: bool,
    /// It was not there.
    back: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::etcd::keys::hex;
    use crate::directory::records::{Draft, Terms, encode};
    use crate::identity::Identity;

    const TERMS: Terms = Terms::new(b"test record v1\0");
    const NOW: u64 = 1_000_000;

    fn record(peer: u8, sequence: u64, host: u8) -> PeerRecord {
        let draft = Draft {
            addresses: vec![[10, 0, 0, host].into()],
            sequence,
            expires: NOW + 1000,
            body: Default::default(),
        };
        draft
            .sign(&Identity::from_bytes(&[peer; 32]), &TERMS)
            .unwrap()
    }

    fn keys() -> Keys {
        Keys::below("vpn/".into())
    }

    fn mirror() -> Mirror {
        Mirror::new(keys(), Book::new(TERMS))
    }

    fn write(mirror: &mut Mirror, record: &PeerRecord) -> Option<PeerId> {
        mirror.written(keys().record(record.peer).as_bytes(), &encode(record), NOW)
    }

    #[test]
    fn a_record_that_went_may_come_back_and_an_older_one_never() {
        let mut mirror = mirror();
        let (old, new) = (record(1, 1, 1), record(1, 2, 1));
        assert_eq!(write(&mut mirror, &old), Some(old.peer));
        assert_eq!(write(&mut mirror, &new), Some(new.peer));
        assert_eq!(write(&mut mirror, &new), None, "no news");
        mirror.deleted(keys().record(new.peer).as_bytes());
        assert_eq!(mirror.get(new.peer, NOW), None);
        assert!(mirror.claimants([10, 0, 0, 1].into(), NOW).is_empty());
        assert_eq!(write(&mut mirror, &old), None);
        assert_eq!(mirror.get(new.peer, NOW), None);
        assert_eq!(write(&mut mirror, &new), Some(new.peer));
        assert_eq!(mirror.get(new.peer, NOW), Some(&new));
        assert_eq!(mirror.counts(), (1, 1));
    }

    #[test]
    fn of_a_leased_address_only_its_holders_claim_counts() {
        let mut mirror = mirror();
        let (one, two) = (record(1, 1, 9), record(2, 1, 9));
        write(&mut mirror, &one);
        write(&mut mirror, &two);
        let address = [10, 0, 0, 9].into();
        assert_eq!(mirror.claimants(address, NOW).len(), 2);
        let key = keys().address(address);
        for holder in [&one, &two] {
            mirror.written(key.as_bytes(), hex(holder.peer).as_bytes(), NOW);
            assert_eq!(mirror.claimants(address, NOW), std::slice::from_ref(holder));
        }
        mirror.deleted(key.as_bytes());
        assert_eq!(mirror.claimants(address, NOW).len(), 2);
    }

    #[test]
    fn what_is_not_there_when_it_is_loaded_is_gone_and_what_is_known_is_no_news() {
        let mut mirror = mirror();
        let all = [record(1, 1, 1), record(2, 1, 2), record(3, 1, 3)];
        write(&mut mirror, &all[0]);
        write(&mut mirror, &all[1]);
        let newer = record(2, 2, 2);
        let mut loading = Loading::default();
        let mut page = |mirror: &mut Mirror, record: &PeerRecord| {
            let key = keys().record(record.peer);
            mirror.page(&mut loading, key.as_bytes(), &encode(record), NOW)
        };
        assert_eq!(page(&mut mirror, &all[1]), None, "no news");
        assert_eq!(page(&mut mirror, &all[2]), None, "when all is there");
        // Until then nothing is gone, and nothing is there.
        assert_eq!(mirror.get(all[0].peer, NOW), Some(&all[0]));
        assert_eq!(mirror.get(all[2].peer, NOW), None);
        assert_eq!(page(&mut mirror, &newer), Some(newer.peer));
        assert_eq!(mirror.loaded(loading, 7), [all[2].peer]);
        assert_eq!(mirror.get(all[0].peer, NOW), None);
        assert_eq!(mirror.get(all[2].peer, NOW), Some(&all[2]));
        assert_eq!(mirror.revision(), Some(7));
    }

    #[test]
    fn leases_count_when_all_is_loaded_and_are_bounded() {
        let mut mirror = mirror();
        mirror.max_holders = 2;
        let (one, two) = (record(1, 1, 9), record(2, 1, 9));
        write(&mut mirror, &one);
        write(&mut mirror, &two);
        let of = |host: u8| keys().address([10, 0, 0, host].into());
        mirror.written(of(9).as_bytes(), hex(one.peer).as_bytes(), NOW);
        let mut loading = Loading::default();
        for host in 8..20 {
            let (key, holder) = (of(host), hex(two.peer));
            mirror.page(&mut loading, key.as_bytes(), holder.as_bytes(), NOW);
        }
        let address = [10, 0, 0, 9].into();
        assert_eq!(mirror.claimants(address, NOW), [one]);
        for record in [&record(1, 2, 9), &two] {
            let key = keys().record(record.peer);
            mirror.page(&mut loading, key.as_bytes(), &encode(record), NOW);
        }
        mirror.loaded(loading, 7);
        assert_eq!(mirror.claimants(address, NOW), [two]);
        assert_eq!((mirror.holders.len(), mirror.counts().1), (2, 10));
    }

    #[test]
    fn what_is_under_another_peers_key_or_no_record_is_refused() {
        let mut mirror = mirror();
        let (one, two) = (record(1, 1, 1), record(2, 1, 2));
        mirror.written(keys().record(one.peer).as_bytes(), &encode(&two), NOW);
        mirror.written(keys().record(one.peer).as_bytes(), b"what", NOW);
        mirror.written(keys().address([10, 0, 0, 1].into()).as_bytes(), b"me", NOW);
        assert_eq!(mirror.counts(), (0, 3));
    }
}
