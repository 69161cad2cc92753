//! Decides who becomes a member, and what of its record counts.

use std::time::Instant;

use vpn_core::PeerId;

use super::sessions::SessionId;
use super::{Hub, Member, Origin};
use crate::mesh::limit::Bucket;
use crate::mesh::record::{Record, SignedRecord};
use crate::mesh::wire::{Refusal, Tag, Token};

/// Longest time from now on that a record may be valid, in seconds: a day. Those of
/// [members](crate::mesh::MemberConfig) are valid for two hours, so clocks may differ by most of a day.
/// Who could name any time would keep its addresses for ever.
const MAX_LIFETIME: u64 = 24 * 3600;

impl Hub {
    /// Whether the node of this session may register now. Who is no member yet was let in by its Join.
    pub(super) fn may_register(&mut self, id: SessionId, now: Instant) -> bool {
        let rate = self.config.limits.registrations;
        let tag = self.sessions.get(id).map(|held| Tag::from(held.peer));
        let member = tag.and_then(|tag| self.members.get_mut(&tag));
        member.is_none_or(|member| member.registrations.take(rate, 1, now))
    }

    /// Takes the node of this session, or its new record, or says why not. Whether it is isolated.
    pub(super) fn register(
        &mut self,
        id: SessionId,
        from: Origin,
        token: Option<&Token>,
        record: &[u8],
        now: Instant,
        unix: u64,
    ) -> Result<bool, Refusal> {
        let record = SignedRecord::from_bytes(record, unix).map_err(|_| Refusal::Record)?;
        let held = self.sessions.get(id).ok_or(Refusal::Record)?;
        let says = record.record();
        // The session is with who has this session key, which the record of the one who signed names.
        // A member's address moves with its sessions; one that only joined is where its cookie says.
        let theirs = held.peer == says.peer && held.key == says.session;
        if !theirs || !(held.member || held.origin == from) {
            return Err(Refusal::Record);
        }
        if let Some(at) = self.neighbours.with_key(says.peer) {
            self.register_neighbour(at, id, from, now);
            return Ok(false);
        }
        self.admit(says.peer, token)?;
        check_lifetime(says, unix)?;
        let tag = Tag::from(says.peer);
        let listed = self.list.of(says.peer);
        let (is_listed, reaches_all) = (listed.is_some(), listed.is_some_and(|l| l.reaches_all));
        let known = self.members.get(&tag);
        let newer = match known {
            Some(known) if known.record.record().peer != says.peer => return Err(Refusal::Taken),
            Some(known) if record.replaces(&known.record) => true,
            Some(known) if known.record == record => false,
            Some(known) => return Err(Refusal::Old(known.record.record().sequence)),
            None => true,
        };
        self.claims
            .check(says, listed, &self.list, &self.config.networks)?;
        if known.is_none() {
            self.make_room(is_listed)?;
        }
        let limits = &self.config.limits;
        let sequence = says.sequence;
        let member = self.members.entry(tag).or_insert_with(|| Member {
            record: record.clone(),
            here: None,
            heard: now,
            listed: is_listed,
            reaches_all,
            registrations: Bucket::full(limits.registrations, now),
            questions: Bucket::full(limits.questions, now),
            relay_bytes: Bucket::full(limits.relay_bytes, now),
            relay_packets: Bucket::full(limits.relay_packets, now),
            relayed: 0,
        });
        member.heard = now;
        self.claims.leave(member.record.record());
        member.record = record;
        self.claims.enter(member.record.record());
        let before = member.here.replace((id, from));
        self.sessions.promote(id);
        if let Some(held) = self.sessions.get_mut(id) {
            held.origin = from;
        }
        let place = before.map_or(from, |(_, origin)| origin);
        self.move_place(tag, place, from);
        if let Some((session, _)) = before
            && session != id
        {
            self.sessions.remove(session);
        }
        self.neighbours.forget(tag);
        self.status.registered += 1;
        if newer {
            self.tell_change(tag, sequence, now);
        }
        Ok(self.config.isolation && !reaches_all)
    }

    /// Whether the list or the token admits it.
    fn admit(&self, peer: PeerId, token: Option<&Token>) -> Result<(), Refusal> {
        if self.list.of(peer).is_some() {
            return Ok(());
        }
        if self.list.by_tag(Tag::from(peer)).is_some() {
            return Err(Refusal::Taken);
        }
        match (&self.config.token, token) {
            (Some(ours), Some(theirs))
                if self.cookies.same(ours.0.as_bytes(), theirs.0.as_bytes()) =>
            {
                Ok(())
            }
            _ => Err(Refusal::NotAdmitted),
        }
    }

    /// A place for one member more. Listed keys have theirs; of the others the one that is away for
    /// longest makes room.
    fn make_room(&mut self, listed: bool) -> Result<(), Refusal> {
        if listed {
            return Ok(());
        }
        let places = self.config.max_members - self.list.len();
        let others = self.members.values().filter(|member| !member.listed);
        if others.count() < places {
            return Ok(());
        }
        let away = self
            .members
            .iter()
            .filter(|(_, member)| !member.listed && member.here.is_none());
        let longest = away
            .min_by_key(|(_, member)| member.heard)
            .map(|(tag, _)| *tag);
        match longest {
            Some(tag) => self.forget(tag),
            None => return Err(Refusal::Full(self.config.max_members as u32)),
        }
        Ok(())
    }
}

pub(super) fn check_lifetime(record: &Record, unix: u64) -> Result<(), Refusal> {
    match record.expires > unix.saturating_add(MAX_LIFETIME) {
        true => Err(Refusal::Lifetime(MAX_LIFETIME)),
        false => Ok(()),
    }
}
