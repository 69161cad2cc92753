//! Which record of each peer is the newest, and who claims which address; bounded.
//!
//! The largest sequence number of a peer is remembered for longer than its record: as long as an
//! older record of the peer could still be valid, so that nobody can bring one back when the newer
//! one expired.
//!
//! The clock may be wrong for a while. What expired by a clock that was ahead may come back, and it
//! alone. What was entered by a clock that was ahead is no reason to refuse what is valid now.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use bytes::Bytes;
use vpn_core::{PeerId, PeerRecord};

use super::claims::{Conflict, Rank, rank};
use super::records::{RecordError, Terms, Valid};

/// Peers of one book, unless said otherwise: about 30 MB with usual records. Newcomers beyond are
/// refused; those who are there go on.
pub const MAX_PEERS: usize = 65_536;

/// The newest valid records of many peers.
#[derive(Clone, Debug)]
pub struct Book {
    terms: Terms,
    max_peers: usize,
    /// `None`: everybody.
    members: Option<HashSet<PeerId>>,
    peers: HashMap<PeerId, Entry>,
    /// By address, who has it before who claims it as well.
    claims: BTreeSet<(IpAddr, Rank, PeerId)>,
}

#[derive(Clone, Debug)]
struct Entry {
    sequence: u64,
    /// Until when no older record can be valid.
    remembered: u64,
    held: Held,
}

#[derive(Clone, Debug)]
enum Held {
    Record(Valid),
    /// It was taken out. Its signature, so that it may come back, and no other of this number.
    Signature(Bytes),
}

impl Entry {
    const fn record(&self) -> Option<&Valid> {
        match &self.held {
            Held::Record(valid) => Some(valid),
            Held::Signature(_) => None,
        }
    }

    fn take(&mut self) -> Option<Valid> {
        let signature = self.record()?.record().signature.clone();
        match std::mem::replace(&mut self.held, Held::Signature(signature)) {
            Held::Record(valid) => Some(valid),
            Held::Signature(_) => None,
        }
    }

    /// Whether this is what was taken out.
    fn was(&self, record: &PeerRecord) -> bool {
        let same = |signature: &Bytes| *signature == record.signature;
        self.sequence == record.sequence
            && matches!(&self.held, Held::Signature(signature) if same(signature))
    }
}

