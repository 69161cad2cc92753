//! Touches the node for the pools: connects with a peer, by what is known of it, and opens a stream.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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
        let endpoints = self.endpoints(peer);
        if let Err(error) = self.node.connect(peer, endpoints).await {
            // What is known of it is old, perhaps.
            if !self.ask(peer).await {
                return Err(error);
            }
            self.node.connect(peer, self.endpoints(peer)).await?;
        }
        let stream = self.node.open(peer, PACKETS).await?;
        Ok(Box::new(PacketStream::new(stream)))
    }
}
