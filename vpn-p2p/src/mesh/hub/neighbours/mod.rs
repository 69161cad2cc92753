//! Decides what hubs do for each other: find each other's members, tell of introductions and changes,
//! and hand datagrams on.
//!
//! ```text
//!  member ── Relay ──▶ hub ── Carry, hops 2 ──▶ hub ── Carry, hops 1 ──▶ hub ── Relay ──▶ member
//! ```
//!
//! | Module | What it decides |
//! |---|---|
//! | `config` | who is a neighbour, and how much it may have |
//! | `links` | how a neighbour is joined, and which of its datagrams is for that |
//! | `questions` | which questions are open, and which were asked before |
//! | `remotes` | behind which neighbour somebody is, and for how long that is believed |
//! | `find` | who is asked for whom, and what the answers come to |
//! | `hear` | what of a neighbour's messages is believed |
//! | `carry` | where a neighbour's datagrams go |
//!
//! # What ends
//!
//! Every datagram and every question says how many hubs it may still pass, and each hub takes one away
//! and allows no more than its own [`max_hops`](super::HubConfig::max_hops) does. A datagram is not
//! handed back to where it came from, nor taken from a neighbour if its sender is a member here; a
//! question names the hubs it was at and is answered once. So nothing goes in circles, whatever the
//! hubs believe of each other.
//!
//! # What is believed
//!
//! A neighbour says who its members are. That makes it as powerful over addresses that are not ours as
//! our own list is over ours: it can name a key of its own as the holder of one. It never gets what is a
//! member's here, or pinned to a key here, and never sees what members send each other.

mod carry;
mod config;
mod find;
mod hear;
mod links;
mod questions;
mod remotes;
mod status;

use std::time::Instant;

use vpn_core::PeerId;

pub use carry::Carried;
pub(super) use config::check;
pub use config::{MAX_HOPS, MAX_NEIGHBOURS, Neighbour, NeighbourLimits};
pub use status::NeighbourStatus;

use super::sessions::SessionId;
use super::{Hub, HubConfig, HubError, Origin, Origins};
use crate::mesh::limit::Bucket;
use crate::mesh::link::Link;
use crate::mesh::way::Carrier;
use crate::mesh::wire::{Between, Tag, ToMember, What};
use questions::Questions;
use remotes::{MAX_REMOTES, Remote, Remotes};

/// A neighbour, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct At(usize);

/// Another hub, here or away.
#[derive(Debug)]
struct Known {
    key: PeerId,
    /// How we join it, where its endpoint is known.
    link: Option<Link>,
    /// While it joined us: its session, and where.
    here: Option<(SessionId, Origin)>,
    heard: Instant,
    packets: Bucket,
    bytes: Bucket,
    control: Bucket,
    /// Its questions, and ours to it.
    asks: Bucket,
    asked: Bucket,
    /// What it is told of datagrams that get no further.
    hints: Bucket,
    /// Bytes it handed us.
    carried: u64,
}

impl Known {
    fn tag(&self) -> Tag {
        Tag::from(self.key)
    }

    /// Where datagrams for it go, by the link if there are two.
    fn way(&self) -> Option<Origin> {
        self.joined().or(self.here.map(|(_, origin)| origin))
    }

    /// The same, if we joined it.
    fn joined(&self) -> Option<Origin> {
        match self.link.as_ref()?.way()? {
            (Carrier::Udp, to) => Some(Origin::Udp(to)),
            (Carrier::Tls, _) => None,
        }
    }
}

/// All other hubs, and what is known by them.
#[derive(Debug)]
pub(super) struct Neighbours {
    known: Vec<Known>,
    /// Which one joined from there.
    places: Origins<At>,
    remotes: Remotes,
    questions: Questions,
    /// Questions of ours that were given a name.
    named: u64,
}

