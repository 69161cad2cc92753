//! Decides which records count: the hub's word for addresses, the peer's own for everything else.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;

use super::{
    Check, Entry, MAX_PEERS, Member, MemberEvent, RECORD_LIFETIME, SIGN_PAUSE, SIGNING, Slot, blank,
};
use crate::mesh::peer::Peer;
use crate::mesh::record::{Record, SignedRecord};
use crate::mesh::way::Policy;
use crate::mesh::wire::{Tag, What};

/// Numbers of records that one second has room for.
const PER_SECOND: u64 = 1_000_000;

/// Claims that are told of and counted one by one. Further ones get nothing either, unnamed: who makes
/// keys makes as many claims.
const MAX_CONFLICTS: usize = 1024;

/// Seconds of a day.
const DAY: u64 = 86_400;

impl Member {
    /// A record that a hub vouches for: it checked that nobody else has the addresses.
    pub(super) fn believe(
        &mut self,
        record: SignedRecord,
        now: Instant,
        unix: u64,
    ) -> Option<Slot> {
        let peer = record.record().peer;
        if peer == self.id() {
            return None;
        }
        let slot = match self.slot_of(peer) {
            Some(slot) => slot,
            None => self.insert(&record, now)?,
        };
        if let Some(Some(entry)) = self.entries.get_mut(slot.0) {
            // A hub's word is good for a day, whatever the record says: then it is asked again.
            let vouched = record.record().expires.min(unix.saturating_add(DAY));
            entry.vouched = entry.vouched.max(vouched);
        }
        let known = self
            .entry(slot)?
            .peer
            .record()
            .map(|known| known.record().sequence);
        let said = record.record();
        // The same again is news where somebody else had what it claims, and is gone.
        let is_known =
            known == Some(said.sequence) && self.addresses.has_all(slot, &said.addresses);
        if is_known || known.is_some_and(|known| known > said.sequence) {
            return Some(slot);
        }
        let routes = admitted(&said.routes, &self.entry(slot)?.peer.rules().routes);
        let conflicts = self.addresses.assign(slot, peer, &said.addresses, &routes);
        for conflict in conflicts {
            let claim = (conflict.network, conflict.claimant);
            if self.conflicts.len() >= MAX_CONFLICTS && !self.conflicts.contains_key(&claim) {
                continue;
            }
            let times = self.conflicts.entry(claim).or_default();
            *times += 1;
            if *times == 1 {
                self.tell(MemberEvent::Conflict(conflict));
            }
        }
        self.renew(slot, record, now);
        Some(slot)
    }

    /// Gives a peer its newest record, whose addresses are settled.
    fn renew(&mut self, slot: Slot, record: SignedRecord, now: Instant) {
        let addresses = record.record().addresses.clone();
        let (peer, session) = (record.record().peer, record.record().session);
        let own: Vec<SocketAddr> = record.record().candidates.clone();
        let usable: Vec<SocketAddr> = own
            .into_iter()
            .filter(|at| self.is_candidate(*at))
            .collect();
        let Some(entry) = self.entries.get_mut(slot.0).and_then(Option::as_mut) else {
            return;
        };
        if let Some(known) = entry.peer.record() {
            let before = known.record().session;
            if before != session && self.by_session.get(&before) == Some(&slot) {
                self.by_session.remove(&before);
            }
        }
        // The hub has seen that it has this key: nobody else who named it gets its handshakes.
        self.by_session.insert(session, slot);
        entry.peer.set_record(record, &usable, &*self.keys, now);
        let _ = self.entry_mut(slot);
        let mut waiting = self.lookups.settled(&What::Peer(peer.0));
        waiting.append(self.lookups.settled(&What::Tag(Tag::from(peer).0)));
        for address in addresses {
            let what = What::Address(address);
            if self.is_meant(what, slot) {
                waiting.append(self.lookups.settled(&what));
            }
        }
        self.hold(slot, waiting, now);
    }

    /// What a peer says about itself in its session: believed where it claims no more than before,
    /// asked for at a hub otherwise.
    pub(super) fn claimed(&mut self, slot: Slot, record: SignedRecord, now: Instant) {
        let Some(known) = self.entry(slot).and_then(|entry| entry.peer.record()) else {
            return;
        };
        if !record.replaces(known) {
            return;
        }
        let (was, is) = (known.record(), record.record());
        let claims_no_more = is.addresses == was.addresses && is.routes == was.routes;
        // A session key that is another one is another process, and that registers first.
        if claims_no_more && is.session == was.session {
            self.renew(slot, record, now);
        } else {
            self.look_up(What::Peer(is.peer.0), None, now);
        }
    }

    /// Ends what is too old: a record by itself, and one that no hub vouches for any more, where there
    /// is a hub to ask.
    pub(super) fn look_at_ages(&mut self, now: Instant, unix: u64) {
        let hub = self.hubs().first().copied();
        for place in 0..self.entries.len() {
            let slot = Slot(place);
            let Some(entry) = self.entry(slot) else {
                continue;
            };
            let Some(record) = entry.peer.record().map(SignedRecord::record) else {
                continue;
            };
            let (peer, vouched) = (record.peer, entry.vouched);
            if record.expires <= unix {
                self.expire(slot, now);
            } else if vouched <= unix
                && let Some(hub) = hub
            {
                self.check_with(slot, hub, What::Peer(peer.0), Check::Member, now);
            }
        }
    }

