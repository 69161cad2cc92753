//! Decides whose an address is: by the word of a directory that gives addresses out, else by the claims.
//! Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use vpn_core::{Authority, PeerId, PeerRecord};

use super::Place;
use crate::directory::claims::rank;
use crate::directory::{Book, Conflict, RecordError};
use crate::libp2p::body::TERMS;

/// Addresses of which it is remembered that several claim them.
const MAX_CONFLICTS: usize = 256;

/// Addresses of which it is remembered whom the directory named. Further answers replace others, which
/// are asked for again.
const MAX_TOLD: usize = 65_536;

/// Claimants of one address that are remembered of an answer; those with the best ranks.
const MAX_CLAIMANTS: usize = 8;

/// What follows from a record that was learned.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::libp2p) struct Learned {
    /// Conflicts that are new.
    pub(in crate::libp2p) conflicts: Vec<Conflict>,
    /// Addresses of which the directory said something else: it has to be asked again.
    pub(super) doubted: Vec<IpAddr>,
}

/// Whose addresses are whose.
#[derive(Debug)]
pub(super) struct Holders {
    place: Place,
    book: Book,
    /// Whom the directory named, where it decides; nobody, if it is empty.
    told: HashMap<IpAddr, Vec<PeerId>>,
    conflicts: BTreeMap<IpAddr, Conflict>,
}

impl Holders {
    pub(super) fn new(place: Place, max_peers: usize) -> Self {
        Self {
            place,
            book: Book::new(TERMS).max_peers(max_peers),
            told: HashMap::new(),
            conflicts: BTreeMap::new(),
        }
    }

    /// Whether another member can have this address: it is inside the networks, and not ours.
    pub(super) fn can_be_a_members(&self, address: IpAddr) -> bool {
        let is_one = |net: &IpNet| net.contains(&address) && !is_broadcast(net, address);
        self.place.networks.iter().any(is_one) && !self.place.own.contains(&address)
    }

    pub(super) const fn is_told(&self) -> bool {
        matches!(self.place.authority, Authority::Directory)
    }

    /// Whose it is, as far as that is decided.
    pub(super) fn holder(&self, address: IpAddr, unix: u64) -> Option<PeerId> {
        if !self.is_told() {
            return self.by_claims(address, unix);
        }
        let told = self.told.get(&address)?.iter().copied();
        told.into_iter()
            .find(|peer| self.claims(*peer, address, unix))
    }

    /// Whose it is by what members say of themselves.
    pub(super) fn by_claims(&self, address: IpAddr, unix: u64) -> Option<PeerId> {
        self.book.holder(address, unix).map(|record| record.peer)
    }

    /// Whether this peer says that it has this address.
    pub(super) fn claims(&self, peer: PeerId, address: IpAddr, unix: u64) -> bool {
        let record = self.book.get(peer, unix);
        record.is_some_and(|record| record.addresses.contains(&address))
    }

    /// The addresses that this peer claims and members may have.
    pub(super) fn claimed(&self, peer: PeerId, unix: u64) -> Vec<IpAddr> {
        let record = self.book.get(peer, unix);
        let claimed = record
            .into_iter()
            .flat_map(|record| record.addresses.iter().copied());
        claimed
            .filter(|address| self.can_be_a_members(*address))
            .collect()
    }

    /// Enters what a peer says about itself.
    pub(super) fn learn(&mut self, record: PeerRecord, unix: u64) -> Result<Learned, RecordError> {
        let (peer, addresses) = (record.peer, record.addresses.clone());
        self.book.insert(record, unix)?;
        let mut learned = Learned::default();
        for address in addresses {
            if !self.is_told() {
                learned.conflicts.extend(self.noted(address, unix));
                continue;
            }
            let told = self.told.get(&address);
            let is_other = told.is_some_and(|told| told.first() != Some(&peer));
            let is_ours = peer != self.place.me && self.place.own.contains(&address);
            if is_other || is_ours {
                learned.doubted.push(address);
            }
        }
        Ok(learned)
    }

    /// The directory said who has this address; where it decides, that replaces what it said before.
    pub(super) fn tell(
        &mut self,
        address: IpAddr,
        mut peers: Vec<PeerId>,
        unix: u64,
    ) -> Option<Conflict> {
        if !self.is_told() {
            return None;
        }
        if self.told.len() >= MAX_TOLD && !self.told.contains_key(&address) {
            let any = self.told.keys().next().copied();
            any.map(|any| self.told.remove(&any));
        }
        peers.sort_by_key(|peer| (rank(address, *peer), *peer));
        peers.dedup();
        peers.truncate(MAX_CLAIMANTS);
        self.told.insert(address, peers);
        self.noted(address, unix)
    }

    /// What the directory said of this address is not believed any more.
    pub(super) fn forget(&mut self, address: IpAddr) {
        self.told.remove(&address);
    }

    /// Addresses that several claim.
    pub(super) fn conflicts(&self, unix: u64) -> Vec<Conflict> {
        let known = self.conflicts.keys();
        known
            .filter_map(|address| self.conflict(*address, unix))
            .collect()
    }

    pub(super) const fn book(&self) -> &Book {
        &self.book
    }

    pub(super) fn expire(&mut self, unix: u64) {
        self.book.expire(unix);
        let book = &self.book;
        let lives = |peer: &PeerId| book.get(*peer, unix).is_some();
        self.told.retain(|_, told| told.iter().any(lives));
        let over: Vec<IpAddr> = self
            .conflicts
            .keys()
            .copied()
            .filter(|address| self.conflict(*address, unix).is_none())
            .collect();
        for address in over {
            self.conflicts.remove(&address);
        }
    }

    /// The conflict over this address, if it is a new one.
    fn noted(&mut self, address: IpAddr, unix: u64) -> Option<Conflict> {
        let Some(conflict) = self.conflict(address, unix) else {
            self.conflicts.remove(&address);
            return None;
        };
        if self.conflicts.get(&address) == Some(&conflict) {
            return None;
        }
        if self.conflicts.len() >= MAX_CONFLICTS {
            self.conflicts.pop_first();
        }
        self.conflicts.insert(address, conflict.clone());
        Some(conflict)
    }

    /// Who has an address that others claim as well; ours, too.
    fn conflict(&self, address: IpAddr, unix: u64) -> Option<Conflict> {
        let me = self.place.me;
        let mut all: Vec<PeerId> = if self.is_told() {
            let told = self.told.get(&address).into_iter().flatten().copied();
            told.filter(|peer| *peer == me || self.claims(*peer, address, unix))
                .collect()
        } else {
            let claimants = self.book.claimants(address, unix);
            claimants.map(|record| record.peer).collect()
        };
        if self.place.own.contains(&address) && !all.contains(&me) {
            all.push(me);
            if !self.is_told() {
                all.sort_by_key(|peer| (rank(address, *peer), *peer));
            }
        }
        let mut all = all.into_iter();
        let winner = all.next()?;
        let losers: Vec<PeerId> = all.collect();
        (!losers.is_empty()).then_some(Conflict {
            address,
            winner,
            losers,
        })
    }
}

fn is_broadcast(net: &IpNet, address: IpAddr) -> bool {
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => {
            address == net.broadcast() || address == net.network()
        }
        _ => false,
    }
}
