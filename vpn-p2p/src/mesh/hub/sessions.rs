//! Decides which session a datagram of WireGuard is for, and how many that are not members yet there
//! are.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use vpn_core::PeerId;

use super::{Origin, Origins};
use crate::mesh::limit::{Bucket, Rate};
use crate::mesh::record::SignedRecord;
use crate::session::Session;
use crate::wg_quick::PublicKey;

/// Names that one session gave to handshakes: the current one, the one before, and those under way
/// (whitepaper §6.3 keeps three).
const NAMES: usize = 4;

/// A session, by its place here: never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SessionId(u64);

/// What there is between the hub and one node.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) peer: PeerId,
    pub(super) key: PublicKey,
    pub(super) session: Box<dyn Session>,
    /// Where it joined from, or was heard last.
    pub(super) origin: Origin,
    /// It registered.
    pub(super) member: bool,
    pub(super) control: Bucket,
    /// As it joined; afterwards the member's record counts.
    joined: Option<SignedRecord>,
    names: VecDeque<u32>,
}

/// All sessions of a hub.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    held: HashMap<SessionId, Held>,
    by_name: HashMap<u32, SessionId>,
    /// Who joined from there and is not registered.
    joined: Origins<SessionId>,
    /// The same, the oldest first; with some that are gone or registered by now.
    ages: VecDeque<(Instant, SessionId)>,
    next: u64,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn provisional(&self) -> usize {
        self.joined.len()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Held> {
        self.held.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Held> {
        self.held.get_mut(&id)
    }

    pub(super) fn by_name(&self, name: u32) -> Option<SessionId> {
        self.by_name.get(&name).copied()
    }

    /// Whoever joined from there.
    pub(super) fn joined_at(&self, origin: Origin) -> Option<SessionId> {
        self.joined.get(&origin).copied()
    }

    /// Whether this very record joined from there already: then nothing has to be begun again.
    pub(super) fn has_joined(&self, origin: Origin, record: &SignedRecord) -> bool {
        let held = self.joined_at(origin).and_then(|id| self.get(id));
        held.is_some_and(|held| held.joined.as_ref() == Some(record))
    }

    /// Somebody joined. Whoever joined from there before is forgotten, and the oldest one where there
    /// are `most`.
    pub(super) fn join(
        &mut self,
        origin: Origin,
        record: SignedRecord,
        session: Box<dyn Session>,
        control: Rate,
        most: usize,
        now: Instant,
    ) {
        if let Some(before) = self.joined_at(origin) {
            self.remove(before);
        }
        while self.joined.len() >= most.max(1) {
            let Some((_, oldest)) = self.ages.pop_front() else {
                break;
            };
            self.end_provisional(oldest);
        }
        let id = SessionId(self.next);
        self.next += 1;
        let held = Held {
            peer: record.record().peer,
            key: record.record().session,
            session,
            origin,
            member: false,
            control: Bucket::full(control, now),
            joined: Some(record),
            names: VecDeque::new(),
        };
        self.held.insert(id, held);
        self.joined.insert(origin, id);
        self.ages.push_back((now, id));
    }

    /// It is a member's session from now on.
    pub(super) fn promote(&mut self, id: SessionId) {
        let Some(held) = self.held.get_mut(&id) else {
            return;
        };
        held.member = true;
        held.joined = None;
        if self.joined.get(&held.origin) == Some(&id) {
            self.joined.remove(&held.origin);
        }
    }

    /// Datagrams for this name are its own.
    pub(super) fn name(&mut self, id: SessionId, name: u32) {
        let Some(held) = self.held.get_mut(&id) else {
            return;
        };
        if held.names.contains(&name) {
            return;
        }
        held.names.push_back(name);
        self.by_name.insert(name, id);
        if held.names.len() > NAMES
            && let Some(oldest) = held.names.pop_front()
            && self.by_name.get(&oldest) == Some(&id)
        {
            self.by_name.remove(&oldest);
        }
    }

    pub(super) fn remove(&mut self, id: SessionId) {
        let Some(held) = self.held.remove(&id) else {
            return;
        };
        for name in held.names {
            if self.by_name.get(&name) == Some(&id) {
                self.by_name.remove(&name);
            }
        }
        if self.joined.get(&held.origin) == Some(&id) {
            self.joined.remove(&held.origin);
        }
    }

    /// Forgets who joined and did not register in time.
    pub(super) fn age(&mut self, limit: Duration, now: Instant) {
        while let Some(&(since, id)) = self.ages.front()
            && now.saturating_duration_since(since) >= limit
        {
            self.ages.pop_front();
            self.end_provisional(id);
        }
    }

    fn end_provisional(&mut self, id: SessionId) {
        if self.held.get(&id).is_some_and(|held| !held.member) {
            self.remove(id);
        }
    }

    /// All of them, in the order in which they began.
    pub(super) fn ids(&self) -> Vec<SessionId> {
        let mut ids: Vec<_> = self.held.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}
