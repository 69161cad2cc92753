//! Decides to whom packets go, what waits for an answer, and whose packets are let in. Pure.
//!
//! An unknown address is asked about once, while what is for it waits, bounded in packets, bytes and
//! time; that nobody has it is remembered for a while. What is known is doubted, and asked about again,
//! where the directory decides and somebody else claims it, and where who has it cannot be connected.
//!
//! # Driver's contract
//!
//! After every call, [`take_questions`](Addresses::take_questions): each is asked, and
//! [`answered`](Addresses::answered).

mod holders;
#[cfg(test)]
mod stale;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use vpn_core::{Authority, DropReason, Packet, PeerId, PeerRecord};

use crate::directory::{Conflict, RecordError};
use crate::held::{Held, Holding};
use holders::Holders;
pub(super) use holders::Learned;

/// Addresses that are asked about, or of which it is remembered that nobody has them; packets for
/// further unknown ones are dropped.
pub(super) const MAX_LOOKUPS: usize = 4096;

/// For how long "nobody" is believed the first time; doubled each time up to the second.
const NOBODY_FIRST: Duration = Duration::from_secs(2);
const NOBODY_LONGEST: Duration = Duration::from_secs(60);

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// To this peer.
    Peer(PeerId),
    /// It waits: give it to [`hold`](Addresses::hold).
    Waits,
    /// Nowhere.
    Drop(DropReason),
}

/// Where this node is among the others.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) me: PeerId,
    /// Its own addresses.
    pub(super) own: Vec<IpAddr>,
    /// Where members' addresses are.
    pub(super) networks: Vec<IpNet>,
    /// What decides whose an address is.
    pub(super) authority: Authority,
}

#[derive(Debug)]
struct Lookup {
    held: Held,
    is_asked: bool,
    /// Asked once more after the answer: what came meanwhile may not be in it.
    again: bool,
    /// The directory could not be asked: what members say counts as long.
    unanswered: bool,
    /// It is not asked again until then.
    until: Instant,
    nobody: u32,
}

/// Who has which address, and what waits for that.
#[derive(Debug)]
pub(super) struct Addresses {
    holders: Holders,
    lookups: HashMap<IpAddr, Lookup>,
    questions: Vec<IpAddr>,
    /// What waits for peers that are being connected.
    connecting: HashMap<PeerId, Held>,
    pub(super) holding: Holding,
}

impl Addresses {
    /// Nobody is known.
    pub(super) fn new(place: Place, max_peers: usize) -> Self {
        Self {
            holders: Holders::new(place, max_peers),
            lookups: HashMap::new(),
            questions: Vec::new(),
            connecting: HashMap::new(),
            holding: Holding::default(),
        }
    }

    /// Where a packet for this address goes.
    pub(super) fn find(&mut self, address: IpAddr, now: Instant, unix: u64) -> Where {
        if !self.holders.can_be_a_members(address) {
            return Where::Drop(DropReason::NotRoutable);
        }
        if let Some(peer) = self.holders.holder(address, unix) {
            return Where::Peer(peer);
        }
        if let Some(peer) = self.meanwhile(address, now, unix) {
            return Where::Peer(peer);
        }
        let lookup = self.lookups.get(&address);
        let paused = lookup.is_some_and(|lookup| !lookup.is_asked && lookup.until > now);
        if paused {
            return Where::Drop(DropReason::NoSession);
        }
        match self.ask(address, now) {
            true => Where::Waits,
            false => Where::Drop(DropReason::HoldFull),
        }
    }

    /// A packet waits for this address.
    pub(super) fn hold(&mut self, address: IpAddr, packet: &Packet, now: Instant) {
        if let Some(lookup) = self.lookups.get_mut(&address) {
            lookup.held.push(packet, now, &mut self.holding);
        }
    }

    /// Whether there is something to ask.
    pub(super) fn has_questions(&self) -> bool {
        !self.questions.is_empty()
    }

