//! Connections that are reset because their way changed: both ends are told, once and exactly.
//!
//! The app is told at once, with the last acknowledgment that was seen of it as sequence number.
//! If a segment was under way and that number is stale, the app answers with a challenge ACK
//! (RFC 5961 §3.2), and the answer to that is exact. The server is told through the old tunnel, as
//! long as that carries.

use std::time::{Duration, Instant};

use vpn_core::packet::{Offload, Packet, Parsed, TcpReset};
use vpn_core::{OnChange, TransportState, TunnelId};

use super::Router;
use super::resolve::Way;
use super::revalidate::knows_enough;
use crate::conn::{ConnId, Origin, Phase, Stamp};

/// Entries of the table looked at in one go: a change must not hold up packets for long.
pub(super) const ENTRIES_AT_ONCE: usize = 4096;

/// How long the rest waits while the queue to the device has no room.
pub(super) const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// A walk over the table, for connections to reset or to tell something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub(super) slot: usize,
    pub(super) due: Instant,
}

impl Walk {
    pub(super) const fn from_start(now: Instant) -> Self {
        Self { slot: 0, due: now }
    }
}

impl Router {
    /// The ways of flows changed: connections whose rule says so are reset from now on.
    pub(super) fn end_moved(&mut self, now: Instant) {
        if self.rules.resets() {
            self.walk = Some(Walk::from_start(now));
            self.walk_on(now);
        }
    }

    /// Looks at some more entries, if that is due.
    pub(super) fn walk_on(&mut self, now: Instant) {
        let Some(mut walk) = self.walk.filter(|walk| walk.due <= now) else {
            return;
        };
        let end = self.conns.slots().min(walk.slot + ENTRIES_AT_ONCE);
        while walk.slot < end && !self.device.is_full() {
            if let Some(id) = self.conns.in_slot(walk.slot)
                && self.is_to_reset(now, id)
            {
                self.reset(now, id);
            }
            walk.slot += 1;
        }
        if self.device.is_full() {
            walk.due = now + QUEUE_PAUSE;
        }
        self.walk = (walk.slot < self.conns.slots()).then_some(walk);
    }

    /// Whether this is a live connection that has another way now, and whose rule says reset.
    fn is_to_reset(&self, now: Instant, id: ConnId) -> bool {
        let Some(conn) = self.conns.get(id) else {
            return false;
        };
        if !conn.phase.is_live_tcp() || conn.origin != Origin::Device {
            return false;
        }
        let stamp = self.stamp(now);
        let owner = self.owner_named(&conn);
        if !knows_enough(self.needs_owner(stamp, &conn.device, None), owner) {
            return false;
        }
        let decision = self.decision(stamp, owner, &conn.device, None);
        decision.on_change == OnChange::Reset
            && match self.resolve(&decision, &conn.device, owner) {
                Way::Through(tunnel) => tunnel != conn.tunnel,
                Way::Down(_) => !self.names(&decision, conn.tunnel),
                // It ends with its next packet, and without a word, as a blocked flow does.
                Way::Block(_) => false,
            }
    }

    fn reset(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let to_app = TcpReset::new(conn.device.reversed(), conn.marks.acknowledged);
        self.tell_app(to_app);
        self.end_by_reset(self.stamp(now), id);
    }

    /// Ends a connection and tells the server. The app is told by whoever calls.
    pub(super) fn end_by_reset(&mut self, now: Stamp, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let (tunnel, to_server) = (conn.tunnel, TcpReset::new(conn.wire, conn.marks.next));
        self.end(now, id, Phase::TcpReset);
        self.tell_server(tunnel, to_server);
    }

    /// Answers a segment that the app sent on a connection that was reset.
    pub(super) fn answer_with_reset(&mut self, parsed: &Parsed, packet: &Packet) {
        if let Some(reset) = TcpReset::answering(packet.bytes(), parsed) {
            self.tell_app(reset);
        }
    }

    /// Answers a segment that came from a tunnel for a connection that was ended, if it was reset.
    pub(super) fn answer_server(
        &mut self,
        id: ConnId,
        tunnel: TunnelId,
        parsed: &Parsed,
        packet: &Packet,
    ) {
        let was_reset = |phase| phase == Phase::TcpReset;
        if self.conns.get(id).is_some_and(|c| was_reset(c.phase))
            && let Some(reset) = TcpReset::answering(packet.bytes(), parsed)
        {
            self.tell_server(tunnel, reset);
        }
    }

    fn tell_app(&mut self, reset: TcpReset) {
        let made = self.device.push_with(|buffer| {
            reset.write(buffer);
            Some(Offload::NONE)
        });
        self.accounts.made += u64::from(made);
    }

    fn tell_server(&mut self, tunnel: TunnelId, reset: TcpReset) {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        if !matches!(slot.state, TransportState::Up(_)) {
            return;
        }
        let made = slot.queue.push_with(|buffer| {
            reset.write(buffer);
            Some(Offload::NONE)
        });
        if made && slot.queue.len() == 1 {
            self.tunnels.list(tunnel);
        }
        self.accounts.made += u64::from(made);
    }
}
