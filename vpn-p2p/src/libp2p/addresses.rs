//! Decides to whom packets go, what waits for an answer, and whose packets are let in. Pure.
//!
//! An unknown address is asked about once, while what is for it waits, bounded in packets, bytes and
//! time; that nobody has it is remembered for a while.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use vpn_core::{DropReason, Packet, PeerId, PeerRecord};

use super::body::TERMS;
use crate::directory::{Book, Conflict, RecordError};
use crate::held::{Held, Holding};

/// Addresses that are asked about, or of which it is remembered that nobody has them; packets for
/// further unknown ones are dropped.
pub(super) const MAX_LOOKUPS: usize = 4096;

/// For how long "nobody" is believed the first time; doubled each time up to the second.
const NOBODY_FIRST: Duration = Duration::from_secs(2);
const NOBODY_LONGEST: Duration = Duration::from_secs(60);

/// Addresses of which it is remembered that several claim them.
const MAX_CONFLICTS: usize = 256;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// To this peer.
    Peer(PeerId),
    /// It waits; the address has to be asked about now.
    Ask,
    /// It waits.
    Waits,
    /// Nowhere.
    Drop(DropReason),
}

#[derive(Debug)]
struct Lookup {
    held: Held,
    is_asked: bool,
    /// "Nobody" until then.
    until: Instant,
    nobody: u32,
}

/// Whose addresses are whose.
#[derive(Debug)]
pub(super) struct Addresses {
    book: Book,
    own: Vec<IpAddr>,
    networks: Vec<IpNet>,
    lookups: HashMap<IpAddr, Lookup>,
    /// What waits for peers that are being connected.
    connecting: HashMap<PeerId, Held>,
    pub(super) holding: Holding,
    conflicts: BTreeMap<IpAddr, Conflict>,
}

impl Addresses {
    /// Nobody is known. `networks`: where members' addresses are.
    pub(super) fn new(own: Vec<IpAddr>, networks: Vec<IpNet>, max_peers: usize) -> Self {
        Self {
            book: Book::new(TERMS).max_peers(max_peers),
            own,
            networks,
            lookups: HashMap::new(),
            connecting: HashMap::new(),
            holding: Holding::default(),
            conflicts: BTreeMap::new(),
        }
    }

    /// Where a packet for this address goes. `Ask` and `Waits`: give it to [`hold`](Self::hold).
    pub(super) fn find(&mut self, address: IpAddr, now: Instant, unix: u64) -> Where {
        if let Some(record) = self.book.holder(address, unix) {
            return Where::Peer(record.peer);
        }
        let inside = self
            .networks
            .iter()
            .any(|net| net.contains(&address) && !is_broadcast(net, address));
        if !inside || self.own.contains(&address) {
            return Where::Drop(DropReason::NotRoutable);
        }
        if let Some(lookup) = self.lookups.get_mut(&address) {
            if lookup.is_asked {
                return Where::Waits;
            }
            if lookup.until > now {
                return Where::Drop(DropReason::NoSession);
            }
            lookup.is_asked = true;
            return Where::Ask;
        }
        if self.lookups.len() >= MAX_LOOKUPS {
            // Old answers first: they cost one more question.
            self.lookups.retain(|_, l| l.is_asked || l.until > now);
            if self.lookups.len() >= MAX_LOOKUPS {
                return Where::Drop(DropReason::HoldFull);
            }
        }
        let lookup = Lookup {
            held: Held::default(),
            is_asked: true,
            until: now,
            nobody: 0,
        };
        self.lookups.insert(address, lookup);
        Where::Ask
    }

    /// A packet waits for this address.
    pub(super) fn hold(&mut self, address: IpAddr, packet: &Packet, now: Instant) {
        if let Some(lookup) = self.lookups.get_mut(&address) {
            lookup.held.push(packet, now, &mut self.holding);
        }
    }

    /// The question about this address is over. Who has it, with what waited: it goes on waiting if the
    /// peer is being connected, else it is returned.
    pub(super) fn answered(
        &mut self,
        address: IpAddr,
        now: Instant,
        unix: u64,
    ) -> Option<(PeerId, Vec<Packet>)> {
        let lookup = self.lookups.get_mut(&address)?;
        lookup.is_asked = false;
        let Some(peer) = self.book.holder(address, unix).map(|record| record.peer) else {
            let pause = NOBODY_FIRST * 2u32.saturating_pow(lookup.nobody.min(16));
            lookup.until = now + pause.min(NOBODY_LONGEST);
            lookup.nobody = lookup.nobody.saturating_add(1);
            lookup
                .held
                .drop_all(DropReason::NoSession, &mut self.holding);
            return None;
        };
        let mut held = self.lookups.remove(&address)?.held;
        if let Some(connecting) = self.connecting.get_mut(&peer) {
            connecting.append(held);
            return Some((peer, Vec::new()));
        }
        let waited = std::iter::from_fn(|| held.pop(&mut self.holding));
        Some((peer, waited.collect()))
    }

    /// Whether packets for this peer wait for it.
    pub(super) fn is_connecting(&self, peer: PeerId) -> bool {
        self.connecting.contains_key(&peer)
    }

    /// A packet waits for this peer; whether it is the first.
    pub(super) fn hold_for(&mut self, peer: PeerId, packet: &Packet, now: Instant) -> bool {
        let is_first = !self.connecting.contains_key(&peer);
        let held = self.connecting.entry(peer).or_default();
        held.push(packet, now, &mut self.holding);
        is_first
    }

