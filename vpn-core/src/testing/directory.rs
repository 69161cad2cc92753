//! A directory that is a table.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::directory::{DirectoryError, PeerDirectory, PeerId, PeerRecord};

/// Changes that nobody has taken yet; beyond, the oldest is forgotten, since its record can be
/// asked for.
const MAX_CHANGES: usize = 1024;

/// A directory in memory. It checks no signature, as no directory does.
#[derive(Debug, Default)]
pub struct MemoryDirectory {
    table: Mutex<Table>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Table {
    records: HashMap<PeerId, PeerRecord>,
    changes: VecDeque<PeerId>,
}

impl MemoryDirectory {
    /// Nobody is in it.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<PeerRecord> {
        let mut table = self.lock();
        let peer = table.changes.pop_front()?;
        table.records.get(&peer).cloned()
    }
}

#[async_trait]
impl PeerDirectory for MemoryDirectory {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        let mut table = self.lock();
        let have = table.records.get(&record.peer).map(|r| r.sequence);
        if let Some(have) = have.filter(|have| *have >= record.sequence) {
            let offered = record.sequence;
            return Err(DirectoryError::Stale { have, offered });
        }
        if !table.changes.contains(&record.peer) {
            table.changes.push_back(record.peer);
        }
        if table.changes.len() > MAX_CHANGES {
            table.changes.pop_front();
        }
        table.records.insert(record.peer, record);
        drop(table);
        self.news.notify_waiters();
        Ok(())
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        Ok(self.lock().records.get(&peer).cloned())
    }

    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        let table = self.lock();
        let claims = table.records.values();
        let claims = claims.filter(|record| record.addresses.contains(&address));
        Ok(claims.cloned().collect())
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        loop {
            // Enabled before the table is read, so that no change in between is missed.
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if let Some(record) = self.next() {
                return Ok(record);
            }
            news.await;
        }
    }
}
