//! Decides when bootstrap nodes are dialled again, and when a place at their relays is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::driver::Driver;
use crate::libp2p::config::NodeConfig;
use crate::libp2p::known::named;

/// Pauses between attempts: doubled from the first to the last.
const FIRST: Duration = Duration::from_secs(2);
const LAST: Duration = Duration::from_secs(32);

/// By how much QUIC is ahead of TCP: holes are punched for the protocol that a relay saw.
const QUIC_FIRST: Duration = Duration::from_millis(400);

/// Members that a node stays connected with, so that it is found and the tunnel is up when nobody sends
/// anything.
const COMPANY: usize = 4;

/// Pause between attempts to be in company.
const COMPANY_PAUSE: Duration = Duration::from_secs(5);

/// Relays at which a node has a place: one, and one for when that is gone.
const PLACES: usize = 2;

/// One bootstrap node.
#[derive(Debug)]
struct Place {
    addresses: Vec<Multiaddr>,
    dial: Again,
    /// When it is dialled by TCP as well.
    also: Option<Instant>,
    reserve: Again,
    listener: Option<ListenerId>,
}

/// When it is tried again.
#[derive(Debug)]
struct Again {
    at: Instant,
    pause: Duration,
}

impl Again {
    fn new(now: Instant) -> Self {
        Self {
            at: now,
            pause: FIRST,
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        if self.at > now {
            return false;
        }
        self.at = now + self.pause;
        self.pause = (self.pause * 2).min(LAST);
        true
    }
}

/// All bootstrap nodes.
#[derive(Debug)]
pub(super) struct Relays {
    places: BTreeMap<PeerId, Place>,
    is_used: bool,
    /// When company is looked for next, and after whom.
    company: (Instant, Option<PeerId>),
}

impl Relays {
    pub(super) fn new(config: &NodeConfig) -> Self {
        let now = Instant::now();
        let mut places: BTreeMap<PeerId, Place> = BTreeMap::new();
        for (peer, address) in config.bootstrap.iter().cloned().filter_map(named) {
            let place = places.entry(peer).or_insert_with(|| Place {
                addresses: Vec::new(),
                dial: Again::new(now),
                also: None,
                reserve: Again::new(now),
                listener: None,
            });
            place.addresses.push(address);
        }
        Self {
            places,
            is_used: config.use_relays,
            company: (now + COMPANY_PAUSE, None),
        }
    }

    /// Everything is tried at once.
    pub(super) fn network_changed(&mut self, now: Instant) {
        for place in self.places.values_mut() {
            (place.dial, place.reserve) = (Again::new(now), Again::new(now));
        }
    }

    /// Nobody is connected, and somebody is known: no pause, then.
    pub(super) fn alone(&mut self, now: Instant) {
        self.company.0 = now;
    }

    /// A place at a relay was lost, or not given.
    pub(super) fn lost(&mut self, listener: ListenerId) {
        let mut places = self.places.values_mut();
        if let Some(place) = places.find(|place| place.listener == Some(listener)) {
            place.listener = None;
        }
    }

    /// A bootstrap node is connected.
    pub(super) fn connected(&mut self, peer: &PeerId, now: Instant) {
        if let Some(place) = self.places.get_mut(peer) {
            (place.dial, place.reserve) = (Again::new(now + FIRST), Again::new(now));
        }
    }
}

impl Driver {
    pub(super) fn look_after_relays(&mut self, now: Instant) {
        let taken = self.relays.places.values();
        let mut taken = taken.filter(|place| place.listener.is_some()).count();
        let mut dial = Vec::new();
        for (peer, place) in &mut self.relays.places {
            if !self.swarm.is_connected(peer) {
                let quic = place.addresses.iter().filter(|address| is_quic(address));
                let quic: Vec<_> = quic.cloned().collect();
                let is_due = place.dial.is_due(now);
                if is_due && !quic.is_empty() {
                    place.also = Some(now + QUIC_FIRST);
                    dial.push((*peer, quic));
                } else if is_due || place.also.is_some_and(|at| at <= now) {
                    place.also = None;
                    dial.push((*peer, place.addresses.clone()));
                }
                continue;
            }
            let wanted = self.relays.is_used && place.listener.is_none() && taken < PLACES;
            if !wanted || !place.reserve.is_due(now) {
                continue;
            }
            let Some(address) = place.addresses.first() else {
                continue;
            };
            let circuit = address
                .clone()
                .with(Protocol::P2p(*peer))
                .with(Protocol::P2pCircuit);
            match self.swarm.listen_on(circuit) {
                Ok(listener) => {
                    place.listener = Some(listener);
                    taken += 1;
                }
                Err(error) => tracing::debug!(%error, "no place at the relay"),
            }
        }
        for (peer, addresses) in dial {
            self.dial(peer, addresses);
        }
        self.look_for_company(now);
    }

    /// Who has few peers dials one of those it knew, the next one each time.
    fn look_for_company(&mut self, now: Instant) {
        let (at, last) = self.relays.company;
        if at > now || self.shared.standing().admitted.len() >= COMPANY {
            return;
        }
        let apart = |peer: &PeerId| !self.swarm.is_connected(peer);
        let after = self.known.keys().filter(|peer| Some(**peer) > last);
        let next = after.chain(self.known.keys()).copied().find(apart);
        self.relays.company = (now + COMPANY_PAUSE, next);
        if let Some(peer) = next {
            let addresses = self.known.get(&peer).cloned().unwrap_or_default();
            self.dial(peer, addresses);
        }
    }
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}