impl Neighbours {
    pub(super) fn new(config: &HubConfig, own: PeerId, now: Instant) -> Result<Self, HubError> {
        check(config, own)?;
        let limits = &config.limits.neighbours;
        let known = config.neighbours.iter().map(|neighbour| Known {
            key: neighbour.key,
            link: None,
            here: None,
            heard: now,
            packets: Bucket::full(limits.packets, now),
            bytes: Bucket::full(limits.bytes, now),
            control: Bucket::full(limits.control, now),
            asks: Bucket::full(limits.questions, now),
            asked: Bucket::full(limits.questions, now),
            hints: Bucket::full(config.limits.strangers, now),
            carried: 0,
        });
        Ok(Self {
            known: known.collect(),
            places: Origins::new(),
            remotes: Remotes::default(),
            questions: Questions::default(),
            named: 0,
        })
    }

    fn get_mut(&mut self, at: At) -> Option<&mut Known> {
        self.known.get_mut(at.0)
    }

    fn all(&self) -> impl Iterator<Item = (At, &Known)> {
        self.known
            .iter()
            .enumerate()
            .map(|(n, known)| (At(n), known))
    }

    /// Which neighbour has this key.
    pub(super) fn with_key(&self, key: PeerId) -> Option<At> {
        self.all()
            .find(|(_, known)| known.key == key)
            .map(|(at, _)| at)
    }

    /// Which neighbour's key begins so.
    fn with_tag(&self, tag: Tag) -> Option<At> {
        self.all()
            .find(|(_, known)| known.tag() == tag)
            .map(|(at, _)| at)
    }

    /// Which neighbour joined by this session.
    pub(super) fn with_session(&self, id: SessionId) -> Option<At> {
        let is = |known: &Known| known.here.is_some_and(|(here, _)| here == id);
        self.all().find(|(_, known)| is(known)).map(|(at, _)| at)
    }

    /// The session by which somebody there joined.
    pub(super) fn session_at(&self, origin: Origin) -> Option<SessionId> {
        let at = self.places.get(&origin)?;
        self.known.get(at.0)?.here.map(|(id, _)| id)
    }

    /// Sessions of those that joined us.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (SessionId, Origin)> {
        self.known.iter().filter_map(|known| known.here)
    }

    /// Who is meant, if the answer is fresh and leads somewhere.
    fn fresh(&self, what: What, now: Instant) -> Option<&Remote> {
        let remote = self.remotes.fresh(what, now)?;
        self.known.get(remote.via.0)?.way().map(|_| remote)
    }

    /// Somebody is our own member now.
    pub(super) fn forget(&mut self, tag: Tag) {
        self.remotes.remove(tag);
    }

    /// It joined from there, and is not there any more. Somebody else may be since.
    fn leave_place(&mut self, at: At, origin: Origin) {
        if self.places.get(&origin) == Some(&at) {
            self.places.remove(&origin);
        }
    }

    /// Which neighbour is there.
    fn at(&self, origin: Origin) -> Option<At> {
        let joined = |known: &Known| known.joined() == Some(origin);
        let there = self.places.get(&origin).copied();
        there.or_else(|| {
            self.all()
                .find(|(_, known)| joined(known))
                .map(|(at, _)| at)
        })
    }
}

impl Hub {
    /// Whether another hub is there, or may be, as far as an address says: what comes from there keeps
    /// its order.
    pub fn is_neighbour(&self, origin: Origin) -> bool {
        self.neighbours.at(origin).is_some() || self.link_at(origin).is_some()
    }

    /// Takes the neighbour of this session, which proved that it has its key.
    pub(super) fn register_neighbour(&mut self, at: At, id: SessionId, from: Origin, now: Instant) {
        let Some(known) = self.neighbours.get_mut(at) else {
            return;
        };
        known.heard = now;
        let before = known.here.replace((id, from));
        self.sessions.promote(id);
        if let Some(held) = self.sessions.get_mut(id) {
            held.origin = from;
        }
        if let Some((session, origin)) = before {
            self.neighbours.leave_place(at, origin);
            if session != id {
                self.sessions.remove(session);
            }
        }
        self.neighbours.places.insert(from, at);
        self.neighbours.questions.hope();
        self.status.registered += 1;
    }

