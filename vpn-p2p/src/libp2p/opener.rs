//! Touches the node for the pools: connects with a peer, by what is known of it, and opens a stream.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use libp2p::{Multiaddr, StreamProtocol};
use tokio::sync::Notify;
use vpn_core::{PeerDirectory, PeerId};

use super::addresses::Addresses;
use super::body::Body;
use super::node::{Node, unix};
use super::wire::PacketStream;
use crate::streams::{PeerOpener, Stream};

/// The protocol's name of streams of packets.
pub(super) const PACKETS: StreamProtocol = StreamProtocol::new("/vpn/packets/1");

/// How long a peer may take to be connected before it is asked where else it is.
const ANSWERS: Duration = Duration::from_secs(1);

pub(super) struct Opener {
    pub(super) node: Node,
    pub(super) directory: Arc<dyn PeerDirectory>,
    pub(super) addresses: Arc<Mutex<Addresses>>,
    /// There are questions about addresses.
    pub(super) asks: Arc<Notify>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

impl Opener {
    fn endpoints(&self, peer: PeerId) -> Vec<Multiaddr> {
        let all = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let record = all.record(peer, unix());
        let body = record.and_then(|record| Body::decode(&record.body).ok());
        body.map(|body| body.endpoints).unwrap_or_default()
    }

    /// Asks the directory where the peer is now; whether that is something new.
    async fn ask(&self, peer: PeerId) -> bool {
        let Ok(Some(record)) = self.directory.resolve(peer).await else {
            return false;
        };
        let now = unix();
        let Ok((valid, _)) = self.node.believe(record) else {
            return false;
        };
        let mut all = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_new = all.learn(valid.into_record(), Instant::now(), now).is_ok();
        if all.has_questions() {
            self.asks.notify_one();
        }
        is_new
    }
}

#[async_trait]
impl PeerOpener for Opener {
    async fn open(&self, peer: PeerId) -> io::Result<Box<dyn Stream>> {
        let known = self.node.connect(peer, self.endpoints(peer));
        tokio::pin!(known);
        let outcome = tokio::select! {
            outcome = &mut known => Some(outcome),
            () = tokio::time::sleep(ANSWERS) => None,
        };
        if !matches!(outcome, Some(Ok(()))) {
            // What is known of it is old, perhaps; places that do not answer take ten seconds.
            let is_new = self.ask(peer).await;
            match outcome {
                Some(Err(error)) if !is_new => return Err(error),
                None if !is_new => known.await?,
                _ => self.node.connect(peer, self.endpoints(peer)).await?,
            }
        }
        let stream = self.node.open(peer, PACKETS).await?;
        Ok(Box::new(PacketStream::new(stream)))
    }
}
