//! Decides when holes are punched again between nodes that only a relay connects, and what that takes.
//!
//! libp2p tries when a relayed connection begins, three times within half a minute, and never again. So a
//! second circuit is made now and then: it begins, too. Before that both ends look how they are seen
//! from outside, since a NAT that is another one maps them otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::driver::Driver;

/// Pauses between attempts: doubled from the first to the last. The first is longer than libp2p's own
/// attempts take.
const FIRST: Duration = Duration::from_secs(40);
const LAST: Duration = Duration::from_secs(10 * 60);

/// Pause after the network below changed.
const CHANGED: Duration = Duration::from_secs(5);

/// How long it takes to be seen from outside.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// How long a further circuit stays, if no hole was punched.
const STAYS: Duration = Duration::from_secs(20);

/// Peers that are tried in one go; the others follow with the next.
const AT_ONCE: usize = 4;

#[derive(Debug)]
struct Again {
    at: Instant,
    pause: Duration,
}

/// Who is tried again, and what was begun for that.
#[derive(Debug, Default)]
pub(super) struct Punching {
    peers: BTreeMap<PeerId, Again>,
    /// Circuits to make, when both ends know how they are seen.
    circuits: Vec<(Instant, PeerId, Multiaddr)>,
    /// Connections that were made for this only.
    extra: BTreeSet<ConnectionId>,
}

impl Punching {
    /// Who is to be tried now, of those whom only a relay connects.
    fn due(&mut self, relayed: &BTreeSet<PeerId>, now: Instant) -> Vec<PeerId> {
        self.peers.retain(|peer, _| relayed.contains(peer));
        for peer in relayed {
            self.peers.entry(*peer).or_insert(Again {
                at: now + FIRST,
                pause: FIRST * 2,
            });
        }
        let due = self.peers.iter_mut().filter(|(_, again)| again.at <= now);
        let due = due.take(AT_ONCE).map(|(peer, again)| {
            again.at = now + again.pause;
            again.pause = (again.pause * 2).min(LAST);
            *peer
        });
        due.collect()
    }

    /// The network below is another one: soon, then, and often again.
    pub(super) fn network_changed(&mut self, now: Instant) {
        for again in self.peers.values_mut() {
            (again.at, again.pause) = (now + CHANGED, FIRST);
        }
    }

    /// Whether a connection was made for this only, and when it ends.
    pub(super) fn ends(
        &mut self,
        id: ConnectionId,
        is_relayed: bool,
        now: Instant,
    ) -> Option<Instant> {
        let stays = if is_relayed { STAYS } else { SEEN_WITHIN };
        self.extra.remove(&id).then(|| now + stays)
    }

    /// A connection did not come about.
    pub(super) fn not_made(&mut self, id: ConnectionId) {
        self.extra.remove(&id);
    }
}

impl Driver {
    pub(super) fn punch_again(&mut self, now: Instant) {
        let all = || self.connections.values();
        let direct: BTreeSet<_> = all().filter(|c| !c.is_relayed).map(|c| c.peer).collect();
        let relayed = all().filter(|c| c.is_relayed && !direct.contains(&c.peer));
        let relayed = relayed.map(|c| c.peer).collect();
        let due = self.punching.due(&relayed, now);
        let mut relays = BTreeMap::new();
        for connection in all().filter(|c| due.contains(&c.peer)) {
            let Some(relay) = connection.relay else {
                continue;
            };
            // Both ends do this, by the same clock; the one that made the circuit makes another one.
            if connection.is_dialer {
                let circuit = (
                    now + SEEN_WITHIN,
                    connection.peer,
                    connection.remote.clone(),
                );
                self.punching.circuits.push(circuit);
            }
            let to_relay = all().find(|c| c.peer == relay && !c.is_relayed);
            relays.extend(to_relay.map(|to| (relay, to.remote.clone())));
        }
        let circuits = self.punching.circuits.extract_if(.., |(at, ..)| *at <= now);
        let circuits: Vec<_> = circuits.map(|(_, peer, address)| (peer, address)).collect();
        for (peer, address) in relays.into_iter().chain(circuits) {
            self.dial_extra(peer, address);
        }
    }

    fn dial_extra(&mut self, peer: PeerId, address: Multiaddr) {
        if !self.swarm.is_connected(&peer) {
            return;
        }
        let options = DialOpts::peer_id(peer)
            .addresses(vec![address])
            .condition(PeerCondition::Always)
            .build();
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.punching.extra.insert(id)),
            Err(error) => tracing::debug!(%peer, %error, "no further connection"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_less_and_less_often_and_soon_after_a_change() {
        let (mut punching, mut now) = (Punching::default(), Instant::now());
        let peer = PeerId::random();
        let relayed = BTreeSet::from([peer]);
        let mut pauses = Vec::new();
        let mut last = now;
        while pauses.len() < 8 {
            if !punching.due(&relayed, now).is_empty() {
                pauses.push((now - last).as_secs());
                last = now;
            }
            now += Duration::from_secs(1);
        }
        assert_eq!(pauses, [40, 80, 160, 320, 600, 600, 600, 600]);
        punching.network_changed(now);
        assert_eq!(punching.due(&relayed, now), []);
        assert_eq!(punching.due(&relayed, now + CHANGED), [peer]);
        // Who is connected directly, or gone, is forgotten.
        assert_eq!(punching.due(&BTreeSet::new(), now + LAST), []);
        assert!(punching.peers.is_empty());
        let many: BTreeSet<_> = (0..10).map(|_| PeerId::random()).collect();
        punching.due(&many, now);
        let mut tried = BTreeSet::new();
        for _ in 0..3 {
            let due = punching.due(&many, now + FIRST);
            assert!(due.len() <= AT_ONCE);
            tried.extend(due);
        }
        assert_eq!(tried, many);
    }
}
