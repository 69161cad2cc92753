//! Decides what members' messages bring.

use std::net::IpAddr;
use std::time::Instant;

use bytes::BytesMut;
use ipnet::IpNet;

use super::sessions::SessionId;
use super::{Hub, Member, Origin};
use crate::mesh::wire::{Plain as _, Tag, ToHub, ToMember, What};

/// What WireGuard pads messages to (whitepaper §5.4.6).
const PADDING: usize = 16;

impl Hub {
    /// Something that only this session's node can have sealed.
    pub(super) fn control(
        &mut self,
        id: SessionId,
        from: Origin,
        plain: &[u8],
        now: Instant,
        unix: u64,
    ) {
        let neighbour = self.neighbours.with_session(id);
        let rate = match neighbour {
            Some(_) => self.config.limits.neighbours.control,
            None => self.config.limits.control,
        };
        let Some(held) = self.sessions.get_mut(id) else {
            return;
        };
        let message = ToHub::from_plain(plain);
        // What hubs tell each other has limits of its own.
        let is_between = neighbour.is_some() && matches!(message, Some(ToHub::Between(_)));
        if !is_between && !held.control.take(rate, 1, now) {
            self.status.limited += 1;
            return;
        }
        let (member, tag) = (held.member, Tag::from(held.peer));
        let Some(message) = message else {
            self.status.malformed += 1;
            return;
        };
        match message {
            ToHub::Register {
                id: question,
                token,
                record,
            } => {
                if !self.may_register(id, now) {
                    self.status.limited += 1;
                    return;
                }
                let answer = match self.register(id, from, token.as_ref(), &record, now, unix) {
                    Ok(isolated) => ToMember::Registered {
                        id: question,
                        observed: from.address(),
                        isolated,
                    },
                    Err(why) => {
                        self.status.refuse(&why);
                        ToMember::Refused { id: question, why }
                    }
                };
                self.tell(id, from, &answer);
            }
            // Whoever is not a member learns nothing.
            _ if !member => self.status.malformed += 1,
            ToHub::Between(message) => match neighbour {
                Some(at) => self.hear(at, message, now, unix),
                None => self.status.malformed += 1,
            },
            // A hub is nobody's peer.
            ToHub::Find { .. } | ToHub::Have { .. } if neighbour.is_some() => {
                self.status.malformed += 1;
            }
            ToHub::Find { id: question, what } => {
                self.status.finds += 1;
                self.answer(id, from, question, what, now);
            }
            ToHub::Ping { nonce } => {
                // Asked by another carrier: that is the one it uses now.
                self.move_to(id, from);
                let observed = from.address();
                self.tell(id, from, &ToMember::Pong { nonce, observed });
            }
            ToHub::Have { peer, sequence } => {
                let of = Tag::from(vpn_core::PeerId(peer));
                self.watch.have(tag, of, sequence);
            }
            ToHub::Bye => match neighbour {
                Some(at) => self.leave_neighbour(at),
                None => self.leave(tag),
            },
        }
    }

    /// Which of the members that is.
    pub(super) fn holder(&self, what: What) -> Option<Tag> {
        let tag = match what {
            What::Address(address) => self.at_address(address)?,
            What::Peer(key) => Tag::from(vpn_core::PeerId(key)),
            What::Tag(tag) => Tag(tag),
        };
        let found = self.members.get(&tag)?;
        let is_meant = match what {
            What::Peer(key) => found.record.record().peer.0 == key,
            _ => true,
        };
        is_meant.then_some(tag)
    }

    /// Whose an address is, or behind whom: an address of the mesh is its member's alone, of whichever
    /// hub that is.
    fn at_address(&self, address: IpAddr) -> Option<Tag> {
        let behind = || self.claims.way_to(address);
        let leads = |(net, _): &(IpNet, Tag)| self.leads_to(*net, address);
        let holder = self.claims.holder(address);
        holder.or_else(|| behind().filter(leads).map(|(_, tag)| tag))
    }

    /// Whether a network behind a member, which the list allows it, says anything about an address in
    /// it: one that is around a network of the mesh says nothing about that.
    pub(super) fn leads_to(&self, net: IpNet, address: IpAddr) -> bool {
        let around =
            |mesh: &&IpNet| mesh.contains(&address) && net.prefix_len() < mesh.prefix_len();
        self.config.networks.iter().find(around).is_none() && self.list.pinned(address).is_none()
    }

    /// Whether an address is one that members have: none that is behind a member of another hub.
    pub(super) fn is_in_mesh(&self, address: IpAddr) -> bool {
        let networks = &self.config.networks;
        networks.iter().any(|network| network.contains(&address))
            || self.list.pinned(address).is_some()
    }

    /// Who that is, for this member, which is told of changes from then on.
    pub(super) fn find(&mut self, asker: Tag, what: What) -> Option<(Vec<u8>, bool)> {
        let tag = self.holder(what).filter(|tag| self.reach(asker, *tag))?;
        let found = self.members.get(&tag)?;
        let answer = (found.record.to_bytes(), found.here.is_some());
        self.watch.ask(asker, tag);
        Some(answer)
    }

    /// Whether these two may know of each other.
    fn reach(&self, one: Tag, other: Tag) -> bool {
        let all = |tag| {
            self.members
                .get(&tag)
                .is_some_and(|m: &Member| m.reaches_all)
        };
        !self.config.isolation || one == other || all(one) || all(other)
    }

    /// Tells it to everybody who asked for this member.
    pub(super) fn tell_change(&mut self, of: Tag, sequence: u64, now: Instant) {
        for watcher in self.watch.changed(of, sequence, now) {
            self.tell_one(watcher, of);
        }
    }

    pub(super) fn repeat_changes(&mut self, now: Instant) {
        while let Some(due) = self.watch.due(now) {
            self.tell_one(due.watcher, due.of);
        }
    }

    pub(super) fn tell_one(&mut self, watcher: Tag, of: Tag) {
        if self.tell_beyond(watcher, of) {
            return;
        }
        let here = self.members.get(&watcher).and_then(|member| member.here);
        let record = self.newest(of).map(|record| record.to_bytes());
        if let (Some((id, origin)), Some(record), true) = (here, record, self.reach(watcher, of)) {
            self.status.changes += 1;
            self.tell(id, origin, &ToMember::Changed { record });
        }
    }

    pub(super) fn tell(&mut self, id: SessionId, to: Origin, message: &ToMember) {
        let mut plain = message.to_plain();
        plain.resize(plain.len().next_multiple_of(PADDING), 0);
        self.seal(id, to, BytesMut::from(&plain[..]));
    }
}
