//! Decides how large an inner packet may be: what the narrowest way in use leaves. Pure.
//!
//! The tunnel has one MTU, so the narrowest way decides for all peers. Streams carry any size.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::mesh::wire::frame::RELAY_HEADER;
use crate::wireguard::MEASURE_EVERY;

/// Outer headers, IPv4 20 or IPv6 40 and UDP 8, and WireGuard's own, data header 16 and tag 16.
const OVERHEAD_V4: u16 = 60;
const OVERHEAD_V6: u16 = 80;

/// Smallest inner MTU, whatever the path to a hub: IPv4 hosts must take 576 (RFC 1122 §3.3.3).
const MIN_MTU: u16 = 576;

/// The least that a direct way counts as: what IPv6 needs (RFC 8200 §5). One peer, by where it says that it
/// is, never takes IPv6 from all others; what is larger than its way takes is lost to it alone.
const MIN_DIRECT: u16 = 1280;

/// Places that are measured at a time: each costs a socket and a look-up of a route. The rest is
/// measured with the next look.
const MAX_MEASURED: usize = 16;

/// How soon after a look the next one may follow, however many ways change.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// By which address datagrams leave for a way, and whether a relay's header is in front of them.
pub(crate) type InUse = (SocketAddr, bool);

/// What is known of the ways in use.
#[derive(Debug)]
pub(super) struct Widths {
    /// As configured: never more.
    most: u16,
    /// By address: the way's MTU as the system says, and when it was asked.
    paths: HashMap<IpAddr, (Option<u16>, Instant)>,
}

impl Widths {
    pub(super) fn new(most: u16) -> Self {
        let paths = HashMap::new();
        Self { most, paths }
    }

    /// The system refused a datagram to there: the path is narrower than it was.
    pub(super) fn too_big(&mut self, to: SocketAddr) {
        self.paths.remove(&to.ip());
    }

    /// Which of these places are to be asked about now. Those that are not in use are forgotten.
    pub(super) fn unmeasured(&mut self, in_use: &[InUse], now: Instant) -> Vec<SocketAddr> {
        let is_good = |at: Instant| now.saturating_duration_since(at) < MEASURE_EVERY;
        let mut due: Vec<SocketAddr> = Vec::new();
        let mut kept = HashMap::with_capacity(in_use.len());
        for (to, _) in in_use {
            let known = self.paths.get(&to.ip()).copied();
            if let Some(known) = known {
                kept.insert(to.ip(), known);
            }
            let is_due = !known.is_some_and(|(_, at)| is_good(at));
            if is_due && due.len() < MAX_MEASURED && !due.iter().any(|it| it.ip() == to.ip()) {
                due.push(*to);
            }
        }
        self.paths = kept;
        due
    }

    /// What the system says of a path.
    pub(super) fn measured(&mut self, to: SocketAddr, path: Option<u16>, now: Instant) {
        self.paths.insert(to.ip(), (path, now));
    }

    /// Largest inner packet that fits all of these.
    pub(super) fn inner(&self, in_use: &[InUse]) -> u16 {
        let of_one = |(to, relayed): &InUse| {
            let path = self.paths.get(&to.ip())?.0?;
            let outer = if to.is_ipv4() {
                OVERHEAD_V4
            } else {
                OVERHEAD_V6
            };
            let (front, least) = match relayed {
                true => (RELAY_HEADER as u16, MIN_MTU),
                false => (0, MIN_DIRECT),
            };
            Some(path.saturating_sub(outer + front).max(least))
        };
        let narrowest = in_use.iter().filter_map(of_one).min();
        narrowest.map_or(self.most, |left| left.min(self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_narrowest_way_in_use_decides_and_the_configuration_bounds_it() {
        let (mut widths, now) = (Widths::new(1400), Instant::now());
        let (near, far) = (at("192.0.2.1:1"), at("[2001:db8::1]:2"));
        let relay = at("198.51.100.1:3");
        let all = [(near, false), (far, false), (relay, true)];
        assert_eq!(widths.inner(&all), 1400, "nothing is known");
        assert_eq!(widths.unmeasured(&all, now).len(), 3);
        for (to, path) in [(near, Some(1500)), (far, Some(1420)), (relay, Some(1400))] {
            widths.measured(to, path, now);
        }
        assert_eq!(widths.inner(&all[..1]), 1400);
        assert_eq!(widths.inner(&all[..2]), 1340);
        assert_eq!(widths.inner(&all), 1328);
        widths.measured(relay, Some(100), now);
        assert_eq!(widths.inner(&all), 576);
        widths.measured(relay, None, now);
        assert_eq!(
            widths.inner(&all),
            1340,
            "what nobody knows narrows nothing"
        );
    }

    #[test]
    fn one_peers_narrow_way_leaves_the_others_ipv6() {
        let (mut widths, now) = (Widths::new(1400), Instant::now());
        let (narrow, relay) = (at("192.0.2.1:1"), at("198.51.100.1:3"));
        widths.measured(narrow, Some(600), now);
        widths.measured(relay, Some(1500), now);
        assert_eq!(widths.inner(&[(narrow, false), (relay, true)]), 1280);
        widths.measured(relay, Some(1200), now);
        assert!(widths.inner(&[(narrow, false), (relay, true)]) < 1200);
    }

    #[test]
    fn it_is_measured_again_after_a_while_or_a_refusal_and_forgotten_out_of_use() {
        let (mut widths, now) = (Widths::new(1400), Instant::now());
        let all: Vec<InUse> = (0..200)
            .map(|n| (SocketAddr::from(([192, 0, 2, n], 1)), false))
            .collect();
        assert_eq!(widths.unmeasured(&all, now).len(), MAX_MEASURED);
        let one = &all[..1];
        widths.measured(one[0].0, Some(1400), now);
        assert!(widths.unmeasured(one, now).is_empty());
        assert_eq!(widths.unmeasured(one, now + MEASURE_EVERY).len(), 1);
        widths.too_big(one[0].0);
        assert_eq!(widths.unmeasured(one, now).len(), 1);
        widths.measured(one[0].0, Some(1400), now);
        widths.unmeasured(&[], now);
        assert_eq!(widths.inner(one), 1400);
    }
}
