//! Touches the node for the pools: connects with a peer, by what is known of it, and opens a stream.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
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

/// How long a peer may take to be connected before it is asked where else it is; twice as long before it is
/// asked again, and so on.
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

    /// Asks the directory where the peer is now.
    async fn ask(&self, peer: PeerId) {
        let Ok(Some(record)) = self.directory.resolve(peer).await else {
            return;
        };
        let now = unix();
        let Ok((valid, _)) = self.node.believe(record) else {
            return;
        };
        let mut all = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // What is known already counts too.
        let _ = all.learn(valid.into_record(), Instant::now(), now);
        if all.has_questions() {
            self.asks.notify_one();
        }
    }

    /// Connects. Places that do not answer take ten seconds, while the peer may say meanwhile where else it is:
    /// that is asked for beside, and dialled beside.
    async fn connect(&self, peer: PeerId) -> io::Result<()> {
        let dial = |to| async move { Came::Dialled(self.node.connect(peer, to).await) }.boxed();
        let ask = |pause| {
            async move {
                tokio::time::sleep(pause).await;
                self.ask(peer).await;
                Came::Asked
            }
            .boxed()
        };
        let (mut dialled, mut dials, mut pause) = (self.endpoints(peer), 1, ANSWERS);
        let mut all = FuturesUnordered::from_iter([dial(dialled.clone()), ask(pause)]);
        let mut failed = None;
        while let Some(came) = all.next().await {
            match came {
                Came::Dialled(Ok(())) => return Ok(()),
                Came::Dialled(Err(error)) => {
                    dials -= 1;
                    failed = Some(error);
                    if dials == 0 {
                        // What is known of it is old, perhaps.
                        all.push(ask(Duration::ZERO));
                    }
                }
                Came::Asked => {
                    let places = self.endpoints(peer);
                    if places != dialled {
                        dialled = places;
                        all.push(dial(dialled.clone()));
                        dials += 1;
                    } else if dials == 0 {
                        break;
                    }
                    pause *= 2;
                    all.push(ask(pause));
                }
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// What came of an attempt to connect.
enum Came {
    Dialled(io::Result<()>),
    Asked,
}

#[async_trait]
impl PeerOpener for Opener {
    async fn open(&self, peer: PeerId) -> io::Result<Box<dyn Stream>> {
        self.connect(peer).await?;
        let stream = self.node.open(peer, PACKETS).await?;
        Ok(Box::new(PacketStream::new(stream)))
    }
}
