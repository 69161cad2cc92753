//! What the hub says inside of the session, and how it gets there.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use vpn_core::DropReason;

use super::{Link, LinkEvent, Stage};
use crate::mesh::keys::{Admission, Keys, data_index};
use crate::mesh::record::SignedRecord;
use crate::mesh::way::Carrier;
use crate::mesh::wire::control::{Inner, inner};
use crate::mesh::wire::{Plain, ToHub, ToMember};
use crate::session::Opened;

impl Link {
    /// Takes a datagram to the session.
    pub(super) fn open(
        &mut self,
        via: Carrier,
        from: Option<SocketAddr>,
        datagram: BytesMut,
        keys: &dyn Keys,
        now: Instant,
        unix: u64,
    ) -> Result<(), DropReason> {
        let Some(key) = self.held.as_ref().map(|held| held.key) else {
            return Err(DropReason::NoSession);
        };
        let datagram = if data_index(&datagram).is_some() {
            datagram
        } else {
            // Cookies are for an address; over TLS any one does.
            let from = from.or_else(|| self.endpoints.first().copied());
            let from = from.ok_or(DropReason::NoSession)?;
            match keys.admit(from, datagram) {
                Admission::Initiation(who, datagram) if who == key => datagram,
                Admission::ForIndex(_, datagram) => datagram,
                Admission::Reply(reply) => {
                    self.send_here(reply.to_vec());
                    return Ok(());
                }
                Admission::Initiation(..) | Admission::Rejected => {
                    return Err(DropReason::NotAuthentic);
                }
            }
        };
        let Some(held) = &mut self.held else {
            return Err(DropReason::NoSession);
        };
        let opened = held.session.open(datagram);
        if let (Stage::Up(live), false) = (&mut self.stage, matches!(opened, Opened::Rejected(_))) {
            live.heard();
        }
        match opened {
            Opened::Rejected(reason) => Err(reason),
            Opened::Nothing => Ok(()),
            Opened::Keepalive => {
                self.answered_empty(via, now);
                Ok(())
            }
            // After a handshake of ours: when joining, the registration says it as well.
            Opened::Reply(reply) => {
                let says_nothing = reply.first() == Some(&4);
                if !(says_nothing && matches!(self.stage, Stage::Joining(_))) {
                    self.send_here(reply.to_vec());
                }
                if let Stage::Up(live) = &mut self.stage
                    && says_nothing
                {
                    // The end of a handshake, which the hub answered: as good as a keepalive.
                    live.kept(now);
                }
                Ok(())
            }
            Opened::Packet(plain) => {
                let message = match inner(&plain) {
                    Inner::Control => ToMember::from_plain(&plain),
                    _ => None,
                };
                self.told(via, message.ok_or(DropReason::Malformed)?, now, unix);
                Ok(())
            }
        }
    }

    /// Takes what the hub says.
    fn told(&mut self, via: Carrier, message: ToMember, now: Instant, unix: u64) {
        match message {
            ToMember::Registered {
                id,
                observed,
                isolated,
            } => self.registered(via, id, observed, isolated, now),
            ToMember::Refused { id, why } => self.was_refused(id, why, now),
            ToMember::Found { id, record, online } => {
                // What is no answer is not taken for one; the question is asked again or given up.
                if let Ok(record) = SignedRecord::from_bytes(&record, unix)
                    && self.finds.answered(id, Some(record.record()))
                {
                    self.event(LinkEvent::Found { id, record, online });
                }
            }
            ToMember::NotFound { id } => {
                if self.finds.answered(id, None) {
                    self.event(LinkEvent::NotFound { id });
                }
            }
            ToMember::Pong { nonce, observed } => self.pong(via, nonce, observed, now),
            ToMember::Changed { record } => self.changed(&record, unix),
            ToMember::Between(message) => self.event(LinkEvent::Between(message)),
            ToMember::Bye => {
                if matches!(self.stage, Stage::Joining(_) | Stage::Up(_)) {
                    self.leave("the hub says goodbye", now);
                    self.wait(now);
                }
            }
        }
    }

    /// Somebody has a new record. The hub repeats it until it hears that it came.
    fn changed(&mut self, record: &[u8], unix: u64) {
        let Ok(record) = SignedRecord::from_bytes(record, unix) else {
            return;
        };
        let Stage::Up(live) = &self.stage else {
            return;
        };
        let (via, to) = (live.via, live.to);
        let have = ToHub::Have {
            peer: record.record().peer.0,
            sequence: record.record().sequence,
        };
        self.seal(&have, via, to);
        self.event(LinkEvent::Changed(record));
    }
}
