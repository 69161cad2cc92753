//! Decides by which way packets go: among direct ways that are proven, else a relay.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::track::Track;
use super::{PathEvent, Paths, Why};
use crate::mesh::way::{Policy, Way};

impl Paths {
    /// Chooses anew and tells if that is another way.
    pub(super) fn choose(&mut self, now: Instant, why: Why) {
        let to = self.best(now);
        let from = self.current;
        if to == from {
            return;
        }
        let why = match (from, to) {
            (Some(Way::Direct(_)), Some(Way::Direct(_))) if why == Why::Proven => Why::Better,
            (_, Some(Way::Relay(_))) if self.policy == Policy::RelayOnly => Why::Policy,
            _ => why,
        };
        if let Some(Way::Relay(_)) = to
            && let Some(track) = to.and_then(|way| self.track_mut(way))
        {
            // What was asked when it was used before says nothing now.
            track.forget_probes();
        }
        self.current = to;
        self.since = Some(now);
        self.why = why;
        self.burst_over = true;
        self.tell(PathEvent::Moved { from, to, why });
    }

    fn best(&self, now: Instant) -> Option<Way> {
        let relay = self.relay();
        let packets_relayed = match self.policy {
            Policy::Deny => return None,
            Policy::RelayOnly => return relay,
            Policy::DirectOnly => None,
            Policy::Allow => relay,
        };
        let in_use = self.current.filter(|way| way.is_direct());
        let in_use = in_use.and_then(|way| self.track(way)).filter(|track| {
            // Proven once and not dead since: it may be silent for long without being doubted.
            track.proof.is_some()
        });
        let fresh = |track: &&Track| {
            let proven = |at| now.saturating_duration_since(at) <= self.config.proof;
            track.way.is_direct() && track.proof.is_some_and(proven) && track.missed() == 0
        };
        // With nothing else to go by, a way that failed lately is better than none.
        let free = |track: &&Track| packets_relayed.is_none() || !track.is_held(now);
        let mut best = in_use;
        for track in self.tracks.iter().filter(fresh).filter(free) {
            if best.is_none_or(|best| track.way != best.way && self.is_better(track, best)) {
                best = Some(track);
            }
        }
        best.map(|track| track.way).or(packets_relayed)
    }

    /// Clearly faster; or nearer, and not clearly slower. Both ways round at once is impossible, so
    /// two ways never take turns.
    fn is_better(&self, new: &Track, old: &Track) -> bool {
        let (Some(new_rtt), Some(old_rtt)) = (new.rtt, old.rtt) else {
            return false;
        };
        let margin = self.config.better.max(old_rtt.max(new_rtt) / 5);
        let nearer = nearness(new.way) < nearness(old.way);
        new_rtt + margin < old_rtt || (nearer && new_rtt <= old_rtt + margin)
    }

    /// The first relay that answers, or has not been asked; else the first.
    fn relay(&self) -> Option<Way> {
        let mut relays = self.tracks.iter().filter(|track| !track.way.is_direct());
        let first = relays.clone().next();
        relays
            .find(|track| track.held_until.is_none())
            .or(first)
            .map(|track| track.way)
    }
}

/// Lower is nearer: the same network, then IPv6 (no translation on the way), then IPv4.
fn nearness(way: Way) -> u8 {
    match way {
        Way::Direct(to) if is_local(to) => 0,
        Way::Direct(SocketAddr::V6(_)) => 1,
        Way::Direct(SocketAddr::V4(_)) => 2,
        Way::Relay(_) => 3,
    }
}

fn is_local(address: SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(address) => address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}
