//! A peer directory of your own: a table that keeps the newest record of each peer and tells
//! watchers. Records are opaque to it; whoever uses one verifies its signature. The conformance kit
//! checks it.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::collections::HashMap;
use std::error::Error;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use vpn_core::testing::conformance::{DirectoryFixture, peer_directory};
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord};

/// Changes that nobody has taken yet are kept, up to this many; beyond, the oldest is forgotten,
/// since a record can always be asked for.
const MAX_CHANGES: usize = 1024;

#[derive(Debug, Default)]
struct Table {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    records: HashMap<PeerId, PeerRecord>,
    changes: std::collections::VecDeque<PeerId>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PeerDirectory for Table {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        {
            let mut inner = self.lock();
            if let Some(have) = inner.records.get(&record.peer).map(|r| r.sequence)
                && have >= record.sequence
            {
                return Err(DirectoryError::Stale {
                    have,
                    offered: record.sequence,
                });
            }
            inner.changes.push_back(record.peer);
            if inner.changes.len() > MAX_CHANGES {
                inner.changes.pop_front();
            }
            inner.records.insert(record.peer, record);
        }
        self.news.notify_one();
        Ok(())
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        Ok(self.lock().records.get(&peer).cloned())
    }

    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        let inner = self.lock();
        let claims = inner
            .records
            .values()
            .filter(|r| r.addresses.contains(&address));
        Ok(claims.cloned().collect())
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        loop {
            // `notify_one` leaves a permit, so a change before this line wakes it too.
            let news = self.news.notified();
            {
                let mut inner = self.lock();
                while let Some(peer) = inner.changes.pop_front() {
                    if let Some(record) = inner.records.get(&peer) {
                        return Ok(record.clone());
                    }
                }
            }
            news.await;
        }
    }
}

/// An empty table for each clause of the contract.
struct Fixture(Table);

impl DirectoryFixture for Fixture {
    fn directory(&self) -> &dyn PeerDirectory {
        &self.0
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Records are found, newer ones replace older ones, stale ones are refused, and no change is
    // lost: the suite says which clause is broken, if one is.
    peer_directory(async || Fixture(Table::default())).await?;

    let alice = Fixture(Table::default()).record(7, 1, 9);
    let directory = Table::default();
    directory.publish(alice.clone()).await?;
    let found = directory.resolve_address(alice.addresses[0]).await?;
    assert_eq!(found, [alice]);
    println!("the table keeps the contract of a directory");
    Ok(())
}
