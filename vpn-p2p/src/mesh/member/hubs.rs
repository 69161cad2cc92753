//! Decides what follows from what hubs say: who can be relayed to, who was found.

use std::time::{Duration, Instant};

use vpn_core::PeerId;

use super::{Check, HINTED, Held, Member, MemberEvent, Slot, Transmit};
use crate::mesh::link::LinkEvent;
use crate::mesh::way::{Carrier, HubId, Way};
use crate::mesh::wire::frame::relay_header;
use crate::mesh::wire::{Refusal, Tag, What};

/// Questions about hints have numbers from here on, so that they are nobody's lookup.
const CHECK: u32 = 1 << 31;

/// Such questions at a time; the oldest is forgotten, and its answer with it.
const MAX_CHECKS: usize = 256;

/// How long after such a question the next one about the same peer may follow: hints are free.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// For how long a hub is believed that a peer is not there, the first time; then twice as long. A peer
/// that registers is told of, but not by a hub that was restarted and does not know who asked.
const ABSENT_FOR: Duration = Duration::from_secs(2);

/// The longest that it is believed.
const ABSENT_LONGEST: Duration = Duration::from_secs(32);

/// A hub at which a peer was not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absent {
    hub: HubId,
    until: Instant,
    pause: Duration,
}

impl Absent {
    fn again(before: Option<Self>, hub: HubId, now: Instant) -> Self {
        let pause = match before {
            // The answer to the question that the hint brought about is no second hint.
            Some(before) if now < before.until => return before,
            Some(before) => (before.pause * 2).min(ABSENT_LONGEST),
            None => ABSENT_FOR,
        };
        Self {
            hub,
            until: now + pause,
            pause,
        }
    }

    fn is(&self, hub: HubId, now: Instant) -> bool {
        self.hub == hub && now < self.until
    }
}

impl Member {
    /// Hubs that took us, nearest first: datagrams before streams, then by round trip.
    pub(super) fn hubs(&self) -> Vec<HubId> {
        self.relays().into_iter().map(|(hub, _)| hub).collect()
    }

    pub(super) fn relays(&self) -> Vec<(HubId, Carrier)> {
        let mut up: Vec<_> = (self.links.iter().zip(0..))
            .filter_map(|(link, place)| {
                let (carrier, _) = link.way()?;
                Some((carrier, link.status().rtt, HubId(place)))
            })
            .collect();
        up.sort();
        up.into_iter()
            .map(|(carrier, _, hub)| (hub, carrier))
            .collect()
    }

    /// The hubs by which this peer can be reached.
    pub(super) fn relays_for(&mut self, slot: Slot, now: Instant) -> Vec<(HubId, Carrier)> {
        let mut relays = self.relays();
        if let Some(entry) = self.entries.get_mut(slot.0).and_then(Option::as_mut) {
            relays.retain(|(hub, _)| !entry.absent.iter().any(|absent| absent.is(*hub, now)));
        }
        relays
    }

    /// Does what links ask for.
    pub(super) fn follow_links(&mut self, now: Instant, unix: u64) {
        for place in 0..self.links.len() {
            let hub = HubId(place as u8);
            while let Some(event) = self.links[place].poll_event() {
                self.follow(hub, event, now, unix);
            }
            while let Some(out) = self.links[place].poll() {
                use crate::mesh::link::LinkOut;
                self.out.push_back(match out {
                    LinkOut::Udp(to, bytes) => Transmit::Udp(to, bytes),
                    LinkOut::Tls(bytes) => Transmit::Tls(hub, bytes),
                    LinkOut::OpenTls(endpoints) => Transmit::OpenTls(hub, endpoints),
                    LinkOut::CloseTls => Transmit::CloseTls(hub),
                });
            }
        }
    }

    fn follow(&mut self, hub: HubId, event: LinkEvent, now: Instant, unix: u64) {
        match event {
            LinkEvent::Up { .. } => {
                self.observed(now, unix);
                self.hubs_changed(now);
            }
            LinkEvent::Down { .. } => self.hubs_changed(now),
            LinkEvent::Refused(why) => {
                if let Refusal::Old(known) = why {
                    self.sign_after(known, now, unix);
                }
                self.tell(MemberEvent::Refused(hub, why));
            }
            LinkEvent::Found { id, record, online } => {
                let _ = self.checked(id);
                let what = self.lookups.what(id);
                let Some(slot) = self.believe(record, now, unix) else {
                    let mut waiting = self.lookups.found(id);
                    waiting.drop_all(vpn_core::DropReason::AddressNotAllowed, &mut self.holding);
                    return;
                };
                self.presence(slot, hub, online, now);
                // Nothing that waits for an address is sealed to who was refused it.
                if what.is_some_and(|what| !self.is_meant(what, slot)) {
                    self.nobody(id, now);
                    return;
                }
                let waiting = self.lookups.found(id);
                self.hold(slot, waiting, now);
            }
            LinkEvent::NotFound { id } => match self.checked(id) {
                Some((slot, Check::Present)) => self.presence(slot, hub, false, now),
                Some((slot, Check::Member)) => self.expire(slot, now),
                None => self.nobody(id, now),
            },
            // Silence says nothing about a known peer.
            LinkEvent::Unanswered { id } if self.checked(id).is_none() => self.nobody(id, now),
            LinkEvent::Changed(record) => {
                // Only who registers has a new record: it is there again.
                if let Some(slot) = self.believe(record, now, unix) {
                    self.presence(slot, hub, true, now);
                }
            }
            LinkEvent::Observed(_) => self.observed(now, unix),
            _ => {}
        }
    }

