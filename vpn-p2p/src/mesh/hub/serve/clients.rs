//! Touches the clients of TLS: a pool of streams for each, found by its key when a stream comes, and by
//! its number when something is to be sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use vpn_core::{DropCounters, Packet, PacketBatch, PeerId};

use super::TlsLimits;
use crate::streams::{Budget, Contents, Overflow, PoolConfig, PoolError, Stream, StreamPool};

/// Packets given to a pool at a time.
pub(super) const BATCH: usize = 64;

/// Datagrams up to this length are copied out of what was read: all but super-packets. A buffer for
/// each is as long.
pub(super) const COPIED: usize = 2048;

/// Streams of one client, and packets that wait for each of them.
const STREAMS: usize = 8;
const QUEUE: usize = 512;

/// Bytes that wait for one client.
const CLIENT_BYTES: usize = 1 << 20;

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: u64,
    peer: PeerId,
    pub(super) pool: StreamPool,
}

#[derive(Debug, Default)]
struct Table {
    by_peer: HashMap<PeerId, Arc<Client>>,
    by_connection: HashMap<u64, Arc<Client>>,
    last: u64,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    table: Mutex<Table>,
    budget: Budget,
    most: usize,
}

impl Clients {
    pub(super) fn new(limits: &TlsLimits) -> Self {
        Self {
            table: Mutex::default(),
            budget: Budget::new(limits.waiting_bytes),
            most: limits.clients,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stream of this peer. A client that is new is returned: somebody has to serve it.
    pub(super) fn accept(
        &self,
        peer: PeerId,
        stream: Box<dyn Stream>,
    ) -> Result<Option<Arc<Client>>, PoolError> {
        let mut table = self.table();
        if let Some(client) = table.by_peer.get(&peer) {
            client.pool.accept(stream)?;
            return Ok(None);
        }
        if table.by_peer.len() >= self.most {
            return Err(PoolError::Greeting);
        }
        let config = PoolConfig {
            contents: Contents::Opaque,
            max_streams_per_peer: STREAMS,
            packet_buffer_size: QUEUE,
            peer_buffer_bytes: CLIENT_BYTES,
            // What is relayed is not kept for a receiver that is too slow for it.
            overflow: Overflow::DropNew,
            ..PoolConfig::default()
        };
        let pool = StreamPool::listen(config, self.budget.clone())?;
        pool.accept(stream)?;
        table.last += 1;
        let connection = table.last;
        let client = Arc::new(Client {
            connection,
            peer,
            pool,
        });
        table.by_peer.insert(peer, client.clone());
        table.by_connection.insert(connection, client.clone());
        Ok(Some(client))
    }

    /// Nobody finds it any more.
    pub(super) fn remove(&self, client: &Client) {
        let mut table = self.table();
        table.by_peer.remove(&client.peer);
        table.by_connection.remove(&client.connection);
    }

    /// Closes those that are left.
    pub(super) async fn close(&self) {
        let left = std::mem::take(&mut *self.table());
        for client in left.by_peer.values() {
            client.pool.close().await;
        }
    }

    /// Sends datagrams, now or not at all; returns how many were not.
    pub(super) fn send(
        &self,
        connection: u64,
        datagrams: impl IntoIterator<Item = BytesMut>,
    ) -> usize {
        let client = self.table().by_connection.get(&connection).cloned();
        let mut datagrams = datagrams.into_iter();
        let Some(client) = client else {
            return datagrams.count();
        };
        let mut drops = DropCounters::default();
        let mut unsent = 0;
        let mut batch = PacketBatch::new(datagrams.size_hint().0.clamp(1, BATCH), 0);
        loop {
            for datagram in datagrams.by_ref().take(batch.room()) {
                // There is room for as many as it has.
                let _ = batch.push(Packet::new(datagram, 0));
            }
            let offered = batch.len();
            if offered == 0 {
                return unsent;
            }
            let sent = client.pool.try_send(&mut batch, &mut drops);
            unsent += offered - sent.unwrap_or_default();
            batch.clear();
        }
    }
}
