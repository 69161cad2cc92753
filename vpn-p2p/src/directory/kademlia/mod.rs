//! A directory over the DHT of a node: records are kept by the members themselves.
//!
//! [`slot`] is pure: it decides what is kept under which key. What a query finds is believed only if
//! it is signed, lives, and is a member's; of several answers the newest counts, so that a node that
//! missed a change, or keeps it back, is outvoted by any that did not.

pub mod slot;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join, try_join_all};
use tokio::sync::{Mutex, broadcast};
use tokio::time::timeout;
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord};

use self::slot::{Slot, newest, pack, unpack};
use crate::libp2p::node::{Command, Node, Shared, unix};

/// How long others may take to say what they have of this node, before it is told them anew.
const KNOWN: Duration = Duration::from_secs(5);

/// By how much the own key is ahead of the claims of addresses.
const AHEAD: Duration = Duration::from_secs(1);

/// The DHT that this node is part of, as a directory. It keeps no answers: who asks does.
///
/// A node that knows nobody cannot publish ([`Unavailable`](DirectoryError::Unavailable)): a record
/// must be with somebody else to be found.
pub struct KademliaDirectory {
    /// No handle: who announces by this directory is one of the node's own tasks, and would keep it for ever.
    node: Arc<Shared>,
    news: Mutex<broadcast::Receiver<PeerRecord>>,
}

impl fmt::Debug for KademliaDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KademliaDirectory")
            .field("node", &self.node.id)
            .finish_non_exhaustive()
    }
}

impl KademliaDirectory {
    /// That of this node. It is [`Unavailable`](DirectoryError::Unavailable) when that has ended: the directory
    /// does not keep it.
    pub fn new(node: Node) -> Arc<Self> {
        let node = node.shared().clone();
        let news = Mutex::new(node.heard.subscribe());
        Arc::new(Self { node, news })
    }

    /// What is believed of what is under this key: of each peer its newest record.
    async fn get(&self, slot: Slot) -> Result<Vec<PeerRecord>, DirectoryError> {
        let key = slot.key();
        let asked = self.node.ask(|reply| Command::Get { key, reply });
        let found = asked.await.map_err(unavailable)?.map_err(io::Error::other);
        let mut records = Vec::new();
        for record in found.map_err(unavailable)?.iter().flat_map(|v| unpack(v)) {
            if slot.holds(&record) && self.node.believe(record.clone()).is_ok() {
                newest(&mut records, record);
            }
        }
        Ok(records)
    }

    async fn put(&self, slot: Slot, record: &PeerRecord) -> Result<(), DirectoryError> {
        let (key, value) = (slot.key(), pack(std::slice::from_ref(record)));
        let lives = Duration::from_secs(record.expires.saturating_sub(unix()));
        let asked = self.node.ask(|reply| Command::Put {
            key,
            value,
            lives,
            reply,
        });
        let put = asked.await.map_err(unavailable)?;
        put.map_err(io::Error::other).map_err(unavailable)
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> DirectoryError {
    DirectoryError::Unavailable(Box::new(error))
}

#[async_trait]
impl PeerDirectory for KademliaDirectory {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        if let Err(error) = self.node.believe(record.clone()) {
            return Err(DirectoryError::Refused(Box::new(error)));
        }
        let own = Slot::Peer(record.peer);
        // One node that does not answer can hold this up for as long as a question may take: what nobody
        // says, nobody is asked to forget.
        let known = timeout(KNOWN, self.get(own)).await;
        let known = known.ok().and_then(Result::ok).unwrap_or_default();
        // Peers keep what they heard of it, and a former attempt may have come to some.
        if let Some(known) = known.first()
            && known.sequence >= record.sequence
            && *known != record
        {
            return Err(DirectoryError::Stale {
                have: known.sequence,
                offered: record.sequence,
            });
        }
        // First where it decides what of the rest is old, as far as that does not take long.
        let own = self.put(own, &record);
        tokio::pin!(own);
        let early = timeout(AHEAD, &mut own).await;
        let claims = record.addresses.iter().map(|a| Slot::Address(*a));
        let claims = try_join_all(claims.map(|slot| self.put(slot, &record)));
        match early {
            Ok(done) => drop((done?, claims.await?)),
            Err(_) => drop(try_join(own, claims).await?),
        }
        // Nobody may listen.
        let _ = self.node.heard.send(record.clone());
        Ok(())
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        Ok(self.get(Slot::Peer(peer)).await?.pop())
    }

    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        let claims = self.get(Slot::Address(address)).await?;
        // Who gave the address up says so under its own key only.
        let newer = claims.iter().map(|claim| self.get(Slot::Peer(claim.peer)));
        let newer = join_all(newer).await;
        let current = claims.into_iter().zip(newer).map(|(claim, newer)| {
            let newer = newer.ok().and_then(|mut records| records.pop());
            newer
                .filter(|newer| newer.sequence > claim.sequence)
                .unwrap_or(claim)
        });
        Ok(current
            .filter(|record| record.addresses.contains(&address))
            .collect())
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        let mut news = self.news.lock().await;
        loop {
            match news.recv().await {
                Ok(record) => return Ok(record),
                // What was missed can be asked for.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
    }
}
