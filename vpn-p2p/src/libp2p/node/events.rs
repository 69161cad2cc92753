//! Decides what follows from what libp2p tells: who is connected, how, and where we are.

use std::time::Duration;

use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, dcutr, identify, ping};
use tokio::time::Instant;

use super::driver::{Connection, Driver};
use super::members::PROVE_WITHIN;
use super::status::LinkStatus;
use crate::libp2p::behaviour::{BehaviourEvent, KADEMLIA};
use crate::libp2p::body::MAX_ENDPOINTS;
use crate::libp2p::key::from_libp2p;
use crate::libp2p::order::best;
use crate::libp2p::screen::relay_of;

/// How long a relayed connection stays beside a direct one: streams over it say goodbye to each other
/// meanwhile, which takes a few of its round trips. What is still on them then is lost.
const LEAVE_AFTER: Duration = Duration::from_secs(2);

/// Addresses of one peer that are taken from what it says.
const MAX_IDENTIFIED: usize = 16;

impl Driver {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                // Who relays says by these where: without one, nobody can have a place. Where the way in is
                // configured, the addresses of this side of a NAT lead nobody here.
                let config = &self.shared.config;
                let is_told = config.relay.is_some() && config.announce.is_empty();
                if is_told && self.shared.screen.may_tell(&address) {
                    self.swarm.add_external_address(address);
                }
                self.look_where_we_are();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                if !self.shared.config.announce.contains(&address) {
                    self.swarm.remove_external_address(&address);
                }
                self.look_where_we_are();
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } => {
                tracing::debug!(?reason, "no longer reachable here");
                self.relays.lost(listener_id);
                self.look_where_we_are();
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                ..
            } => self.connected(
                peer_id,
                connection_id,
                &endpoint,
                num_established.get() == 1,
            ),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                cause,
            } => {
                tracing::debug!(peer = %peer_id, ?cause, "a connection ended");
                self.disconnected(peer_id, connection_id, &endpoint, num_established == 0);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                connection_id,
                error,
            } => {
                self.punching.not_made(connection_id);
                self.dialled.remove(&peer);
                if !self.swarm.is_connected(&peer) {
                    // The table keeps who is gone for as long as it has room, tells it to everybody, and each
                    // question waits for it. It is there again when it is heard.
                    self.swarm.behaviour_mut().kad.remove_peer(&peer);
                    self.tell_waiting(&peer, &Err(error.to_string()));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_directory(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => self.identified(peer_id, info),
            // libp2p leaves it at that; nothing else notices that a TCP connection is dead.
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                peer,
                connection,
                result: Err(ping::Failure::Timeout),
            })) => {
                tracing::debug!(%peer, "a connection is dead");
                self.swarm.close_connection(connection);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Punch(dcutr::Event {
                remote_peer_id,
                result,
            })) => {
                let counters = &mut self.shared.standing().counters;
                match result {
                    Ok(_) => counters.punched += 1,
                    Err(error) => {
                        tracing::debug!(peer = %remote_peer_id, %error, "no hole could be punched");
                        counters.not_punched += 1;
                    }
                }
            }
            _ => {}
        }
    }

    fn connected(
        &mut self,
        name: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        is_first: bool,
    ) {
        let Some(peer) = from_libp2p(&name) else {
            return;
        };
        let now = Instant::now();
        let is_relayed = endpoint.is_relayed();
        let new = Connection {
            peer: name,
            is_relayed,
            relay: match endpoint {
                ConnectedPoint::Dialer { address, .. } => relay_of(address),
                ConnectedPoint::Listener { local_addr, .. } => relay_of(local_addr),
            },
            remote: endpoint.get_remote_address().clone(),
            is_dialer: endpoint.is_dialer(),
            since: std::time::Instant::now(),
            process: None,
        };
        self.connections.insert(id, new);
        let link = LinkStatus {
            is_relayed,
            endpoint: endpoint.get_remote_address().clone(),
            since: std::time::Instant::now(),
        };
        {
            let mut standing = self.shared.standing();
            standing.links.entry(peer).or_default().push(link);
            standing.counters.connections += 1;
            standing.counters.relayed += u64::from(is_relayed);
        }
        // Streams go over any connection of a peer: none may be left on the relay beside a direct one.
        let all = self.connections.iter();
        let of_peer: Vec<_> = all.filter(|(_, other)| other.peer == name).collect();
        let mut has_moved = false;
        if of_peer.iter().any(|(_, other)| !other.is_relayed) {
            for (other, connection) in of_peer {
                let leaves = |(at, known): &(Instant, ConnectionId)| {
                    known == other && *at <= now + LEAVE_AFTER
                };
                if connection.is_relayed && !self.leaving.iter().any(leaves) {
                    self.leaving.push((now + LEAVE_AFTER, *other));
                    self.swarm.behaviour().streams.avoid(*other);
                    // There are no streams on one that has just come.
                    has_moved |= *other != id;
                }
            }
        }
        if has_moved {
            // Without a tunnel nobody listens.
            let _ = self.shared.moved.send(peer);
        }
        if let Some(end) = self.punching.ends(id, is_relayed, now) {
            self.leaving.push((end, id));
            self.swarm.behaviour().streams.avoid(id);
        }
        self.relays.connected(&name, now);
        self.dialled.remove(&name);
        self.tell_waiting(&name, &Ok(()));
        // On each: it may be the first one of a peer that was started again, while the connection it had
        // before is not known to be dead yet.
        self.tell(name, Some(id));
        if !is_first {
            return;
        }
        if self.shared.door.membership().admission.is_proven() {
            self.admit(peer, Vec::new());
        } else {
            self.unproven.insert(name, now + PROVE_WITHIN);
        }
    }

    fn disconnected(
        &mut self,
        name: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        is_last: bool,
    ) {
        self.connections.remove(&id);
        self.leaving.retain(|(_, leaving)| *leaving != id);
        let Some(peer) = from_libp2p(&name) else {
            return;
        };
        let mut standing = self.shared.standing();
        if let Some(links) = standing.links.get_mut(&peer) {
            let address = endpoint.get_remote_address();
            if let Some(at) = links.iter().position(|link| link.endpoint == *address) {
                links.swap_remove(at);
            }
        }
        if is_last {
            standing.links.remove(&peer);
            standing.admitted.remove(&peer);
            drop(standing);
            self.shared.door.forget(&name);
            self.identified.remove(&name);
            self.unproven.remove(&name);
            self.certified.remove(&name);
            self.shared.changed.notify_waiters();
        }
    }

    fn identified(&mut self, name: PeerId, info: identify::Info) {
        let mut addresses = info.listen_addrs;
        addresses.truncate(MAX_IDENTIFIED);
        if !info.protocols.contains(&KADEMLIA) || !self.swarm.is_connected(&name) {
            return;
        }
        let peer = from_libp2p(&name);
        let is_member = peer.is_some_and(|peer| self.shared.standing().admitted.contains(&peer));
        if is_member {
            self.learn(name, addresses.clone());
        }
        self.identified.insert(name, addresses);
    }

    /// Tells where we can be reached, if it is elsewhere than before: directly first.
    fn look_where_we_are(&mut self) {
        let is_circuit =
            |address: &Multiaddr| address.iter().any(|part| part == Protocol::P2pCircuit);
        let announced = self.shared.config.announce.iter();
        let listening = self
            .swarm
            .listeners()
            .filter(|a| self.shared.screen.may_tell(a));
        let mut listening: Vec<Multiaddr> = listening.cloned().collect();
        // A circuit's address ends with our name, which is in the record.
        for address in &mut listening {
            if is_circuit(address) && matches!(address.iter().last(), Some(Protocol::P2p(_))) {
                address.pop();
            }
        }
        // Who configures an address knows that it leads here.
        let mut all: Vec<Multiaddr> = announced.take(MAX_ENDPOINTS).cloned().collect();
        listening.retain(|address| !all.contains(address));
        all.extend(best(listening, MAX_ENDPOINTS - all.len()));
        self.shared.endpoints.send_if_modified(|now| {
            let is_new = *now != all;
            *now = all;
            is_new
        });
    }
}