impl Book {
    /// An empty one for everybody's records.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            max_peers: MAX_PEERS,
            members: None,
            peers: HashMap::new(),
            claims: BTreeSet::new(),
        }
    }

    /// Takes records of these peers only; by default of everybody who signs one.
    #[must_use]
    pub fn members(mut self, members: impl IntoIterator<Item = PeerId>) -> Self {
        self.members = Some(members.into_iter().collect());
        self
    }

    /// At most so many peers ([`MAX_PEERS`]), with those whose number is remembered only.
    #[must_use]
    pub const fn max_peers(mut self, peers: usize) -> Self {
        self.max_peers = peers;
        self
    }

    /// What records have to fulfil.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Enters a record if it is valid and newer. The conflicts are those it is part of now; they are
    /// to be reported, and the record is entered all the same.
    ///
    /// # Errors
    ///
    /// [`RecordError`]; the book is as it was then.
    pub fn insert(&mut self, record: PeerRecord, unix: u64) -> Result<Vec<Conflict>, RecordError> {
        let peer = record.peer;
        let members = self.members.as_ref();
        if members.is_some_and(|members| !members.contains(&peer)) {
            return Err(RecordError::NotMember);
        }
        // Before the signature: what is known already comes often, and this costs nothing.
        let known = self.peers.get(&peer);
        let known = known.filter(|entry| self.counts(entry, unix) && !entry.was(&record));
        if let Some(have) = known.map(|entry| entry.sequence)
            && have >= record.sequence
        {
            return Err(RecordError::Old { have });
        }
        let valid = Valid::check(record, &self.terms, unix)?;
        if !self.peers.contains_key(&peer) && self.peers.len() >= self.max_peers {
            self.expire(unix);
            if self.peers.len() >= self.max_peers {
                return Err(RecordError::Full);
            }
        }
        self.forget_claims(peer);
        let addresses = valid.record().addresses.clone();
        for address in &addresses {
            self.claims.insert((*address, rank(*address, peer), peer));
        }
        let entry = Entry {
            sequence: valid.record().sequence,
            remembered: self.terms.horizon(unix),
            held: Held::Record(valid),
        };
        self.peers.insert(peer, entry);
        let conflicts = addresses.into_iter();
        Ok(conflicts
            .filter_map(|address| self.conflict(address, unix))
            .collect())
    }

    /// The newest record of a peer, if it is valid.
    pub fn get(&self, peer: PeerId, unix: u64) -> Option<&PeerRecord> {
        let entry = self.peers.get(&peer)?;
        self.believed(entry, unix).map(Valid::record)
    }

    /// The largest sequence number that this peer had, as long as it is remembered.
    pub fn sequence(&self, peer: PeerId) -> Option<u64> {
        self.peers.get(&peer).map(|entry| entry.sequence)
    }

    /// Who claims an address, whose it is first.
    pub fn claimants(&self, address: IpAddr, unix: u64) -> impl Iterator<Item = &PeerRecord> {
        let from = (address, Rank::FIRST, PeerId([0; 32]));
        self.claims
            .range(from..)
            .take_while(move |(of, ..)| *of == address)
            .filter_map(move |(_, _, peer)| self.get(*peer, unix))
    }

    /// The record of whose the address is.
    pub fn holder(&self, address: IpAddr, unix: u64) -> Option<&PeerRecord> {
        self.claimants(address, unix).next()
    }

    /// Who claims the address beside whose it is; `None` if nobody does.
    pub fn conflict(&self, address: IpAddr, unix: u64) -> Option<Conflict> {
        let mut claimants = self.claimants(address, unix).map(|record| record.peer);
        let winner = claimants.next()?;
        let losers: Vec<PeerId> = claimants.collect();
        (!losers.is_empty()).then_some(Conflict {
            address,
            winner,
            losers,
        })
    }

    /// All valid records, in no order.
    pub fn records(&self, unix: u64) -> impl Iterator<Item = &PeerRecord> {
        let entries = self.peers.values();
        entries
            .filter_map(move |entry| self.believed(entry, unix))
            .map(Valid::record)
    }

    /// Takes a peer's record out; its sequence number is remembered.
    pub fn remove(&mut self, peer: PeerId) -> Option<PeerRecord> {
        self.forget_claims(peer);
        let entry = self.peers.get_mut(&peer)?;
        entry.take().map(Valid::into_record)
    }

    /// Takes out what expired, and returns whose records did. Lookups never return those in any case;
    /// this makes room. Goes through all.
    pub fn expire(&mut self, unix: u64) -> Vec<PeerId> {
        let over = |entry: &Entry| entry.record().is_some_and(|r| !r.lives(unix));
        let expired = self.peers.iter().filter(|(_, entry)| over(entry));
        let expired: Vec<PeerId> = expired.map(|(peer, _)| *peer).collect();
        for peer in &expired {
            self.remove(*peer);
        }
        let horizon = self.terms.horizon(unix);
        self.peers.retain(|_, entry| {
            // From a clock that was ahead: it would be here for as long as that was.
            entry.remembered = entry.remembered.min(horizon);
            entry.record().is_some() || entry.remembered > unix
        });
        expired
    }

    /// How many peers it has, with those whose sequence number is remembered only.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether it has nobody.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Its record, unless it is over, or would be refused now as too far ahead.
    fn believed<'a>(&self, entry: &'a Entry, unix: u64) -> Option<&'a Valid> {
        let horizon = self.terms.horizon(unix);
        let valid = entry.record()?;
        (valid.lives(unix) && valid.record().expires <= horizon).then_some(valid)
    }

    /// Whether its sequence number is a reason to refuse another.
    fn counts(&self, entry: &Entry, unix: u64) -> bool {
        // Also while the number is not remembered for long enough: by a clock that was behind.
        let remembered = entry.remembered > unix && entry.remembered <= self.terms.horizon(unix);
        remembered || self.believed(entry, unix).is_some()
    }

    fn forget_claims(&mut self, peer: PeerId) {
        let record = self.peers.get(&peer).and_then(Entry::record);
        let Some(valid) = record else { return };
        for address in &valid.record().addresses {
            self.claims.remove(&(*address, rank(*address, peer), peer));
        }
    }
}

#[cfg(test)]
mod tests;
