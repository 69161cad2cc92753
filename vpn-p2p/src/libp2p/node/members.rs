//! Decides what follows from who a connected peer is: a member, one whose time to prove that is over, one
//! that was started again.

use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::driver::Driver;
use super::hello;
use super::process::{Process, dead};
use crate::libp2p::body::MAX_ENDPOINTS;
use crate::libp2p::key::{from_libp2p, to_libp2p};
use crate::libp2p::known;
use crate::libp2p::order::best;

/// How long a peer has to prove itself.
pub(super) const PROVE_WITHIN: Duration = Duration::from_secs(10);

/// After how long a new known peer is written down, with others that come meanwhile: a node that is killed
/// finds its way back by them.
const WRITE_AFTER: Duration = Duration::from_secs(2);

impl Driver {
    /// Says who we are, over this connection or any, unless that is a stranger who came by itself: it has to
    /// begin.
    pub(super) fn tell(&self, name: PeerId, over: Option<ConnectionId>) {
        let Some(peer) = from_libp2p(&name) else {
            return;
        };
        let mut connections = self.connections.values();
        let is_known = self.shared.door.membership().admission.is_proven()
            || self.shared.standing().admitted.contains(&peer)
            || connections.any(|other| other.peer == name && other.is_dialer);
        if is_known {
            self.shared
                .spawn(hello::tell(self.shared.clone(), peer, over));
        }
    }

    /// A peer's certificate counts until then.
    pub(super) fn is_certified(&mut self, name: PeerId, until: Option<u64>) {
        match until {
            Some(until) if self.swarm.is_connected(&name) => {
                self.certified.insert(name, until);
            }
            _ => {
                self.certified.remove(&name);
            }
        }
    }

    /// A peer said over this connection which process is at its other end.
    pub(super) fn leave_the_dead(&mut self, name: PeerId, id: ConnectionId, process: Process) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.process = Some(process);
            let (since, is_relayed) = (connection.since, connection.is_relayed);
            let is_first = self.connections.values().all(|other| {
                let same = other.peer == name && other.process == Some(process);
                !same || other.is_relayed != is_relayed || other.since >= since
            });
            if !is_first {
                // Made for punching holes, perhaps, and closed soon by who made it.
                self.swarm.behaviour().streams.second(id);
            }
        }
        let all = self.connections.iter();
        let of_peer = all.filter(|(_, other)| other.peer == name);
        for connection in dead(of_peer.map(|(id, other)| (*id, other.since, other.process))) {
            tracing::debug!(peer = %name, "it was started again: its former connection is closed");
            self.swarm.close_connection(connection);
        }
    }

    /// Closes connections that others took over from, if these are still there.
    pub(super) fn close_what_leaves(&mut self, now: Instant) {
        while let Some(at) = self.leaving.iter().position(|(at, _)| *at <= now) {
            let (_, id) = self.leaving.swap_remove(at);
            let name = self.connections.get(&id).map(|connection| connection.peer);
            let stays = |other: &ConnectionId| {
                *other != id && self.leaving.iter().all(|(_, leaving)| leaving != other)
            };
            let mut all = self.connections.iter();
            if all.any(|(other, connection)| Some(connection.peer) == name && stays(other)) {
                self.swarm.close_connection(id);
            } else {
                self.swarm.behaviour().streams.stay(id);
            }
        }
    }

    /// A peer has proven that it is a member.
    pub(super) fn admit(&mut self, peer: vpn_core::PeerId, endpoints: Vec<Multiaddr>) {
        let Some(name) = to_libp2p(peer) else { return };
        if !self.swarm.is_connected(&name) {
            return;
        }
        self.unproven.remove(&name);
        {
            let mut standing = self.shared.standing();
            if standing.admitted.is_empty() {
                standing.arrived = Some(std::time::Instant::now());
            }
            standing.admitted.insert(peer);
        }
        self.shared.door.prove(name);
        self.swarm.behaviour_mut().kad.open(&name);
        self.shared.changed.notify_waiters();
        let mut all = endpoints;
        all.extend(self.identified.get(&name).into_iter().flatten().cloned());
        self.learn(name, all);
    }

    /// Members' addresses go to the directory's table, and to the next start.
    pub(super) fn learn(&mut self, name: PeerId, mut endpoints: Vec<Multiaddr>) {
        endpoints.retain(|endpoint| self.shared.screen.may_tell(endpoint));
        let endpoints = best(endpoints, MAX_ENDPOINTS);
        let is_new = !endpoints.is_empty() && self.known.get(&name) != Some(&endpoints);
        let kad = &mut self.swarm.behaviour_mut().kad;
        if is_new {
            // The table only ever adds, and tells everybody all that it has.
            kad.remove_peer(&name);
        }
        for endpoint in &endpoints {
            kad.add_address(&name, endpoint.clone());
        }
        if is_new {
            self.known.insert(name, endpoints);
            self.unwritten.get_or_insert(Instant::now() + WRITE_AFTER);
        }
        while self.known.len() > known::MAX_KNOWN {
            self.known.pop_first();
        }
    }

    pub(super) fn refuse(&mut self, peer: vpn_core::PeerId) {
        let Some(name) = to_libp2p(peer) else { return };
        self.unproven.remove(&name);
        self.certified.remove(&name);
        self.shared.standing().admitted.remove(&peer);
        self.shared.door.refuse(name, std::time::Instant::now());
        // It may be gone already.
        let _ = self.swarm.disconnect_peer_id(name);
    }

    /// Puts out who did not prove itself in time, and whose certificate ended.
    pub(super) fn put_out(&mut self, now: Instant) {
        let late = self.unproven.iter().filter(|(_, until)| **until <= now);
        let late: Vec<_> = late.filter_map(|(name, _)| from_libp2p(name)).collect();
        for peer in late {
            let told = self.shared.standing().strangers.tell(now.into_std());
            if let Some(others) = told {
                tracing::info!(%peer, others, "did not prove that it is a member");
            }
            self.refuse(peer);
        }
        let unix = hello::unix();
        let over = self.certified.iter().filter(|(_, until)| **until <= unix);
        let over: Vec<_> = over.filter_map(|(name, _)| from_libp2p(name)).collect();
        for peer in over {
            tracing::info!(%peer, "its certificate expired");
            self.refuse(peer);
        }
    }
}
