//! What etcd has, kept here: events go in, lookups are answered without asking. Pure.
//!
//! etcd decides whose a leased address is: of several claims of it only its holder's counts. A record
//! that etcd has not any more is nowhere, but remembered: the same one may come back, an older one not.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use vpn_core::{PeerId, PeerRecord};

use super::keys::{Key, Keys, unhex};
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
    refused: u64,
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

    /// It has to be loaded anew; until then it says what it said.
    pub(super) fn lost(&mut self) {
        self.revision = None;
    }

    /// Replaces everything by what etcd has at a revision. Returns whose records are new.
    pub(super) fn load<'a>(
        &mut self,
        all: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        revision: i64,
        unix: u64,
    ) -> Vec<PeerId> {
        let before = std::mem::take(&mut self.present);
        self.holders.clear();
        let mut news = Vec::new();
        for (key, value) in all {
            let Some(changed) = self.put(key, value, unix) else {
                continue;
            };
            // Known, and there all the time: no news.
            let newer = changed.newer || !before.contains(&changed.peer);
            if newer {
                news.push(changed.peer);
            }
        }
        self.revision = Some(revision);
        news
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
                let record = decode(value).ok().filter(|record| record.peer == peer);
                let Some(record) = record else {
                    self.refused += 1;
                    return None;
                };
                let sequence = record.sequence;
                let newer = match self.book.insert(record, unix) {
                    Ok(_) => true,
                    Err(RecordError::Old { have }) if have == sequence => false,
                    Err(error) => {
                        tracing::debug!(%peer, %error, "etcd has a record that is not believed");
                        self.refused += 1;
                        return None;
                    }
                };
                let back = self.present.insert(peer);
                Some(Changed { peer, newer, back })
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
        let there: Vec<(String, Vec<u8>)> = all[1..]
            .iter()
            .map(|record| (keys().record(record.peer), encode(record)))
            .collect();
        let there = there
            .iter()
            .map(|(key, value)| (key.as_bytes(), &value[..]));
        assert_eq!(mirror.load(there, 7, NOW), [all[2].peer]);
        assert_eq!(mirror.get(all[0].peer, NOW), None);
        assert_eq!(mirror.revision(), Some(7));
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
