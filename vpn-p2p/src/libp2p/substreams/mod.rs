//! Touches libp2p: streams of protocols of our own, opened and accepted beside the task that has libp2p.
//!
//! In place of `libp2p-stream`, which keeps a channel for each connection that ever was, does not say over
//! which connection a stream came, opens them over any, and drops all but one of those that come together.

mod handler;
mod lines;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

use self::handler::{Handler, Request};
use self::lines::Lines;
use super::screen::relay_of;

/// Streams that are wanted of one connection and that it has not begun with; further ones wait.
const WANTED: usize = 16;

/// Streams of one protocol that have come and are not taken; further ones are closed. Who accepts them
/// takes each at once, and decides then who has to wait.
const ARRIVED: usize = 256;

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The peer does not accept such streams.
    #[error("the peer does not speak {0}")]
    Unsupported(StreamProtocol),
    /// It is not connected, or is gone.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Somebody accepts such streams already.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("streams of this protocol are accepted already")]
pub struct AlreadyRegistered;

/// A stream that a peer opened.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    pub(crate) stream: Stream,
}

/// Streams of one protocol that peers open, each with libp2p's name of who did. Dropped, they are accepted no
/// longer.
#[derive(Debug)]
pub struct IncomingStreams(mpsc::Receiver<Arrived>);

impl IncomingStreams {
    /// The next one, with the connection it came over.
    pub(crate) async fn arrived(&mut self) -> Option<Arrived> {
        self.0.recv().await
    }
}

impl futures_util::Stream for IncomingStreams {
    type Item = (PeerId, Stream);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let arrived = self.0.poll_recv(cx);
        arrived.map(|arrived| arrived.map(|arrived| (arrived.peer, arrived.stream)))
    }
}

#[derive(Debug, Default)]
struct State {
    accepted: HashMap<StreamProtocol, mpsc::Sender<Arrived>>,
    lines: Lines<mpsc::Sender<Request>>,
}

/// What the behaviour, its connections and those who open streams share.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(Arc<Mutex<State>>);

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn protocols(&self) -> Vec<StreamProtocol> {
        let mut state = self.lock();
        state.accepted.retain(|_, taker| !taker.is_closed());
        state.accepted.keys().cloned().collect()
    }

    fn arrived(&self, protocol: &StreamProtocol, arrived: Arrived) {
        let peer = arrived.peer;
        let state = self.lock();
        let taker = state.accepted.get(protocol);
        if taker.is_none_or(|taker| taker.try_send(arrived).is_err()) {
            tracing::debug!(%peer, %protocol, "nobody takes a stream");
        }
    }
}

/// Opens and accepts streams.
#[derive(Clone, Debug)]
pub(crate) struct Control(Table);

impl Control {
    /// Accepts streams of this protocol, on connections that come after this.
    pub(crate) fn accept(
        &self,
        protocol: StreamProtocol,
    ) -> Result<IncomingStreams, AlreadyRegistered> {
        let mut state = self.0.lock();
        if let Some(taker) = state.accepted.get(&protocol)
            && !taker.is_closed()
        {
            return Err(AlreadyRegistered);
        }
        let (taker, arrived) = mpsc::channel(ARRIVED);
        state.accepted.insert(protocol, taker);
        Ok(IncomingStreams(arrived))
    }

    /// Whether this connection is there.
    pub(crate) fn is_there(&self, id: ConnectionId) -> bool {
        self.0.lock().lines.on(id).is_some()
    }

    /// Opens a stream over the best connection to a peer: which one, and the stream.
    pub(crate) async fn open(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<(ConnectionId, Stream), OpenError> {
        let line = self.0.lock().lines.to(&peer).map(|(id, l)| (id, l.clone()));
        let (id, line) = line.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        Ok((id, open(&line, protocol).await?))
    }

    /// Opens a stream over this connection.
    pub(crate) async fn open_on(
        &self,
        id: ConnectionId,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenError> {
        let line = self.0.lock().lines.on(id).cloned();
        let line = line.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        open(&line, protocol).await
    }
}

async fn open(line: &mpsc::Sender<Request>, protocol: StreamProtocol) -> Result<Stream, OpenError> {
    let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (reply, answer) = oneshot::channel();
    let sent = line.send(Request { protocol, reply }).await;
    sent.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// The part of libp2p that has the connections.
#[derive(Debug, Default)]
pub(super) struct Substreams(Table);

impl Substreams {
    /// Who opens and accepts streams.
    pub(super) fn control(&self) -> Control {
        Control(self.0.clone())
    }

    /// A connection ends soon: new streams go over others.
    pub(super) fn avoid(&self, id: ConnectionId) {
        self.0.lock().lines.avoid(id);
    }

    /// It stays after all.
    pub(super) fn stay(&self, id: ConnectionId) {
        self.0.lock().lines.stay(id);
    }

    /// Another connection leads to the same process: new streams go over that, as long as it is there.
    pub(super) fn second(&self, id: ConnectionId) {
        self.0.lock().lines.second(id);
    }

    fn enter(&self, id: ConnectionId, peer: PeerId, at: &Multiaddr) -> Handler {
        let (wants, requests) = mpsc::channel(WANTED);
        let is_relayed = relay_of(at).is_some();
        self.0.lock().lines.enter(id, peer, is_relayed, wants);
        Handler::new(peer, id, self.0.clone(), requests)
    }

    fn leave(&self, id: ConnectionId) {
        self.0.lock().lines.leave(id);
    }
}

impl NetworkBehaviour for Substreams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.enter(id, peer, local))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.enter(id, peer, address))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(over) => self.leave(over.connection_id),
            // Another part of libp2p did not want it.
            FromSwarm::ListenFailure(none) => self.leave(none.connection_id),
            FromSwarm::DialFailure(none) => self.leave(none.connection_id),
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

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