    /// What the directory is to be asked about now, each once.
    pub(super) fn take_questions(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.questions)
    }

    /// The question about this address is over: who has it by the directory, all learned already;
    /// `None` if it could not be asked. Says who has it, with what waited: it goes on waiting if the
    /// peer is being connected, else it is returned.
    pub(super) fn answered(
        &mut self,
        address: IpAddr,
        found: Option<Vec<PeerId>>,
        now: Instant,
        unix: u64,
    ) -> Answered {
        let unanswered = found.is_none();
        let conflict = found.and_then(|peers| self.holders.tell(address, peers, unix));
        let mut answered = Answered {
            conflict,
            waited: None,
        };
        let Some(lookup) = self.lookups.get_mut(&address) else {
            return answered;
        };
        lookup.is_asked = std::mem::take(&mut lookup.again);
        lookup.unanswered = unanswered;
        if lookup.is_asked {
            self.questions.push(address);
        }
        let is_asked = lookup.is_asked;
        let holder = match self.holders.holder(address, unix) {
            None if unanswered => self.holders.by_claims(address, unix),
            holder => holder,
        };
        let decided = holder.filter(|_| !unanswered && !is_asked);
        if holder.is_none() && is_asked {
            return answered;
        }
        if decided.is_none() {
            let pause = NOBODY_FIRST * 2u32.saturating_pow(lookup.nobody.min(16));
            lookup.until = now + pause.min(NOBODY_LONGEST);
            lookup.nobody = lookup.nobody.saturating_add(1);
        }
        let Some(peer) = holder else {
            lookup
                .held
                .drop_all(DropReason::NoSession, &mut self.holding);
            return answered;
        };
        let mut held = std::mem::take(&mut lookup.held);
        if decided.is_some() {
            self.lookups.remove(&address);
        }
        let mut waited = Vec::new();
        match self.connecting.get_mut(&peer) {
            Some(connecting) => connecting.append(held),
            None => waited.extend(std::iter::from_fn(|| held.pop(&mut self.holding))),
        }
        answered.waited = Some((peer, waited));
        answered
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

    /// It could not be connected in time: whether it has its addresses still is asked.
    pub(super) fn not_connected(&mut self, peer: PeerId, now: Instant, unix: u64) {
        if let Some(mut held) = self.connecting.remove(&peer) {
            held.drop_all(DropReason::NoSession, &mut self.holding);
        }
        for address in self.holders.claimed(peer, unix) {
            if self.holders.holder(address, unix) == Some(peer) {
                self.doubt(address, now);
            }
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
        now: Instant,
        unix: u64,
    ) -> Result<Vec<Conflict>, RecordError> {
        let addresses = record.addresses.clone();
        let Learned {
            conflicts,
            mut doubted,
        } = self.holders.learn(record, unix)?;
        if self.holders.is_told() {
            // That it was nobody's does not have to be waited out.
            let waited = |address: &IpAddr| self.lookups.contains_key(address);
            doubted.extend(addresses.into_iter().filter(waited));
            doubted.sort();
            doubted.dedup();
        }
        for address in doubted {
            self.doubt(address, now);
        }
        Ok(conflicts)
    }

    /// Whether this peer may send from this address.
    pub(super) fn may_send(
        &mut self,
        peer: PeerId,
        source: IpAddr,
        now: Instant,
        unix: u64,
    ) -> bool {
        if let Some(holder) = self.holders.holder(source, unix) {
            return holder == peer && self.holders.can_be_a_members(source);
        }
        if !self.holders.can_be_a_members(source) || !self.holders.claims(peer, source, unix) {
            return false;
        }
        if let Some(holder) = self.meanwhile(source, now, unix) {
            return holder == peer;
        }
        // It may be: whoever gives addresses out is asked, now and then.
        let asks = self.lookups.get(&source);
        if asks.is_none_or(|lookup| !lookup.is_asked && lookup.until <= now) {
            self.ask(source, now);
        }
        false
    }

    /// Whether it is known who this peer is, and which of its addresses it may use. `false`: an answer
    /// is awaited.
    pub(super) fn is_settled(&mut self, peer: PeerId, now: Instant, unix: u64) -> bool {
        if self.holders.book().get(peer, unix).is_none() {
            return false;
        }
        if !self.holders.is_told() {
            return true;
        }
        let mut settled = true;
        for address in self.holders.claimed(peer, unix) {
            match self.lookups.get(&address) {
                Some(lookup) => settled &= !lookup.is_asked,
                None if self.holders.holder(address, unix).is_none() => {
                    settled &= !self.ask(address, now);
                }
                None => {}
            }
        }
        settled
    }

    /// The newest record of a peer.
    pub(super) fn record(&self, peer: PeerId, unix: u64) -> Option<&PeerRecord> {
        self.holders.book().get(peer, unix)
    }

    /// All valid records.
    pub(super) fn records(&self, unix: u64) -> impl Iterator<Item = &PeerRecord> {
        self.holders.book().records(unix)
    }

    /// Addresses that several claim, still.
    pub(super) fn conflicts(&self, unix: u64) -> Vec<Conflict> {
        self.holders.conflicts(unix)
    }

    /// Throws away what is over.
    pub(super) fn clean_up(&mut self, now: Instant, unix: u64) {
        self.holders.expire(unix);
        self.lookups
            .retain(|_, l| l.is_asked || l.until + NOBODY_LONGEST > now);
    }

    /// Whose an address is by what members say, while a directory that decides cannot be asked.
    fn meanwhile(&mut self, address: IpAddr, now: Instant, unix: u64) -> Option<PeerId> {
        let lookup = self.lookups.get(&address).filter(|l| l.unanswered)?;
        let is_due = !lookup.is_asked && lookup.until <= now;
        let peer = self.holders.by_claims(address, unix)?;
        if is_due {
            self.ask(address, now);
        }
        Some(peer)
    }

    /// What is known of this address may be over: it is asked, also if that was done just now.
    fn doubt(&mut self, address: IpAddr, now: Instant) {
        if let Some(lookup) = self.lookups.get_mut(&address).filter(|l| l.is_asked) {
            lookup.again = true;
        } else if !self.ask(address, now) {
            // No room: then it is unknown, and asked for when somebody sends.
            self.holders.forget(address);
        }
    }

    /// Asks about an address, unless that is under way; whether there is room for that.
    fn ask(&mut self, address: IpAddr, now: Instant) -> bool {
        if !self.lookups.contains_key(&address) && self.lookups.len() >= MAX_LOOKUPS {
            // Old answers first: they cost one more question.
            self.lookups.retain(|_, l| l.is_asked || l.until > now);
            if self.lookups.len() >= MAX_LOOKUPS {
                return false;
            }
        }
        let lookup = self.lookups.entry(address).or_insert_with(|| Lookup {
            held: Held::default(),
            is_asked: false,
            again: false,
            unanswered: false,
            until: now,
            nobody: 0,
        });
        if !std::mem::replace(&mut lookup.is_asked, true) {
            self.questions.push(address);
        }
        true
    }
}

/// What followed from an answer.
#[derive(Debug)]
pub(super) struct Answered {
    /// Several have the address by it, and that is new.
    pub(super) conflict: Option<Conflict>,
    /// Who has it, and the packets that go there.
    pub(super) waited: Option<(PeerId, Vec<Packet>)>,
}