    /// Whether a peer is who was asked for, as far as we gave it what it claims.
    pub(super) fn is_meant(&self, what: What, slot: Slot) -> bool {
        match what {
            What::Address(address) => self.addresses.peer(address) == Some(slot),
            What::Peer(key) => self.slot_of(PeerId(key)) == Some(slot),
            What::Tag(tag) => self.by_tag.get(&Tag(tag)) == Some(&slot),
        }
    }

    /// A hub knows nobody, or says nothing: the next one is asked.
    fn nobody(&mut self, id: u32, now: Instant) {
        let hubs = self.hubs();
        let step = self.lookups.nobody(id, &hubs, now, &mut self.holding);
        self.ask(step, now);
    }

    /// A hub says whether a peer is there.
    pub(super) fn presence(&mut self, slot: Slot, hub: HubId, online: bool, now: Instant) {
        if let Some(entry) = self.entries.get_mut(slot.0).and_then(Option::as_mut) {
            let before = entry.absent.iter().position(|absent| absent.hub == hub);
            let before = before.map(|at| entry.absent.swap_remove(at));
            if !online {
                entry.absent.push(Absent::again(before, hub, now));
            }
        }
        let relays = self.relays_for(slot, now);
        if let Some(entry) = self.entry_mut(slot) {
            entry.peer.set_relays(&relays, now);
        }
    }

    /// A relayed datagram could not be delivered, says who may be the hub, or anybody in its name. So it
    /// is a hint: the hub is asked in our session, once a second about each peer and not too often about all, and its answer counts.
    pub(super) fn absent(&mut self, hub: HubId, tag: Tag, now: Instant) {
        let Some(slot) = self.by_tag.get(&tag).copied() else {
            return;
        };
        let Some(Some(entry)) = self.entries.get_mut(slot.0) else {
            return;
        };
        let is_known = entry.absent.iter().any(|absent| absent.is(hub, now));
        if is_known || entry.asked.is_some_and(|at| now < at + ASK_AGAIN) {
            return;
        }
        let hinted = self.hinted.get_mut(usize::from(hub.0));
        if !hinted.is_some_and(|hinted| hinted.take(HINTED, 1, now)) {
            return;
        }
        entry.asked = Some(now);
        self.check_with(slot, hub, What::Tag(tag.0), Check::Present, now);
    }

    /// Asks a hub about a peer that is known.
    pub(super) fn check_with(
        &mut self,
        slot: Slot,
        hub: HubId,
        what: What,
        why: Check,
        now: Instant,
    ) {
        self.next_check = self.next_check.wrapping_add(1) | CHECK;
        let id = self.next_check;
        if self.checks.len() >= MAX_CHECKS {
            self.checks.remove(0);
        }
        self.checks.push((id, slot, why));
        if let Some(link) = self.links.get_mut(usize::from(hub.0)) {
            link.find(id, what, now);
        }
    }

    /// Whether an answer is to a question about a hint; then about whom.
    fn checked(&mut self, id: u32) -> Option<(Slot, Check)> {
        let at = self.checks.iter().position(|(check, ..)| *check == id)?;
        let (_, slot, why) = self.checks.swap_remove(at);
        Some((slot, why))
    }

    /// Other hubs, or others' carriers.
    fn hubs_changed(&mut self, now: Instant) {
        for place in 0..self.entries.len() {
            let slot = Slot(place);
            if self.entry(slot).is_none() {
                continue;
            }
            let relays = self.relays_for(slot, now);
            if let Some(entry) = self.entry_mut(slot) {
                entry.peer.set_relays(&relays, now);
            }
        }
        let hubs = self.hubs();
        for step in self.lookups.again(&hubs, now) {
            self.ask(step, now);
        }
        let connected = !hubs.is_empty();
        if connected != self.was_connected {
            self.was_connected = connected;
            self.tell(MemberEvent::Connected(connected));
        }
    }

    /// Packets wait for this peer now.
    pub(super) fn hold(&mut self, slot: Slot, waiting: Held, now: Instant) {
        if waiting.is_empty() {
            return;
        }
        if let Some(entry) = self.entry_mut(slot) {
            entry.held.append(waiting);
        }
        self.demand(slot, now);
        self.release(slot, now);
    }

    /// Sends by a way.
    pub(super) fn transmit(&mut self, way: Way, tag: Tag, datagram: &[u8], now: Instant) {
        match way {
            Way::Direct(to) => self.out.push_back(Transmit::Udp(to, datagram.to_vec())),
            Way::Relay(hub) => self.relay(hub, tag, datagram, now),
        }
    }

    /// Sends by way of a hub.
    pub(super) fn relay(&mut self, hub: HubId, tag: Tag, datagram: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(usize::from(hub.0)) else {
            return;
        };
        let Some((carrier, to)) = link.way() else {
            return;
        };
        link.relayed(tag, now);
        let frame = [&relay_header(tag, 0)[..], datagram].concat();
        self.out.push_back(match carrier {
            Carrier::Udp => Transmit::Udp(to, frame),
            Carrier::Tls => Transmit::Tls(hub, frame),
        });
    }
}
