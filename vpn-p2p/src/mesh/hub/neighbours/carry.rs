//! Decides where datagrams between members of different hubs go.

use std::time::Instant;

use bytes::BytesMut;

use super::{At, Hub};
use crate::mesh::hub::Origin;
use crate::mesh::wire::frame::{CARRY_HEADER, FAR, carry_header, is_frame, relay_header};
use crate::mesh::wire::{Between, Frame, Tag};

/// What becomes of datagrams that another hub hands us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Carried {
    /// They are a member's here, which gets them as [relayed](Frame::Relay) from this one.
    To {
        /// Where.
        origin: Origin,
        /// The sender's.
        tag: Tag,
    },
    /// They are handed on, with so many hubs left.
    On {
        /// Where.
        origin: Origin,
        /// Hubs they may still pass.
        hops: u8,
    },
    /// They are dropped, and that is counted.
    Dropped,
}

/// Why a datagram gets no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stuck {
    /// Nobody of this name is known, or its hub is away.
    Absent,
    /// It has no hops left.
    Hops,
    /// It would go back where it came from.
    Back,
}

impl Hub {
    /// Where a member's datagrams for somebody who is no member go, and with how many hops.
    #[inline]
    pub(in crate::mesh::hub) fn beyond(&mut self, to: Tag, now: Instant) -> Option<(Origin, u8)> {
        if self.neighbours.known.is_empty() {
            return None;
        }
        let via = self.neighbours.remotes.used(to, now)?.via;
        let known = self.neighbours.get_mut(via)?;
        let origin = known.way()?;
        if known.joined().is_some()
            && let Some(link) = &mut known.link
        {
            link.relayed(to, now);
        }
        Some((origin, self.hubs_behind()))
    }

    /// Whether so many datagrams of together so many bytes, headers included, go on: from a neighbour
    /// there, from the member `from`, for `to`. Their contents were seen to be sealed.
    #[expect(
        clippy::too_many_arguments,
        reason = "the header, from where and how much"
    )]
    pub fn carry(
        &mut self,
        origin: Origin,
        hops: u8,
        to: Tag,
        from: Tag,
        bytes: usize,
        segments: usize,
        now: Instant,
    ) -> Carried {
        let count = segments as u64;
        let limits = self.config.limits.neighbours;
        let Some(at) = self.neighbours.at(origin) else {
            self.stranger(origin, Some(to.0), now);
            return Carried::Dropped;
        };
        let hops = hops.min(self.hubs_behind());
        let Some(known) = self.neighbours.get_mut(at) else {
            return Carried::Dropped;
        };
        if let Some(link) = &mut known.link {
            link.relay_heard();
        }
        let allowed = known.packets.take(limits.packets, count, now)
            && known.bytes.take(limits.bytes, bytes as u64, now);
        if !allowed {
            self.status.limited += count;
            return Carried::Dropped;
        }
        known.carried += bytes as u64;
        // Our own member's: it went round, or somebody forged it.
        if self
            .members
            .get(&from)
            .is_some_and(|member| member.here.is_some())
        {
            self.status.looped += count;
            return Carried::Dropped;
        }
        if hops == 0 {
            self.undeliverable(Stuck::Hops, at, [to, from], count, now);
            return Carried::Dropped;
        }
        if self
            .neighbours
            .remotes
            .get(from)
            .is_some_and(|remote| remote.via == at)
        {
            let _ = self.neighbours.remotes.used(from, now);
        }
        if let Some((_, origin)) = self.members.get(&to).and_then(|member| member.here) {
            if !self.crosses(to) {
                self.status.isolated += count;
                return Carried::Dropped;
            }
            self.status.relayed_packets += count;
            self.status.relayed_bytes += bytes as u64;
            return Carried::To { origin, tag: from };
        }
        match self.next_hop(at, to, hops, now) {
            Ok((_, origin, hops)) => {
                self.status.carried_packets += count;
                self.status.carried_bytes += bytes as u64;
                Carried::On { origin, hops }
            }
            Err(why) => {
                self.undeliverable(why, at, [to, from], count, now);
                Carried::Dropped
            }
        }
    }

    /// To which neighbour something goes that came from one, and with how many hops.
    pub(super) fn next_hop(
        &mut self,
        by: At,
        to: Tag,
        hops: u8,
        now: Instant,
    ) -> Result<(At, Origin, u8), Stuck> {
        let via = self
            .neighbours
            .remotes
            .used(to, now)
            .map(|remote| remote.via);
        let via = via.ok_or(Stuck::Absent)?;
        if via == by {
            return Err(Stuck::Back);
        }
        let known = self.neighbours.known.get_mut(via.0);
        let known = known.ok_or(Stuck::Absent)?;
        let origin = known.way().ok_or(Stuck::Absent)?;
        if hops <= 1 {
            return Err(Stuck::Hops);
        }
        if known.joined().is_some()
            && let Some(link) = &mut known.link
        {
            link.relayed(to, now);
        }
        Ok((via, origin, hops - 1))
    }

    /// Counts it, and tells the hub it came from, which asks for the way anew.
    pub(super) fn undeliverable(
        &mut self,
        why: Stuck,
        by: At,
        [to, from]: [Tag; 2],
        count: u64,
        now: Instant,
    ) {
        match why {
            Stuck::Absent => self.status.absent += count,
            Stuck::Hops => self.status.no_hops += count,
            Stuck::Back => self.status.looped += count,
        }
        let (hops, rate) = (self.hubs_behind(), self.config.limits.strangers);
        let known = self.neighbours.get_mut(by);
        if hops > 0 && known.is_some_and(|known| known.hints.take(rate, 1, now)) {
            let (to, from) = (to.0, from.0);
            self.say(by, Between::Absent { to, from, hops });
        }
    }

    /// One, with its contents.
    pub(in crate::mesh::hub) fn carry_one(
        &mut self,
        origin: Origin,
        datagram: &BytesMut,
        now: Instant,
    ) {
        let Ok(Frame::Carry {
            to,
            from,
            hops,
            datagram: inner,
        }) = Frame::read(datagram)
        else {
            return;
        };
        // Introductions go in the hubs' session.
        if inner.is_empty() || is_frame(inner) {
            self.status.malformed += 1;
            return;
        }
        let frame = match self.carry(origin, hops, to, from, datagram.len(), 1, now) {
            Carried::To { origin, tag } => {
                let relay = relay_header(tag, FAR);
                (origin, [&relay[..], &datagram[CARRY_HEADER..]].concat())
            }
            Carried::On { origin, hops } => {
                let carry = carry_header(to, from, hops);
                (origin, [&carry[..], &datagram[CARRY_HEADER..]].concat())
            }
            Carried::Dropped => return,
        };
        self.out.push_back(frame);
    }
}
