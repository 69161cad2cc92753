//! Decides what the peer's control messages mean, and repeats ours until they are answered.

use std::time::Instant;

use vpn_core::DropReason;

use super::{Arrival, Peer, PeerEvent, RECORDS, REPEAT_AFTER, REPEAT_LONGEST, Repeat};
use crate::mesh::limit::Bucket;
use crate::mesh::record::SignedRecord;
use crate::mesh::way::Way;
use crate::mesh::wire::{Plain as _, ToPeer};

impl Peer {
    pub(super) fn control(&mut self, way: Way, plain: &[u8], unix: u64, now: Instant) -> Arrival {
        // WireGuard may have padded it; what is behind a message is not looked at.
        let Some(message) = ToPeer::from_plain(plain) else {
            return Arrival::Dropped(DropReason::Malformed);
        };
        match message {
            ToPeer::Probe { nonce, urgent } => self.paths.probe_arrived(way, nonce, urgent, now),
            ToPeer::Pong { nonce, observed } => {
                if let Some(nonce) = self.challenges.unveil(nonce) {
                    self.paths.pong_arrived(nonce, observed, now);
                }
            }
            ToPeer::Record { record, whole } => {
                self.takes_whole = whole;
                self.record_arrived(&record, unix, now);
            }
            ToPeer::Have { sequence } => {
                if let Some((told, _)) = &self.telling
                    && told.record().sequence <= sequence
                {
                    self.telling = None;
                }
            }
            ToPeer::Bye => self.forget(now),
        }
        self.forward_path_events();
        Arrival::Handled
    }

    /// Sealed by the peer, so it may only be its own; that it is newer is for who keeps it to say.
    fn record_arrived(&mut self, record: &[u8], unix: u64, now: Instant) {
        let records = self
            .records
            .get_or_insert_with(|| Bucket::full(RECORDS, now));
        if !records.take(RECORDS, 1, now) {
            return;
        }
        let Ok(record) = SignedRecord::from_bytes(record, unix) else {
            return;
        };
        if record.record().peer != self.id {
            return;
        }
        let sequence = record.record().sequence;
        if self
            .record
            .as_ref()
            .is_none_or(|known| record.replaces(known))
        {
            self.events.push_back(PeerEvent::Record(Box::new(record)));
        }
        self.send_control(&ToPeer::Have { sequence }, now);
    }

    /// Tells the peer what is new about us.
    pub(super) fn tell(&mut self, now: Instant) {
        let repeat = Repeat {
            at: now + REPEAT_AFTER,
            made: 0,
        };
        self.telling = Some((self.own.clone(), repeat));
        self.tell_again(now);
    }

    fn tell_again(&mut self, now: Instant) {
        if let Some((own, _)) = &self.telling {
            let record = own.to_bytes();
            let whole = self.is_reached_by_streams();
            self.send_control(&ToPeer::Record { record, whole }, now);
        }
    }

    pub(super) fn repeat(&mut self, now: Instant) {
        let Some((_, repeat)) = self.telling.as_mut().filter(|(_, repeat)| repeat.at <= now) else {
            return;
        };
        // Whoever could not be reached for a while, as behind a NAT that was restarted, is told later.
        repeat.made = repeat.made.saturating_add(1);
        repeat.at = now + REPEAT_LONGEST.min(REPEAT_AFTER * (1 << repeat.made.min(8)));
        self.tell_again(now);
    }
}
