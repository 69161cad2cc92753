//! Decides when a behaviour of libp2p sees what a peer asks: once that has proven that it is a member.
//!
//! A newcomer asks and gives beside its proof, so what comes before that waits: dropped, it would be
//! missed for as long as the newcomer takes it for done. Who proves nothing is put out, and its streams
//! with it; strangers learn nothing of who else there is.

use std::collections::{HashMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::handler::{
    ConnectionEvent, FullyNegotiatedInbound, InboundUpgradeSend, OutboundUpgradeSend,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::gate::Door;

/// Streams of one connection that wait: what a newcomer asks while it publishes. Further ones are closed,
/// which who opened them is told.
const MAX_HELD: usize = 16;

/// A behaviour that members alone can ask.
#[derive(Debug)]
pub(super) struct Held<B> {
    inner: B,
    door: Arc<Door>,
    /// Connections of who has not proven itself.
    shut: HashMap<ConnectionId, PeerId>,
    opened: VecDeque<(ConnectionId, PeerId)>,
}

impl<B> Held<B> {
    pub(super) fn new(inner: B, door: Arc<Door>) -> Self {
        Self {
            inner,
            door,
            shut: HashMap::new(),
            opened: VecDeque::new(),
        }
    }

    /// This peer has proven that it is a member. libp2p has to be polled after that.
    pub(super) fn open(&mut self, peer: &PeerId) {
        let opened = self.shut.extract_if(|_, other| other == peer);
        self.opened.extend(opened);
    }
}

impl<B> Deref for Held<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B> DerefMut for Held<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Held<B> {
    type ConnectionHandler = Holding<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let is_open = self.door.is_member(&peer);
        let inner = &mut self.inner;
        let inner = inner.handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(Holding::new(inner, is_open))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let is_open = self.door.is_member(&peer);
        let inner = &mut self.inner;
        let inner = inner.handle_established_outbound_connection(id, peer, address, role, port)?;
        Ok(Holding::new(inner, is_open))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(new) if !self.door.is_member(&new.peer_id) => {
                self.shut.insert(new.connection_id, new.peer_id);
            }
            FromSwarm::ConnectionClosed(over) => {
                self.shut.remove(&over.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((connection, peer_id)) = self.opened.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event: Told::Open,
            });
        }
        self.inner.poll(cx).map(|out| out.map_in(Told::Inner))
    }
}

/// What a connection is told.
#[derive(Debug)]
pub(super) enum Told<E> {
    /// Its peer is a member.
    Open,
    Inner(E),
}

type Incoming<H> = FullyNegotiatedInbound<
    <H as ConnectionHandler>::InboundProtocol,
    <H as ConnectionHandler>::InboundOpenInfo,
>;

/// One connection.
pub(super) struct Holding<H: ConnectionHandler> {
    inner: H,
    is_open: bool,
    held: Vec<Incoming<H>>,
}

impl<H: ConnectionHandler> Holding<H> {
    const fn new(inner: H, is_open: bool) -> Self {
        let held = Vec::new();
        Self {
            inner,
            is_open,
            held,
        }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Holding<H>
where
    <H::InboundProtocol as InboundUpgradeSend>::Output: Send,
    <H::OutboundProtocol as OutboundUpgradeSend>::Output: Send,
{
    type FromBehaviour = Told<H::FromBehaviour>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            Told::Open => {
                self.is_open = true;
                for stream in std::mem::take(&mut self.held) {
                    let event = ConnectionEvent::FullyNegotiatedInbound(stream);
                    self.inner.on_connection_event(event);
                }
            }
            Told::Inner(event) => self.inner.on_behaviour_event(event),
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(stream) if !self.is_open => {
                if self.held.len() < MAX_HELD {
                    self.held.push(stream);
                }
            }
            event => self.inner.on_connection_event(event),
        }
    }
}
