//! Touches one connection of libp2p: opens streams on it, and takes those that its peer opens.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::task::{Context, Poll};

use libp2p::core::upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, ConnectionId, StreamUpgradeError, SubstreamProtocol,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

use super::{Arrived, OpenError, Table};

/// Streams of one connection whose protocol is being agreed on; further ones wait.
const NEGOTIATING: usize = 32;

/// How who asked for a stream is answered.
type Reply = oneshot::Sender<Result<Stream, OpenError>>;

/// A stream is wanted.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) protocol: StreamProtocol,
    pub(super) reply: Reply,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Handler {
    peer: PeerId,
    connection: ConnectionId,
    table: Table,
    requests: mpsc::Receiver<Request>,
    negotiating: usize,
}

impl Handler {
    pub(super) const fn new(
        peer: PeerId,
        connection: ConnectionId,
        table: Table,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        Self {
            peer,
            connection,
            table,
            requests,
            negotiating: 0,
        }
    }

    fn answer(&mut self, reply: Reply, outcome: Result<Stream, OpenError>) {
        self.negotiating = self.negotiating.saturating_sub(1);
        // Who asked may have given up.
        let _ = reply.send(outcome);
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Protocols;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = (StreamProtocol, Reply);

    fn listen_protocol(&self) -> SubstreamProtocol<Protocols> {
        SubstreamProtocol::new(Protocols(self.table.protocols()), ())
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        // libp2p polls again when one is agreed on.
        while self.negotiating < NEGOTIATING
            && let Poll::Ready(Some(Request { protocol, reply })) = self.requests.poll_recv(cx)
        {
            if reply.is_closed() {
                continue;
            }
            self.negotiating += 1;
            let upgrade = ReadyUpgrade::new(protocol.clone());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(upgrade, (protocol, reply)),
            });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            (),
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => {
                let arrived = Arrived {
                    peer: self.peer,
                    connection: self.connection,
                    stream,
                };
                self.table.arrived(&protocol, arrived);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: (_, reply),
            }) => self.answer(reply, Ok(stream)),
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                error,
                info: (protocol, reply),
            }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported(protocol),
                    StreamUpgradeError::Timeout => io::Error::from(io::ErrorKind::TimedOut).into(),
                    StreamUpgradeError::Io(error) => error.into(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.answer(reply, Err(error));
            }
            _ => {}
        }
    }
}

/// Protocols that are accepted; a stream is of one of them.
#[derive(Clone, Debug)]
pub(crate) struct Protocols(Vec<StreamProtocol>);

impl UpgradeInfo for Protocols {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Protocols {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