    /// What waited for this peer, which is connected; more may follow until this is called again and
    /// returns nothing.
    pub(super) fn connected(&mut self, peer: PeerId) -> Vec<Packet> {
        let Some(held) = self.connecting.get_mut(&peer) else {
            return Vec::new();
        };
        let waited: Vec<Packet> = std::iter::from_fn(|| held.pop(&mut self.holding)).collect();
        if waited.is_empty() {
            self.connecting.remove(&peer);
        }
        waited
    }

    /// It could not be connected in time.
    pub(super) fn not_connected(&mut self, peer: PeerId) {
        if let Some(mut held) = self.connecting.remove(&peer) {
            held.drop_all(DropReason::NoSession, &mut self.holding);
        }
    }

    /// Learns what a peer says about itself, which was believed. Conflicts are those that are new.
    ///
    /// # Errors
    ///
    /// It is older than what is known, or there is no room.
    pub(super) fn learn(
        &mut self,
        record: PeerRecord,
        unix: u64,
    ) -> Result<Vec<Conflict>, RecordError> {
        let mut conflicts = self.book.insert(record, unix)?;
        conflicts.retain(|conflict| self.conflicts.get(&conflict.address) != Some(conflict));
        for conflict in &conflicts {
            if self.conflicts.len() >= MAX_CONFLICTS {
                self.conflicts.pop_first();
            }
            self.conflicts.insert(conflict.address, conflict.clone());
        }
        Ok(conflicts)
    }

    /// Whether this peer may send from this address.
    pub(super) fn may_send(&self, peer: PeerId, source: IpAddr, unix: u64) -> bool {
        let holder = self.book.holder(source, unix);
        holder.is_some_and(|record| record.peer == peer)
    }

    /// The newest record of a peer.
    pub(super) fn record(&self, peer: PeerId, unix: u64) -> Option<&PeerRecord> {
        self.book.get(peer, unix)
    }

    /// All valid records.
    pub(super) fn records(&self, unix: u64) -> impl Iterator<Item = &PeerRecord> {
        self.book.records(unix)
    }

    /// Addresses that several claim, still.
    pub(super) fn conflicts(&self, unix: u64) -> Vec<Conflict> {
        let known = self.conflicts.keys();
        known
            .filter_map(|address| self.book.conflict(*address, unix))
            .collect()
    }

    /// Throws away what is over.
    pub(super) fn clean_up(&mut self, now: Instant, unix: u64) {
        self.book.expire(unix);
        self.lookups
            .retain(|_, l| l.is_asked || l.until + NOBODY_LONGEST > now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::records::Draft;
    use crate::identity::Identity;

    const UNIX: u64 = 1_000_000;

    fn addresses() -> Addresses {
        let own = vec![[10, 7, 0, 1].into()];
        Addresses::new(own, vec!["10.7.0.0/16".parse().unwrap()], 100)
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
        assert_eq!(all.find(to, now, UNIX), Where::Ask);
        all.hold(to, &packet(), now);
        assert_eq!(all.find(to, now, UNIX), Where::Waits);
        all.hold(to, &packet(), now);
        let two = record(2, 1, 2);
        all.learn(two.clone(), UNIX).unwrap();
        let (peer, waited) = all.answered(to, now, UNIX).unwrap();
        assert_eq!((peer, waited.len()), (two.peer, 2));
        assert_eq!(all.find(to, now, UNIX), Where::Peer(two.peer));
        // Its end is the record's.
        assert_eq!(all.find(to, now, UNIX + 100), Where::Ask);
    }

    #[test]
    fn that_nobody_has_it_is_believed_for_longer_each_time() {
        let (mut all, mut now) = (addresses(), Instant::now());
        let to: IpAddr = [10, 7, 0, 2].into();
        let mut pause = NOBODY_FIRST;
        for _ in 0..8 {
            assert_eq!(all.find(to, now, UNIX), Where::Ask);
            all.hold(to, &packet(), now);
            assert!(all.answered(to, now, UNIX).is_none());
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
            assert_eq!(all.find(host(n), now, UNIX), Where::Ask);
        }
        let full = Where::Drop(DropReason::HoldFull);
        assert_eq!(all.find(host(MAX_LOOKUPS), now, UNIX), full);
        all.answered(host(0), now, UNIX);
        let later = now + NOBODY_FIRST;
        assert_eq!(all.find(host(MAX_LOOKUPS), later, UNIX), Where::Ask);
    }

    #[test]
    fn a_source_is_its_holders_alone_and_a_conflict_is_told_once() {
        let mut all = addresses();
        let source: IpAddr = [10, 7, 0, 2].into();
        let (one, two) = (record(1, 1, 2), record(2, 1, 2));
        assert!(!all.may_send(one.peer, source, UNIX));
        assert_eq!(all.learn(one.clone(), UNIX), Ok(vec![]));
        assert!(all.may_send(one.peer, source, UNIX));
        let told = all.learn(two.clone(), UNIX).unwrap();
        assert_eq!(told.len(), 1);
        let winner = told[0].winner;
        for peer in [one.peer, two.peer] {
            assert_eq!(all.may_send(peer, source, UNIX), peer == winner);
        }
        assert_eq!(all.learn(record(2, 2, 2), UNIX), Ok(vec![]));
        assert_eq!(all.conflicts(UNIX), told);
        let back = all.learn(two, UNIX);
        assert_eq!(back, Err(RecordError::Old { have: 2 }));
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
        all.not_connected(peer);
        assert_eq!(all.holding.drops.get(DropReason::NoSession), 1);
    }
}
