//! Decides what a datagram of the session means, whether there is a session, and when it is renewed.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::DropReason;

use super::{Arrival, Peer, PeerEvent, RENEW_AFTER, RENEW_EARLY, RENEW_LATE, REPEAT_AFTER};
use crate::mesh::way::{Policy, Way};
use crate::mesh::wire::{Inner, control};
use crate::session::{Opened, TICK, Ticked};

/// Without packets for so long, none of WireGuard's timers is about to fire that has to fire on the
/// spot: the longest that follows a packet is 15 s (whitepaper §6.1).
const QUIET_AFTER: Duration = Duration::from_secs(20);

/// How often sessions of quiet peers are ticked: a member with a thousand of them would be woken by
/// nothing else.
const SLOW_TICK: Duration = Duration::from_secs(1);

impl Peer {
    /// A datagram came that the table of session names, or the gate before handshakes, gave to this
    /// peer.
    pub fn datagram(&mut self, way: Way, datagram: BytesMut, unix: u64, now: Instant) -> Arrival {
        let relay_only = self.rules.policy == Policy::RelayOnly;
        if self.rules.policy == Policy::Deny || (relay_only && way.is_direct()) {
            return Arrival::Dropped(DropReason::AddressNotAllowed);
        }
        let bytes = datagram.len() as u64;
        let Some((_, session)) = &mut self.session else {
            return Arrival::Dropped(DropReason::NoSession);
        };
        let opened = session.open(datagram);
        match opened {
            Opened::Rejected(reason) => return Arrival::Dropped(reason),
            Opened::Nothing => return Arrival::Handled,
            Opened::Packet(_) | Opened::Keepalive | Opened::Reply(_) => {}
        }
        let arrival = match opened {
            Opened::Packet(plain) => match control::inner(&plain) {
                Inner::Packet => {
                    self.count_received(way, bytes, now);
                    Arrival::Packet(plain)
                }
                Inner::Super(offload) => {
                    self.count_received(way, bytes, now);
                    Arrival::Super(offload, plain)
                }
                Inner::Control => {
                    self.after_datagram(way, now);
                    return self.control(way, &plain, unix, now);
                }
                Inner::Unknown => Arrival::Dropped(DropReason::Malformed),
            },
            Opened::Reply(reply) => {
                self.send(way, reply.to_vec(), now);
                Arrival::Handled
            }
            _ => Arrival::Handled,
        };
        self.after_datagram(way, now);
        arrival
    }

    pub(super) fn count_received(&mut self, way: Way, bytes: u64, now: Instant) {
        let counter = match way.is_direct() {
            true => &mut self.counters.rx_direct,
            false => &mut self.counters.rx_relayed,
        };
        counter[0] += 1;
        counter[1] += bytes;
        self.last_packet = Some(now);
    }

    /// What follows from anything authentic.
    #[inline]
    pub(super) fn after_datagram(&mut self, way: Way, now: Instant) {
        if !self.was_ready {
            self.after_session(now);
        }
        self.paths.heard(way, now);
    }

    /// Compares the session's state with what was known of it.
    pub(super) fn after_session(&mut self, now: Instant) {
        let ready = self.is_ready();
        if self.session.is_some() {
            self.next_tick.get_or_insert(now + TICK);
        }
        if ready == self.was_ready {
            return;
        }
        self.was_ready = ready;
        if ready {
            self.counters.sessions += 1;
            self.attempts.succeeded(now);
            self.last_packet.get_or_insert(now);
            self.plan_renewal(now);
            self.paths.session_ready(now);
            self.events.push_back(PeerEvent::Ready);
            self.tell(now);
        } else {
            self.renew_at = None;
            self.telling = None;
            self.paths.session_lost(now);
            if self.is_wanted(now) {
                self.attempts.want(now);
            }
        }
        self.forward_path_events();
    }

    /// Somebody sent or received lately.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.last_packet
            .is_some_and(|at| now.saturating_duration_since(at) < self.idle_after)
    }

    pub(super) fn plan_renewal(&mut self, now: Instant) {
        let after = if self.first { RENEW_AFTER } else { RENEW_LATE };
        let age = self
            .session
            .as_ref()
            .and_then(|(_, session)| session.handshake_age());
        self.renew_at = Some(now + after.saturating_sub(age.unwrap_or_default()));
    }

    /// Renews the session while it works, by the way in use.
    pub(super) fn renew(&mut self, now: Instant) {
        self.renew_at = Some(now + REPEAT_AFTER * 5);
        let age = self
            .session
            .as_ref()
            .and_then(|(_, session)| session.handshake_age());
        let after = if self.first { RENEW_AFTER } else { RENEW_LATE };
        if age.is_some_and(|age| age < after) {
            self.plan_renewal(now);
            return;
        }
        let Some(way) = self.paths.current() else {
            return;
        };
        if let Some((_, session)) = &mut self.session
            && let Some(init) = session.initiate(true)
        {
            self.send(way, init.to_vec(), now);
        }
    }

    /// Keeps a way open. A session that is to be renewed soon is renewed now: that is as good as a
    /// keepalive, and one packet less.
    pub(super) fn keep_alive(&mut self, way: Way, now: Instant) {
        let age = self
            .session
            .as_ref()
            .and_then(|(_, session)| session.handshake_age());
        let is_old = self.first && age.is_some_and(|age| age >= RENEW_EARLY);
        if is_old
            && let Some((_, session)) = &mut self.session
            && let Some(init) = session.initiate(true)
        {
            self.send(way, init.to_vec(), now);
        } else {
            self.send_sealed(way, &[], now);
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < QUIET_AFTER;
        let is_quiet = self.was_ready && !self.last_packet.is_some_and(lately);
        self.next_tick = Some(now + if is_quiet { SLOW_TICK } else { TICK });
        let Some((_, session)) = &mut self.session else {
            self.next_tick = None;
            return;
        };
        match session.tick() {
            Ticked::Send(datagram) => {
                let relay = self.relays.first().map(|(hub, _)| Way::Relay(*hub));
                if let Some(way) = self.paths.current().or(relay) {
                    self.send(way, datagram.to_vec(), now);
                }
            }
            Ticked::Expired => self.forget_names(),
            Ticked::Idle => {}
        }
        if !self.attempts.are_wanted() && !self.was_ready && !self.is_ready() {
            // Nothing that could fire is left: the next handshake message starts it again.
            let age = self
                .session
                .as_ref()
                .and_then(|(_, session)| session.handshake_age());
            if age.is_none() {
                self.next_tick = None;
            }
        }
        self.after_session(now);
    }

    pub(super) fn forget(&mut self, now: Instant) {
        self.attempts.stop();
        self.last_packet = None;
        if let Some((_, session)) = &mut self.session {
            session.forget();
        }
        self.forget_names();
        self.after_session(now);
        self.next_tick = None;
        self.events.push_back(PeerEvent::Gone);
    }

    pub(super) fn forget_names(&mut self) {
        self.old_names.extend(self.names.drain(..));
    }
}
