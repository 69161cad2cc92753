//! Decides what this node keeps for the directory, of what others want kept.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use libp2p::kad::store::{MemoryStore, RecordStore as _};
use libp2p::kad::{self, Record, RecordKey};
use vpn_core::{PeerId, PeerRecord};

use super::driver::Driver;
use super::hello::unix;
use super::shares::Shares;
use super::status::Counters;
use crate::directory::kademlia::slot::{NotKept, Slot, pack, unpack};
use crate::libp2p::body::TERMS;
use crate::libp2p::membership::Membership;
use crate::libp2p::rate::Seldom;

type Kad = kad::Behaviour<MemoryStore>;

/// What is kept of whom, and what was told of it.
#[derive(Debug)]
pub(super) struct Keep {
    shares: Shares,
    /// The VPN's own networks; none: any.
    inside: Vec<IpNet>,
    told: Seldom,
}

impl Keep {
    pub(super) fn new(max_records: usize, inside: &[IpNet]) -> Self {
        Self {
            shares: Shares::new(max_records),
            inside: inside.to_vec(),
            told: Seldom::default(),
        }
    }

    /// What our part has under this key once this is entered, and for how long the last of it lives.
    /// What its peers no longer claim elsewhere is thrown out.
    pub(super) fn merge(
        &mut self,
        kad: &mut Kad,
        membership: &Membership,
        key: &[u8],
        value: &[u8],
    ) -> Result<(Vec<u8>, Duration), NotKept> {
        let slot = Slot::from_key(key).ok_or(NotKept::Key)?;
        if let Slot::Address(address) = slot
            && !self.inside.is_empty()
            && !self.inside.iter().any(|net| net.contains(&address))
        {
            return Err(NotKept::Key);
        }
        let now = unix();
        let known = kad.store_mut().get(&RecordKey::from(key.to_vec()));
        let known = known.map(|record| record.value.clone()).unwrap_or_default();
        let mut is_replayed = false;
        let merged = slot.merge(&known, value, |record| {
            if membership.believe(record.clone(), now).is_err() {
                return false;
            }
            let counts = self.shares.is_newest(record) && self.shares.has_room(record.peer);
            is_replayed |= !counts;
            counts
        });
        let merged = match merged {
            Err(NotKept::Invalid) if is_replayed => Err(NotKept::Old),
            other => other,
        }?;
        let records = unpack(&merged);
        for record in &records {
            for gone in self.shares.enter(slot, record, TERMS.horizon(now)) {
                forget(kad, gone, record.peer);
            }
        }
        for record in unpack(&known) {
            if records.iter().all(|kept| kept.peer != record.peer) {
                self.shares.leave(slot, record.peer);
            }
        }
        let last = records.iter().map(|record| record.expires).max();
        let lives = last.unwrap_or(now).saturating_sub(now);
        Ok((merged, Duration::from_secs(lives)))
    }

    /// Throws away what expired.
    pub(super) fn sweep(&mut self, kad: &mut Kad, now: Instant) {
        kad.store_mut().retain(|_, record| !record.is_expired(now));
        self.shares.sweep(now, unix());
    }

    /// Tells that something is not kept, now and then.
    fn tell(&mut self, error: NotKept, from: Option<PeerId>) {
        let Some(others) = self.told.tell(Instant::now()) else {
            return;
        };
        let from = from.map(|peer| peer.to_string());
        tracing::warn!(%error, from, others, "a record for the directory is not kept");
    }
}

/// Takes one peer's record out of what is kept under a key.
fn forget(kad: &mut Kad, slot: Slot, peer: PeerId) {
    let key = RecordKey::from(slot.key());
    let store = kad.store_mut();
    let Some(record) = store.get(&key) else {
        return;
    };
    let mut record = record.into_owned();
    let mut rest = unpack(&record.value);
    rest.retain(|other| other.peer != peer);
    if rest.is_empty() {
        store.remove(&key);
        return;
    }
    record.value = pack(&rest);
    // It is smaller than what was there.
    let _ = store.put(record);
}

impl Driver {
    /// A member said this about itself: whoever asks here is answered, though its own publishing may take
    /// until nodes that nobody can reach are given up.
    pub(super) fn keep_heard(&mut self, record: &PeerRecord) {
        let claims = record.addresses.iter().map(|a| Slot::Address(*a));
        for slot in claims.chain([Slot::Peer(record.peer)]) {
            // It is said on each connection, and again.
            if !self.keep.shares.has(slot, record) {
                let value = pack(std::slice::from_ref(record));
                self.put_in(Record::new(slot.key(), value), record.peer);
            }
        }
    }

    /// Somebody wants this kept.
    pub(super) fn keep(&mut self, record: Record, from: Option<PeerId>) {
        let now = Instant::now();
        let is_member = |from: &PeerId| self.shared.standing().admitted.contains(from);
        let from = from.filter(is_member);
        let count = |count: fn(&mut Counters)| count(&mut self.shared.standing().counters);
        let Some(giver) = from else {
            self.keep.tell(NotKept::Invalid, None);
            return count(|counters| counters.invalid += 1);
        };
        if !self.keep.shares.may_give(giver, now) {
            return count(|counters| counters.too_many += 1);
        }
        self.put_in(record, giver);
    }

    fn put_in(&mut self, record: Record, giver: PeerId) {
        let now = Instant::now();
        let kad = &mut self.swarm.behaviour_mut().kad;
        let membership = self.shared.door.membership();
        let count = |count: fn(&mut Counters)| count(&mut self.shared.standing().counters);
        let key = record.key.to_vec();
        match self.keep.merge(kad, membership, &key, &record.value) {
            Ok((value, lives)) => {
                let bytes = value.len() as u64;
                let record = Record {
                    value,
                    publisher: None,
                    expires: Some(now + lives),
                    ..record
                };
                if kad.store_mut().put(record).is_ok() {
                    let counters = &mut self.shared.standing().counters;
                    counters.kept += 1;
                    counters.kept_bytes += bytes;
                } else {
                    count(|counters| counters.full += 1);
                }
            }
            Err(NotKept::Old) => count(|counters| counters.old += 1),
            Err(error) => {
                self.keep.tell(error, Some(giver));
                count(|counters| counters.invalid += 1);
            }
        }
    }
}
