//! A directory within one process: a book behind a lock, for tests, and for programs that learn of
//! peers in a way of their own.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord};

use super::book::Book;
use super::clock::UnixClock;
use super::news::News;
use super::records::Terms;

/// A directory in memory. Takes only records that are valid and newer, unlike its double for tests of
/// other crates, `vpn_core::testing::MemoryDirectory`, which believes everything.
#[derive(Debug)]
pub struct MemoryDirectory {
    book: Mutex<Book>,
    news: News,
    clock: UnixClock,
}

impl MemoryDirectory {
    /// An empty one for records on these terms, with the system's clock.
    pub fn new(terms: Terms) -> Self {
        Self::with(Book::new(terms), UnixClock::default())
    }

    /// One that begins with this book.
    pub fn with(book: Book, clock: UnixClock) -> Self {
        Self {
            book: Mutex::new(book),
            news: News::default(),
            clock,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PeerDirectory for MemoryDirectory {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        let (peer, offered) = (record.peer, record.sequence);
        let entered = self.book().insert(record, self.clock.now());
        let conflicts = entered.map_err(|error| error.of(offered))?;
        for conflict in conflicts {
            conflict.report();
        }
        self.news.tell(peer);
        Ok(())
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        Ok(self.book().get(peer, self.clock.now()).cloned())
    }

    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        let book = self.book();
        Ok(book.claimants(address, self.clock.now()).cloned().collect())
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        let look = |peer| self.book().get(peer, self.clock.now()).cloned();
        Ok(self.news.next(look).await)
    }
}
