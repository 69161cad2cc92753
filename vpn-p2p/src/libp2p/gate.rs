//! Decides who may be connected, and dialled: peers of the list, and with a network key whoever has not
//! been refused of late; they have to prove themselves next, and are [few](super::crowd) until then.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::crowd::{Carrier, Crowd, Place};
use super::key::from_libp2p;
use super::membership::Membership;

/// For how long who could not prove itself is not connected.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// How many are remembered as refused; beyond, the one whose time is over first is forgotten.
const MAX_REFUSED: usize = 1024;

/// Why a connection was closed as soon as it was there.
#[derive(Debug, thiserror::Error)]
#[error("this peer is not admitted")]
pub(super) struct NotAdmitted;

/// Who is let in, and how often somebody was not.
#[derive(Debug)]
pub(super) struct Door {
    membership: Membership,
    refused: Mutex<HashMap<PeerId, Instant>>,
    crowd: Mutex<Crowd>,
    turned_away: AtomicU64,
}

impl Door {
    pub(super) fn new(membership: Membership, max_connections: u32) -> Self {
        Self {
            membership,
            refused: Mutex::default(),
            crowd: Mutex::new(Crowd::new(max_connections)),
            turned_away: AtomicU64::new(0),
        }
    }

    pub(super) const fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Somebody could not prove itself.
    pub(super) fn refuse(&self, peer: PeerId, now: Instant) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        let mut refused = self.refused();
        refused.retain(|_, until| *until > now);
        if refused.len() >= MAX_REFUSED
            && let Some(oldest) = refused.iter().min_by_key(|(_, until)| **until)
        {
            let oldest = *oldest.0;
            refused.remove(&oldest);
        }
        refused.insert(peer, now + REFUSED_FOR);
        drop(refused);
        self.forget(&peer);
    }

    /// Somebody has proven itself.
    pub(super) fn prove(&self, peer: PeerId) {
        self.crowd().prove(peer);
    }

    /// Who had proven itself is gone.
    pub(super) fn forget(&self, peer: &PeerId) {
        self.crowd().forget(peer);
    }

    /// Connections that were refused.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<PeerId, Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deny(&self) -> NotAdmitted {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        NotAdmitted
    }

    fn check(&self, peer: &PeerId, now: Instant) -> Result<(), NotAdmitted> {
        let may = from_libp2p(peer).is_some_and(|peer| self.membership.admission.may_connect(peer));
        let refused = self.refused().get(peer).is_some_and(|until| *until > now);
        if may && !refused {
            return Ok(());
        }
        Err(self.deny())
    }

    /// Whether this peer has proven that it is a member, or needs not.
    pub(super) fn is_member(&self, peer: &PeerId) -> bool {
        self.is_proof() || self.crowd().has_proven(peer)
    }

    /// Whether everybody who may connect is a member.
    const fn is_proof(&self) -> bool {
        self.membership.admission.is_proven()
    }
}

/// The door, where libp2p asks.
#[derive(Debug)]
pub(super) struct Gate {
    door: Arc<Door>,
    /// Connections of strangers that have to go.
    out: VecDeque<(ConnectionId, PeerId)>,
}

impl Gate {
    pub(super) const fn new(door: Arc<Door>) -> Self {
        let out = VecDeque::new();
        Self { door, out }
    }

    fn pass(&self, peer: &PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.door
            .check(peer, Instant::now())
            .map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let (carrier, place) = (Carrier::of(local), Place::of(local, remote));
        if self.door.crowd().begins(id, carrier, place) {
            return Ok(());
        }
        Err(ConnectionDenied::new(self.door.deny()))
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let passed = self.pass(&peer)?;
        if !self.door.is_proof() && !self.door.crowd().may_enter(&peer, Place::of(local, remote)) {
            return Err(ConnectionDenied::new(self.door.deny()));
        }
        Ok(passed)
    }

    /// Others say who else there is: whom a node may not be connected with it does not dial.
    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(peer) = peer {
            self.pass(&peer)?;
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pass(&peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let mut crowd = self.door.crowd();
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                crowd.begun(new.connection_id);
                if !self.door.is_proof()
                    && let ConnectedPoint::Listener {
                        local_addr,
                        send_back_addr,
                    } = new.endpoint
                {
                    let place = Place::of(local_addr, send_back_addr);
                    self.out
                        .extend(crowd.enter(new.connection_id, new.peer_id, place));
                }
            }
            FromSwarm::ConnectionClosed(over) => crowd.leave(over.connection_id),
            FromSwarm::ListenFailure(none) => crowd.begun(none.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    /// What has to go came up with an event, after which libp2p polls.
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let Some((connection, peer_id)) = self.out.pop_front() else {
            return Poll::Pending;
        };
        self.door.deny();
        Poll::Ready(ToSwarm::CloseConnection {
            peer_id,
            connection: CloseConnection::One(connection),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libp2p::admission::Admission;
    use crate::libp2p::key::to_libp2p;
    use crate::libp2p::membership::NetworkId;

    fn door(admission: Admission) -> Door {
        let network = NetworkId::default();
        Door::new(Membership { network, admission }, 1024)
    }

    #[test]
    fn the_list_is_let_in_and_the_refused_are_not_for_a_while() {
        let now = Instant::now();
        let ids: Vec<_> = (0..2)
            .map(|_| crate::identity::Identity::generate().unwrap().id())
            .collect();
        let [one, two] = [ids[0], ids[1]].map(|id| to_libp2p(id).unwrap());
        let closed = door(Admission::list([ids[0]]));
        assert!(closed.check(&one, now).is_ok());
        assert!(closed.check(&two, now).is_err());
        assert_eq!(closed.turned_away(), 1);
        let door = door(Admission::Network(ids[0]));
        assert!(door.check(&two, now).is_ok());
        door.refuse(two, now);
        assert!(door.check(&two, now).is_err());
        assert!(door.check(&two, now + REFUSED_FOR).is_ok());
        for _ in 0..MAX_REFUSED + 5 {
            door.refuse(PeerId::random(), now);
        }
        assert_eq!(door.refused().len(), MAX_REFUSED);
    }
}
