//! Decides by which ways messages go, and keeps them until they are asked for.

use std::time::Instant;

use bytes::BytesMut;

use super::{BLIND_WAYS, INDICES, MAX_OUT, Peer, PeerOut};
use crate::mesh::keys::sender_index;
use crate::mesh::path::PathOut;
use crate::mesh::way::{Policy, Way};
use crate::mesh::wire::{Plain as _, ToPeer};

impl Peer {
    /// Puts a datagram into the queue, noting the session's name if it begins one.
    pub(super) fn send(&mut self, way: Way, datagram: Vec<u8>, now: Instant) {
        if let Some(name) = sender_index(&datagram)
            && !self.names.contains(&name)
        {
            if self.names.len() >= INDICES
                && let Some(old) = self.names.pop_front()
            {
                self.old_names.push(old);
            }
            self.names.push_back(name);
            self.new_names.push(name);
        }
        self.paths.transmitted(way, now);
        if self.out.len() < MAX_OUT {
            self.out.push_back(PeerOut::Datagram(way, datagram));
        }
    }

    pub(super) fn send_sealed(&mut self, way: Way, plain: &[u8], now: Instant) {
        let mut sealed = Vec::new();
        if self.seal(BytesMut::from(plain), &mut sealed) {
            self.send(way, sealed, now);
        } else {
            self.after_session(now);
        }
    }

    /// Sends to the peer by the way that packets take, or else by a relay.
    pub(super) fn send_control(&mut self, message: &ToPeer, now: Instant) {
        let relay = self.relays.first().map(|(hub, _)| Way::Relay(*hub));
        if let Some(way) = self.paths.current().or(relay) {
            self.send_sealed(way, &message.to_plain(), now);
        }
    }

    /// Handshakes by every way that may work: relays, the way that worked last, and without either
    /// the candidates.
    pub(super) fn attempt(&mut self, now: Instant) {
        let Some((_, session)) = &mut self.session else {
            return;
        };
        let Some(init) = session.initiate(true) else {
            return;
        };
        self.counters.attempts += 1;
        let mut ways: Vec<Way> = self
            .relays
            .iter()
            .map(|(hub, _)| Way::Relay(*hub))
            .collect();
        if self.may_go_directly() {
            ways.extend(self.last_direct);
            if self.relays.is_empty() {
                let candidates = self.candidates.iter().take(BLIND_WAYS);
                ways.extend(candidates.map(|at| Way::Direct(*at)));
            }
        }
        for way in ways {
            if let Way::Relay(hub) = way {
                self.out.push_back(PeerOut::Introduce(hub));
            }
            self.send(way, init.to_vec(), now);
        }
        self.after_session(now);
    }

    pub(super) fn may_go_directly(&self) -> bool {
        self.rules.policy != Policy::RelayOnly
    }

    /// What is to be sent next.
    pub fn poll(&mut self, now: Instant) -> Option<PeerOut> {
        while let Some(out) = self.paths.poll() {
            match out {
                PathOut::Probe { way, nonce, urgent } => {
                    let nonce = self.challenges.veil(nonce);
                    let probe = ToPeer::Probe { nonce, urgent };
                    self.send_sealed(way, &probe.to_plain(), now);
                }
                PathOut::Pong {
                    way,
                    nonce,
                    observed,
                } => {
                    let pong = ToPeer::Pong { nonce, observed };
                    self.send_sealed(way, &pong.to_plain(), now);
                }
                PathOut::Keepalive { way } => self.keep_alive(way, now),
            }
        }
        self.out.pop_front()
    }
}
