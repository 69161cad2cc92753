//! Decides who is here, where, and who is gone.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::sessions::SessionId;
use super::{Hub, Origin};
use crate::mesh::keys::sender_index;
use crate::mesh::wire::{Tag, ToMember};
use crate::session::Ticked;
use crate::wg_quick::PublicKey;

/// How long a member that is away and not on the list keeps its record and its addresses: as long as a
/// member's own records are valid. Networks for members by token are no larger for who only came once.
pub(super) const AWAY_FOR: Duration = Duration::from_secs(2 * 3600);

/// Sessions, and members, that are looked at in one go: whoever has a datagram for the hub waits for
/// that long, which is a fraction of a millisecond.
pub(super) const SLICE: usize = 256;

/// Who is still to be looked at in this second.
#[derive(Debug, Default)]
pub(super) struct Turn {
    sessions: Vec<SessionId>,
    members: Vec<Tag>,
    /// Since when there is somebody left.
    pub(super) at: Option<Instant>,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.sessions.is_empty() && self.members.is_empty()
    }
}

impl Hub {
    /// Whether somebody joined from there, or is there.
    pub(super) fn is_known(&self, origin: Origin) -> bool {
        self.places.contains_key(&origin)
            || self.sessions.joined_at(origin).is_some()
            || self.neighbours.session_at(origin).is_some()
    }

    /// The session of who has this key, and joined from there or is there.
    pub(super) fn with_key(&self, origin: Origin, key: PublicKey) -> Option<SessionId> {
        let place = self.places.get(&origin);
        let here = place.and_then(|tag| self.members.get(tag)?.here);
        let here = here
            .map(|(id, _)| id)
            .or_else(|| self.neighbours.session_at(origin));
        let fits = |id: &SessionId| self.sessions.get(*id).is_some_and(|held| held.key == key);
        self.sessions
            .joined_at(origin)
            .filter(fits)
            .or(here.filter(fits))
    }

    /// The session opened something from there. Whether it is a member's.
    pub(super) fn heard(&mut self, id: SessionId, from: Origin, now: Instant) -> bool {
        let Some(held) = self.sessions.get_mut(id).filter(|held| held.member) else {
            return false;
        };
        let (tag, moves) = (Tag::from(held.peer), held.origin.is_like(from));
        if self.heard_neighbour(id, now) {
        } else if let Some(member) = self.members.get_mut(&tag) {
            member.heard = now;
        } else {
            return false;
        }
        if moves {
            self.move_to(id, from);
        }
        true
    }

    /// The member of this session is there from now on, and is told how it is seen.
    pub(super) fn move_to(&mut self, id: SessionId, to: Origin) {
        let Some(held) = self.sessions.get_mut(id).filter(|held| held.member) else {
            return;
        };
        let before = std::mem::replace(&mut held.origin, to);
        let tag = Tag::from(held.peer);
        if self.neighbours.with_session(id).is_some() {
            self.move_neighbour(id, to);
            return;
        }
        // Somebody else may have spoken from there meanwhile, or in its name: who proves to be there
        // is there.
        if before == to && self.places.get(&to) == Some(&tag) {
            return;
        }
        if let Some(member) = self.members.get_mut(&tag) {
            member.here = Some((id, to));
            self.move_place(tag, before, to);
            let observed = to.address();
            self.tell(id, to, &ToMember::Pong { nonce: 0, observed });
        }
    }

    /// A member was there and is here now.
    pub(super) fn move_place(&mut self, tag: Tag, before: Origin, now: Origin) {
        if self.places.get(&before) == Some(&tag) {
            self.places.remove(&before);
        }
        self.places.insert(now, tag);
    }

    /// It is away from now on; its record stays.
    pub(super) fn leave(&mut self, tag: Tag) {
        let Some((id, origin)) = self
            .members
            .get_mut(&tag)
            .and_then(|member| member.here.take())
        else {
            return;
        };
        self.sessions.remove(id);
        if self.places.get(&origin) == Some(&tag) {
            self.places.remove(&origin);
        }
    }

    /// It is away, and its record is forgotten: what it had is free.
    pub(super) fn forget(&mut self, tag: Tag) {
        self.leave(tag);
        if let Some(member) = self.members.remove(&tag) {
            self.claims.leave(member.record.record());
            self.watch.forget(tag);
        }
    }

    /// Whether a member is there, or another hub.
    pub fn is_member(&self, origin: Origin) -> bool {
        self.places.contains_key(&origin) || self.is_neighbour(origin)
    }

    /// Whether a member is there whose key is on the list.
    pub fn is_listed(&self, origin: Origin) -> bool {
        let member = self
            .places
            .get(&origin)
            .and_then(|tag| self.members.get(tag));
        member.is_some_and(|member| member.listed)
    }

    /// Tells every member and hub that is here that the hub ends.
    pub fn bye(&mut self, now: Instant) {
        self.leave_hubs(now);
        let here = self.members.values().filter_map(|member| member.here);
        let mut here: Vec<_> = here.chain(self.neighbours.sessions()).collect();
        // In the order in which they came: what happens follows from the seed alone.
        here.sort_unstable_by_key(|(id, _)| *id);
        for (id, origin) in here {
            self.tell(id, origin, &ToMember::Bye);
        }
    }

    /// The streams of this client ended.
    pub fn closed(&mut self, connection: u64, _now: Instant) {
        let origin = Origin::Tls(connection);
        if let Some(id) = self.sessions.joined_at(origin) {
            self.sessions.remove(id);
        }
        if let Some(&tag) = self.places.get(&origin) {
            self.leave(tag);
            self.places.remove(&origin);
        }
        self.leave_neighbour_at(origin);
    }

    /// Everybody is to be looked at, unless that is still under way.
    pub(super) fn begin_turn(&mut self) {
        if self.turn.is_over() {
            self.turn.sessions = self.sessions.ids().into_iter().collect();
            self.turn.members = self.members.keys().copied().collect();
            self.turn.members.sort_unstable();
        }
    }

    /// Looks at the next ones.
    pub(super) fn go_on(&mut self, now: Instant, unix: u64) {
        for _ in 0..SLICE {
            let Some(id) = self.turn.sessions.pop() else {
                break;
            };
            self.tick(id);
        }
        for _ in 0..SLICE {
            let Some(tag) = self.turn.members.pop() else {
                break;
            };
            self.look(tag, now, unix);
        }
        self.turn.at = (!self.turn.is_over()).then_some(now);
    }

    /// Whether a member is silent, or its record over.
    fn look(&mut self, tag: Tag, now: Instant, unix: u64) {
        let Some(member) = self.members.get(&tag) else {
            return;
        };
        let silence = now.saturating_duration_since(member.heard);
        let away = !member.listed && member.here.is_none() && silence >= AWAY_FOR;
        if away || member.record.record().expires <= unix {
            self.forget(tag);
        } else if silence >= self.config.limits.silent_after && member.here.is_some() {
            self.leave(tag);
        }
    }

    /// Lets a session keep time.
    fn tick(&mut self, id: SessionId) {
        let Some(held) = self.sessions.get_mut(id) else {
            return;
        };
        // Members begin handshakes, for they know whether they want one.
        if let Ticked::Send(datagram) = held.session.tick()
            && sender_index(&datagram).is_none()
        {
            self.out.push_back((held.origin, BytesMut::into(datagram)));
        }
    }
}
