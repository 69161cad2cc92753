//! Decides who may be connected: peers of the list, and with a network key whoever has not been
//! refused of late; they have to prove themselves next.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

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
    turned_away: AtomicU64,
}

impl Door {
    pub(super) fn new(membership: Membership) -> Self {
        Self {
            membership,
            refused: Mutex::default(),
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
    }

    /// Connections that were refused.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<PeerId, Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, peer: &PeerId, now: Instant) -> Result<(), NotAdmitted> {
        let may = from_libp2p(peer).is_some_and(|peer| self.membership.admission.may_connect(peer));
        let refused = self.refused().get(peer).is_some_and(|until| *until > now);
        if may && !refused {
            return Ok(());
        }
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        Err(NotAdmitted)
    }
}

/// The door, where libp2p asks.
#[derive(Debug)]
pub(super) struct Gate(pub(super) Arc<Door>);

impl Gate {
    fn pass(&self, peer: &PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.0
            .check(peer, Instant::now())
            .map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pass(&peer)
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

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libp2p::admission::Admission;
    use crate::libp2p::key::to_libp2p;
    use crate::libp2p::membership::NetworkId;

    fn door(admission: Admission) -> Door {
        Door::new(Membership {
            network: NetworkId::default(),
            admission,
        })
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
