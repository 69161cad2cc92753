//! Decides where datagrams between members go.

use std::time::Instant;

use bytes::BytesMut;

use super::{Hub, Member, Origin};
use crate::mesh::wire::frame::{HEADER, RELAY_HEADER, carry_header, is_frame};
use crate::mesh::wire::{Frame, Tag};

/// What becomes of datagrams that one member sends another. The hints that belong to it wait in
/// [`Hub::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Relayed {
    /// They go there, and bear the sender's tag instead of the receiver's.
    To {
        /// Where.
        origin: Origin,
        /// The sender's.
        tag: Tag,
    },
    /// They go to another hub, which hands them on.
    Beyond {
        /// Where.
        origin: Origin,
        /// The sender's.
        from: Tag,
        /// Hubs they may pass.
        hops: u8,
    },
    /// The receiver is not here.
    Absent,
    /// The sender is no member, or not from there.
    Stranger,
    /// The sender had what it may have.
    Limited,
    /// These two do not reach each other.
    Isolated,
}

impl Hub {
    /// Whether so many datagrams of together so many bytes, headers included, go from there to the
    /// member of this tag. Their contents were seen to be sealed: their first byte is no frame's.
    pub fn relay(
        &mut self,
        from: Origin,
        tag: Tag,
        bytes: usize,
        segments: usize,
        now: Instant,
    ) -> Relayed {
        let Some(&source) = self.places.get(&from) else {
            self.stranger(from, Some(tag.0), now);
            return Relayed::Stranger;
        };
        let isolation = self.config.isolation;
        let target = self.members.get(&tag).filter(|_| source != tag);
        let reaches_all = target.is_some_and(|target| target.reaches_all);
        let to = target.and_then(|target| target.here);
        let Some(sender) = self.members.get_mut(&source) else {
            return Relayed::Stranger;
        };
        sender.heard = now;
        let limits = &self.config.limits;
        let allowed = sender
            .relay_packets
            .take(limits.relay_packets, segments as u64, now)
            && sender
                .relay_bytes
                .take(limits.relay_bytes, bytes as u64, now);
        if !allowed {
            self.status.limited += segments as u64;
            return Relayed::Limited;
        }
        if isolation && !(sender.reaches_all || reaches_all) {
            self.status.isolated += segments as u64;
            self.absent(from, tag);
            return Relayed::Isolated;
        }
        sender.relayed += bytes as u64;
        let Some((_, origin)) = to else {
            if source != tag
                && let Some((origin, hops)) = self.beyond(tag, now)
            {
                self.status.carried_packets += segments as u64;
                self.status.carried_bytes += bytes as u64;
                let from = source;
                return Relayed::Beyond { origin, from, hops };
            }
            self.status.absent += segments as u64;
            self.absent(from, tag);
            return Relayed::Absent;
        };
        self.status.relayed_packets += segments as u64;
        self.status.relayed_bytes += bytes as u64;
        Relayed::To {
            origin,
            tag: source,
        }
    }

    /// One, with its contents: they are sealed, or the sender's own record that it registered, which the
    /// receiver is told in its session.
    pub(super) fn relay_one(&mut self, from: Origin, mut datagram: BytesMut, now: Instant) {
        let Ok(Frame::Relay {
            tag,
            datagram: inner,
            ..
        }) = Frame::read(&datagram)
        else {
            return;
        };
        let introduces = is_frame(inner) && self.places.contains_key(&from);
        if introduces && !self.introduces(from, inner) {
            self.status.malformed += 1;
            return;
        }
        match self.relay(from, tag, datagram.len(), 1, now) {
            // In the receiver's session: what only looks as if it came from us is not believed.
            Relayed::To { tag: source, .. } if introduces => self.tell_one(tag, source),
            Relayed::Beyond { from: source, .. } if introduces => {
                self.introduce_beyond(source, tag);
            }
            Relayed::Beyond { origin, from, hops } => {
                let header = carry_header(tag, from, hops);
                let carried = [&header[..], &datagram[RELAY_HEADER..]].concat();
                self.out.push_back((origin, carried));
            }
            Relayed::To { origin, tag } => {
                datagram[HEADER..RELAY_HEADER].copy_from_slice(&tag.0);
                self.out.push_back((origin, datagram.into()));
            }
            _ => {}
        }
    }

    /// Whether this is the sender's record as it is registered: what the hub checked counts for the
    /// receiver too.
    fn introduces(&self, from: Origin, frame: &[u8]) -> bool {
        let member = self.places.get(&from).and_then(|tag| self.members.get(tag));
        let known = |member: &Member| member.record.to_bytes();
        matches!(
            (Frame::read(frame), member),
            (Ok(Frame::Introduce { record }), Some(member)) if known(member) == record
        )
    }

    fn absent(&mut self, to: Origin, tag: Tag) {
        self.out.push_back((to, Frame::Absent { tag }.to_bytes()));
    }
}