    /// A peer is nobody's member any more: its session ends, and what it had is free.
    pub(super) fn expire(&mut self, slot: Slot, now: Instant) {
        let Some(entry) = self.entry_mut(slot) else {
            return;
        };
        entry.peer.stop(now);
        self.settle(now);
        if let Some(entry) = self.entry_mut(slot) {
            entry.peer.forget_record(now);
            entry.vouched = 0;
        }
        self.addresses.withdraw(slot);
        self.by_session.retain(|_, held| *held != slot);
    }

    /// Makes room for a peer, and puts it there.
    fn insert(&mut self, record: &SignedRecord, now: Instant) -> Option<Slot> {
        let peer = record.record().peer;
        let rules = self.rules_of(peer);
        if rules.policy == Policy::Deny || self.by_tag.contains_key(&Tag::from(peer)) {
            return None;
        }
        let count = self.entries.len() - self.free.len();
        if count >= MAX_PEERS {
            self.evict()?;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        let slot = Slot(place);
        self.by_tag.insert(Tag::from(peer), slot);
        let routed = self.addresses.routed(peer);
        let seed = self.seed ^ u64::from_le_bytes(Tag::from(peer).0);
        let peer = Peer::new(routed, rules, &self.config.peer, self.own.clone(), seed);
        self.entries[place] = Some(Entry {
            peer,
            held: super::Held::default(),
            dirty: false,
            absent: Vec::new(),
            far: false,
            asked: None,
            vouched: 0,
            since: now,
        });
        Some(slot)
    }

    /// Forgets the peer that was idle longest.
    fn evict(&mut self) -> Option<()> {
        let (slot, _) = (self.entries.iter().enumerate())
            .filter_map(|(place, entry)| Some((Slot(place), entry.as_ref()?)))
            .filter(|(_, entry)| entry.peer.is_idle())
            .min_by_key(|(_, entry)| entry.since)?;
        let mut entry = self.entries[slot.0].take()?;
        entry
            .held
            .drop_all(vpn_core::DropReason::NoSession, &mut self.holding);
        self.checks.retain(|(_, checked, _)| *checked != slot);
        self.forgotten.add(entry.peer.counters());
        self.addresses.withdraw(slot);
        self.by_tag.remove(&entry.peer.tag());
        self.by_session.retain(|_, held| *held != slot);
        self.by_index.retain(|_, held| *held != slot);
        self.timers.set(slot, None);
        self.free.push(slot.0);
        Some(())
    }

    /// Whether datagrams may be sent there to reach a peer: nothing that is inside of the mesh, or
    /// they would go round in circles.
    pub(super) fn is_candidate(&self, at: SocketAddr) -> bool {
        let ip = at.ip().to_canonical();
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast() || ip.is_link_local());
        let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let odd = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
        at.port() != 0 && !(odd || broadcast || link_local || self.config.is_inside(ip))
    }

    /// Something of our own record changed: it is made anew now, or in a moment where that was done too
    /// often.
    pub(super) fn sign_soon(&mut self, now: Instant, unix: u64) {
        if self.signing.take(SIGNING, SIGN_PAUSE.as_secs(), now) {
            self.sign_own(now, unix);
        } else {
            self.renew_own = self.renew_own.min(now + SIGN_PAUSE);
        }
    }

    /// A hub knows a record of ours with this number that is not older than ours: from before we were
    /// started again, within the same second or with a clock that went wrong since. One that is more
    /// than a day ahead is not believed, so that no hub can use the numbers up.
    pub(super) fn sign_after(&mut self, known: u64, now: Instant, unix: u64) {
        if known < self.own.record().sequence || known > (unix + DAY) * PER_SECOND {
            return;
        }
        self.least = known + 1;
        self.sign_soon(now, unix);
    }

    /// Makes our own record anew, and tells everybody who needs to know.
    pub(super) fn sign_own(&mut self, now: Instant, unix: u64) {
        let mut candidates = self.local.clone();
        for link in &self.links {
            if let Some(at) = link.status().observed.filter(|at| self.is_candidate(*at))
                && !candidates.contains(&at)
            {
                candidates.push(at);
            }
        }
        if self.config.default_rules.policy == Policy::RelayOnly {
            candidates.clear();
        }
        // So that a member that was started again is newer than before.
        let sequence = (unix * PER_SECOND)
            .max(self.own.record().sequence + 1)
            .max(self.least);
        let record = Record {
            candidates,
            sequence,
            expires: unix + RECORD_LIFETIME.as_secs(),
            ..blank(&self.identity, &self.config, self.keys.public())
        };
        self.own = record.sign(&self.identity);
        self.renew_own = now + RECORD_LIFETIME / 2;
        for link in &mut self.links {
            link.set_record(self.own.clone(), now);
        }
        for slot in 0..self.entries.len() {
            if let Some(entry) = self.entries[slot].as_mut()
                && entry.peer.is_ready()
            {
                entry.peer.set_own(self.own.clone(), now);
                let _ = self.entry_mut(Slot(slot));
            } else if let Some(entry) = self.entries[slot].as_mut() {
                entry.peer.set_own(self.own.clone(), now);
            }
        }
    }

    /// Our candidates may be others than the record says.
    pub(super) fn observed(&mut self, now: Instant, unix: u64) {
        let known = &self.own.record().candidates;
        let is_new = |at: SocketAddr| self.is_candidate(at) && !known.contains(&at);
        if (self.links.iter())
            .filter_map(|link| link.status().observed)
            .any(is_new)
        {
            self.sign_soon(now, unix);
        }
    }
}

/// The networks that are claimed, and that are or lie in one that may be.
fn admitted(claimed: &[IpNet], allowed: &[IpNet]) -> Vec<IpNet> {
    let lies_in = |claim: &IpNet| allowed.iter().any(|net| net.contains(claim));
    claimed.iter().copied().filter(lies_in).collect()
}
