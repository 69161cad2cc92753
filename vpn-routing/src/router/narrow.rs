//! A tunnel became narrower: so must what comes through it.
//!
//! Segments of connections that began before are as large as their handshake allowed. The far end
//! would send them on, and lose them: the link that became narrow is the last one, and nobody
//! before it knows. So every live connection's far end is told once, as a router before that link
//! would tell it (RFC 1191 §4, RFC 8201 §4), about the segment that the app expects next.

use std::time::Instant;

use vpn_core::TunnelId;
use vpn_core::packet::{Offload, SegmentTooBig};

use super::Router;
use super::reset::{ENTRIES_AT_ONCE, QUEUE_PAUSE, Walk};
use crate::conn::ConnId;

impl Router {
    /// What a tunnel carries is less than it was.
    pub(super) fn narrowed(&mut self, now: Instant, tunnel: TunnelId, was: u16) {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        slot.was_wider = Some(was);
        // From the start, with those that are not told yet: who is told twice lowers nothing twice.
        self.narrowing = Some(Walk::from_start(now));
        self.narrow_on(now);
    }

    /// Tells some more of them, if that is due.
    pub(super) fn narrow_on(&mut self, now: Instant) {
        let Some(mut walk) = self.narrowing.filter(|walk| walk.due <= now) else {
            return;
        };
        let end = self.conns.slots().min(walk.slot + ENTRIES_AT_ONCE);
        while walk.slot < end {
            if let Some(id) = self.conns.in_slot(walk.slot)
                && !self.tell_far_end(id)
            {
                walk.due = now + QUEUE_PAUSE;
                break;
            }
            walk.slot += 1;
        }
        let more = walk.slot < self.conns.slots();
        self.narrowing = more.then_some(walk);
        if !more {
            self.tunnels
                .iter_mut()
                .for_each(|(_, slot)| slot.was_wider = None);
        }
    }

    /// Tells the far end of a connection, if there is something to tell. `false`: not now, the
    /// queue has no room.
    fn tell_far_end(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get(id).filter(|c| c.phase.is_live_tcp()) else {
            return true;
        };
        let tunnel = conn.tunnel;
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            return true;
        };
        let Some(was) = slot.was_wider.filter(|_| slot.carries()) else {
            return true;
        };
        let told = SegmentTooBig {
            flow: conn.wire.reversed(),
            expected: conn.marks.acknowledged,
            was,
            mtu: slot.mtu,
        };
        if slot.queue.is_full() {
            return false;
        }
        let made = slot.queue.push_with(|buffer| {
            told.write(buffer);
            Some(Offload::NONE)
        });
        if made && slot.queue.len() == 1 {
            self.tunnels.list(tunnel);
        }
        self.accounts.made += u64::from(made);
        true
    }
}
