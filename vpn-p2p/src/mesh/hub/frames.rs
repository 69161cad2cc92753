//! Decides what frames from outside of sessions bring: a cookie for who asks, a session for who has one.

use std::time::Instant;

use bytes::BytesMut;

use super::cookie::Cookies;
use super::{Hub, HubConfig, Origin};
use crate::mesh::identity::Identity;
use crate::mesh::keys::Keys;
use crate::mesh::record::{Record, SignedRecord};
use crate::mesh::wire::Frame;
use crate::mesh::wire::frame::{COOKIE, HEADER, MAX_HUB_RECORD};

/// How long the hub's own record is good, in seconds; a new one is made when half of it is over.
const RECORD_SECONDS: u64 = 24 * 3600;

/// What the hub says about itself: as many endpoints as a Welcome has room for.
pub(super) fn hub_record(
    config: &HubConfig,
    identity: &Identity,
    keys: &dyn Keys,
    unix: u64,
) -> SignedRecord {
    let mut record = Record {
        peer: identity.id(),
        name: config.name.clone(),
        session: keys.public(),
        addresses: Vec::new(),
        routes: Vec::new(),
        candidates: config.endpoints.clone(),
        sequence: unix,
        expires: unix.saturating_add(RECORD_SECONDS),
    };
    loop {
        let signed = record.clone().sign(identity);
        if signed.to_bytes().len() <= MAX_HUB_RECORD {
            return signed;
        }
        if record.candidates.pop().is_none() {
            record.name.clear();
        }
    }
}

impl Hub {
    pub(super) fn frame(&mut self, from: Origin, datagram: BytesMut, now: Instant, unix: u64) {
        match Frame::read(&datagram) {
            Ok(Frame::Hello { nonce }) => self.hello(from, nonce, now, unix),
            Ok(Frame::Join { cookie, record }) => self.join(from, &cookie, record, now, unix),
            Ok(Frame::Relay { .. }) => self.relay_one(from, datagram, now),
            Ok(Frame::Carry { .. }) => self.carry_one(from, &datagram, now),
            Ok(frame @ (Frame::Welcome { .. } | Frame::Stranger { .. }))
                if self.frame_of_hub(from, &frame, now, unix) => {}
            // What hubs say to members, or what is only relayed.
            Ok(_) | Err(_) => self.status.malformed += 1,
        }
    }

    fn hello(&mut self, from: Origin, nonce: u64, now: Instant, unix: u64) {
        self.status.hellos += 1;
        self.renew_record(unix);
        let welcome = Frame::Welcome {
            nonce,
            cookie: self.cookies.make(from, now),
            observed: from.stand_in(),
            record: &self.record_bytes,
        };
        self.out.push_back((from, welcome.to_bytes()));
    }

    /// Whether a Join has the cookie of where it comes from; counted if not.
    pub(super) fn is_cookie_good(&mut self, from: Origin, join: &[u8], now: Instant) -> bool {
        let cookie = join.get(HEADER..).and_then(<[u8]>::first_chunk);
        let good = cookie.is_some_and(|cookie| self.cookies.check(from, cookie, now));
        self.status.bad_cookies += u64::from(!good);
        good
    }

    /// What came has not the form of anything.
    pub(super) const fn count_malformed(&mut self) {
        self.status.malformed += 1;
    }

    /// Makes the hub's record anew when half of its time is over. Whether it did.
    pub(super) fn renew_record(&mut self, unix: u64) -> bool {
        if self.record.record().expires >= unix.saturating_add(RECORD_SECONDS / 2) {
            return false;
        }
        self.record = hub_record(&self.config, &self.identity, &*self.keys, unix);
        self.record_bytes = self.record.to_bytes();
        true
    }

    fn join(
        &mut self,
        from: Origin,
        cookie: &[u8; COOKIE],
        record: &[u8],
        now: Instant,
        unix: u64,
    ) {
        if !self.cookies.check(from, cookie, now) {
            self.status.bad_cookies += 1;
            return;
        }
        if !self.joins.take(source(&self.cookies, from), now) {
            self.status.limited += 1;
            return;
        }
        let Ok(record) = SignedRecord::from_bytes(record, unix) else {
            self.status.refused_record += 1;
            return;
        };
        self.status.joins += 1;
        if self.sessions.has_joined(from, &record) {
            return;
        }
        let session = self.keys.session(record.record().session);
        let limits = &self.config.limits;
        let (control, most) = (limits.control, limits.provisional);
        self.sessions
            .join(from, record, session, control, most, now);
    }

    /// Says that nobody is known there. `None`: it was too short for any member's.
    pub(super) fn stranger(&mut self, from: Origin, echo: Option<[u8; 8]>, now: Instant) {
        self.status.strangers += 1;
        let Some(echo) = echo else { return };
        if !self.strangers.take(source(&self.cookies, from), now) {
            self.status.limited += 1;
            return;
        }
        let hint = Frame::Stranger { echo }.to_bytes();
        self.out.push_back((from, hint));
    }
}

/// What counts as one client before it has a name: an address, and of IPv6 a /64, for who has one has
/// all of it.
fn source(cookies: &Cookies, from: Origin) -> u64 {
    match from.stand_in().ip() {
        std::net::IpAddr::V4(ip) => cookies.hash(&ip.octets()),
        std::net::IpAddr::V6(ip) => match from {
            Origin::Udp(_) => cookies.hash(&ip.octets()[..8]),
            Origin::Tls(_) => cookies.hash(&ip.octets()),
        },
    }
}