    /// The neighbour of this session was heard there. Whether it is one's.
    pub(super) fn heard_neighbour(&mut self, id: SessionId, now: Instant) -> bool {
        let Some(at) = self.neighbours.with_session(id) else {
            return false;
        };
        if let Some(known) = self.neighbours.get_mut(at) {
            known.heard = now;
        }
        true
    }

    /// The neighbour of this session is there from now on, and is told how it is seen.
    pub(super) fn move_neighbour(&mut self, id: SessionId, to: Origin) {
        let Some(at) = self.neighbours.with_session(id) else {
            return;
        };
        let Some(known) = self.neighbours.get_mut(at) else {
            return;
        };
        let before = known.here.replace((id, to)).map(|(_, origin)| origin);
        // Another hub may have been heard there meanwhile, or somebody in its name.
        if before == Some(to) && self.neighbours.places.get(&to) == Some(&at) {
            return;
        }
        if let Some(before) = before {
            self.neighbours.leave_place(at, before);
        }
        self.neighbours.places.insert(to, at);
        let observed = to.address();
        self.tell(id, to, &ToMember::Pong { nonce: 0, observed });
    }

    /// It joined us, and is away from now on. What is known by it is asked for again when it is wanted.
    pub(super) fn leave_neighbour(&mut self, at: At) {
        let here = self
            .neighbours
            .get_mut(at)
            .and_then(|known| known.here.take());
        if let Some((id, origin)) = here {
            self.sessions.remove(id);
            self.neighbours.leave_place(at, origin);
        }
    }

    /// The same, for who is there.
    pub(super) fn leave_neighbour_at(&mut self, origin: Origin) {
        if let Some(&at) = self.neighbours.places.get(&origin) {
            self.leave_neighbour(at);
        }
    }

    /// Looks for neighbours that are silent, and forgets what is too old.
    pub(super) fn look_at_neighbours(&mut self, now: Instant, unix: u64) {
        let silent_after = self.config.limits.silent_after;
        let silent = self.neighbours.all().filter_map(|(at, known)| {
            let silent = now.saturating_duration_since(known.heard) >= silent_after;
            (silent && known.here.is_some()).then_some(at)
        });
        for at in silent.collect::<Vec<_>>() {
            self.leave_neighbour(at);
        }
        self.neighbours.remotes.age(now, unix);
        // Members of other hubs that are watched and were forgotten.
        if self.watch.len() > self.members.len() + MAX_REMOTES {
            let (members, remotes) = (&self.members, &self.neighbours.remotes);
            self.watch
                .retain(|of| members.contains_key(&of) || remotes.get(of).is_some());
        }
        self.neighbours.questions.age(now);
    }

    /// Says something to a neighbour; `false` while there is no session.
    fn say(&mut self, at: At, message: Between) -> bool {
        let Some(known) = self.neighbours.get_mut(at) else {
            return false;
        };
        if let Some(link) = &mut known.link
            && link.way().is_some()
        {
            let said = link.between(message);
            self.pump(at);
            return said;
        }
        let Some((id, origin)) = known.here else {
            return false;
        };
        self.tell(id, origin, &ToMember::Between(message));
        true
    }

    /// Whether a member here reaches, and is reached by, members of other hubs: where members do not
    /// reach each other, those do that reach all.
    pub(super) fn crosses(&self, tag: Tag) -> bool {
        let all = |member: &super::Member| member.reaches_all;
        !self.config.isolation || self.members.get(&tag).is_some_and(all)
    }

    /// Hubs behind us that one of our members' datagrams may pass.
    const fn hubs_behind(&self) -> u8 {
        self.config.max_hops.saturating_sub(2)
    }
}
