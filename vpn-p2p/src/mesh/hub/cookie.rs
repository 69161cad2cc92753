//! Decides whether who writes from an address gets what is sent there, without remembering anybody:
//! a code over the address and the time, that only this hub can make (as RFC 9000 §8.1.2).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ring::hmac;
use zeroize::Zeroizing;

use super::{HubError, Origin};
use crate::mesh::wire::frame::COOKIE;

/// How long a cookie is the newest one. It is good for as long again: 30 to 60 seconds in all.
pub(super) const PERIOD: Duration = Duration::from_secs(30);

/// Makes and checks cookies, and compares secrets.
pub(super) struct Cookies {
    key: hmac::Key,
    start: Instant,
}

impl Cookies {
    pub(super) fn new(now: Instant) -> Result<Self, HubError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret)
            .map_err(|cause| HubError::Random(std::io::Error::other(cause)))?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &*secret),
            start: now,
        })
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / PERIOD.as_secs()
    }

    pub(super) fn make(&self, origin: Origin, now: Instant) -> [u8; COOKIE] {
        self.code(origin, self.period(now))
    }

    pub(super) fn check(&self, origin: Origin, cookie: &[u8; COOKIE], now: Instant) -> bool {
        let period = self.period(now);
        let good = |period| self.same(&self.code(origin, period), cookie);
        good(period) || period.checked_sub(1).is_some_and(good)
    }

    fn code(&self, origin: Origin, period: u64) -> [u8; COOKIE] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"cookie");
        context.update(&period.to_be_bytes());
        match origin {
            Origin::Udp(address) => {
                match address.ip() {
                    IpAddr::V4(ip) => context.update(&ip.octets()),
                    IpAddr::V6(ip) => context.update(&ip.octets()),
                }
                context.update(&address.port().to_be_bytes());
            }
            // Longer than any address.
            Origin::Tls(connection) => {
                context.update(&[0xff; 16]);
                context.update(&connection.to_be_bytes());
            }
        }
        let code = context.sign();
        *code.as_ref().first_chunk().unwrap_or(&[0; COOKIE])
    }

    /// Whether two secrets are the same, in a time that says nothing about where they differ:
    /// their codes are compared, by `ring`.
    pub(super) fn same(&self, ours: &[u8], theirs: &[u8]) -> bool {
        let code = hmac::sign(&self.key, ours);
        hmac::verify(&self.key, theirs, code.as_ref()).is_ok()
    }

    /// A number that others cannot foresee, for tables of theirs.
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        let code = hmac::sign(&self.key, bytes);
        u64::from_be_bytes(*code.as_ref().first_chunk().unwrap_or(&[0; 8]))
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_of_one_address_and_for_a_while() {
        let start = Instant::now();
        let cookies = Cookies::new(start).unwrap();
        let other = Cookies::new(start).unwrap();
        let here = Origin::Udp("192.0.2.1:5".parse().unwrap());
        let cookie = cookies.make(here, start + Duration::from_secs(29));
        let good =
            |origin, after| cookies.check(origin, &cookie, start + Duration::from_secs(after));
        assert!(good(here, 29) && good(here, 59));
        assert!(!good(here, 60), "too old");
        assert!(!good(Origin::Udp("192.0.2.1:6".parse().unwrap()), 29));
        assert!(!good(Origin::Udp("192.0.2.2:5".parse().unwrap()), 29));
        assert!(!good(Origin::Tls(5), 29));
        assert!(!other.check(here, &cookie, start), "another hub's");
        let mut flipped = cookie;
        flipped[15] ^= 1;
        assert!(!cookies.check(here, &flipped, start + Duration::from_secs(29)));
    }
}
