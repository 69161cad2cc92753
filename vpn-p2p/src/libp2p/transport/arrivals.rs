//! Touches streams that peers open: each waits until it is known whose addresses its packets may have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::time::timeout;
use vpn_core::PeerId;

use super::Shared;
use super::lookups::who_is;
use crate::libp2p::key::from_libp2p;
use crate::libp2p::node::unix;
use crate::libp2p::substreams::IncomingStreams;
use crate::libp2p::wire::PacketStream;

/// How long a stream may wait until it is known who opened it.
const KNOWN: Duration = Duration::from_secs(10);

/// Streams of members that wait; as many as a node has connections. Further ones are refused, and opened
/// again later.
const MEMBERS: usize = 1024;

/// Streams that wait of those who have not proven yet that they are members. They have places of their
/// own: anybody can make keys, and take all of them.
const STRANGERS: usize = 64;

/// Of these, of one peer: a pool opens two at a time.
const OF_ONE: usize = 4;

/// Who waits.
#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_peer: HashMap<PeerId, usize>,
}

impl Waiting {
    fn enter(&mut self, peer: PeerId, most: usize) -> bool {
        let of_one = self.by_peer.get(&peer).copied().unwrap_or_default();
        if self.all >= most || of_one >= OF_ONE {
            return false;
        }
        self.all += 1;
        self.by_peer.insert(peer, of_one + 1);
        true
    }

    fn leave(&mut self, peer: PeerId) {
        if let Some(of_one) = self.by_peer.get_mut(&peer) {
            self.all -= 1;
            *of_one -= 1;
            if *of_one == 0 {
                self.by_peer.remove(&peer);
            }
        }
    }
}

/// Places for those who wait.
#[derive(Debug)]
struct Places {
    waiting: Mutex<Waiting>,
    most: usize,
}

impl Places {
    fn new(most: usize) -> Arc<Self> {
        let waiting = Mutex::default();
        Arc::new(Self { waiting, most })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for a stream of this peer, if there is any.
    fn take(self: &Arc<Self>, peer: PeerId) -> Option<Place> {
        let places = self.clone();
        let entered = self.waiting().enter(peer, self.most);
        entered.then(|| Place { places, peer })
    }
}

/// A place that is given back when dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    peer: PeerId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.waiting().leave(self.peer);
    }
}

/// Gives streams that peers opened to their pools, once it is known whose addresses they may use.
pub(super) async fn accept(shared: Arc<Shared>, mut incoming: IncomingStreams) {
    let (members, strangers) = (Places::new(MEMBERS), Places::new(STRANGERS));
    while let Some((name, stream)) = incoming.next().await {
        let Some(peer) = from_libp2p(&name) else {
            continue;
        };
        let places = match shared.node.is_admitted(peer) {
            true => &members,
            false => &strangers,
        };
        let Some(place) = places.take(peer) else {
            tracing::debug!(%peer, "too many streams wait until it is known who opened them");
            continue;
        };
        let accepting = shared.clone();
        shared.spawn(async move {
            let _place = place;
            let known = async {
                accepting.node.admitted(peer).await;
                let asking = async {
                    who_is(&accepting, peer).await;
                    std::future::pending().await
                };
                tokio::select! {
                    () = is_known(&accepting, peer) => {}
                    () = asking => {}
                }
            };
            if timeout(KNOWN, known).await.is_err() {
                tracing::debug!(%peer, "a stream of somebody unknown is refused");
            } else if let Err(error) = accepting
                .dispatcher
                .accept(peer, Box::new(PacketStream::new(stream)))
            {
                tracing::debug!(%peer, %error, "a stream is refused");
            }
        });
    }
}

/// Until there is a record of this peer, and it is decided which addresses are its own.
async fn is_known(shared: &Shared, peer: PeerId) {
    loop {
        let learned = shared.learned.notified();
        tokio::pin!(learned);
        learned.as_mut().enable();
        let is_settled = {
            let mut all = shared.addresses();
            let is_settled = all.is_settled(peer, Instant::now(), unix());
            shared.settle(&all);
            is_settled
        };
        if is_settled {
            return;
        }
        learned.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places_alone_and_each_is_given_back() {
        let places = Places::new(2 * OF_ONE + 1);
        let peers = [1, 2, 3].map(|n| PeerId([n; 32]));
        let mut taken: Vec<Place> = Vec::new();
        for peer in peers {
            let mine = std::iter::from_fn(|| places.take(peer));
            taken.extend(mine.take(OF_ONE + 1));
        }
        let of = |peer| taken.iter().filter(|place| place.peer == peer).count();
        assert_eq!(peers.map(of), [OF_ONE, OF_ONE, 1]);
        taken.retain(|place| place.peer != peers[0]);
        assert!(places.take(peers[0]).is_some());
        drop(taken);
        let waiting = places.waiting();
        assert_eq!((waiting.all, waiting.by_peer.len()), (0, 0));
    }
}
