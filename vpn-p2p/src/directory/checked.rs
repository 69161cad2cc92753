//! What a directory says, checked and remembered: whoever holds one gets only records that are
//! believed, the newest that was ever seen, and asks no more often than the cache lets it.
//!
//! Where the directory cannot be reached, records that are still valid are used. Several that ask the
//! same at once ask once. Of what an address's claimants are returned, whose it is comes first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use vpn_core::{Authority, DirectoryError, PeerDirectory, PeerId, PeerRecord};

use super::book::Book;
use super::cache::{Cache, CacheConfig, Question, Remembered};
use super::clock::UnixClock;
use super::records::RecordError;

/// A directory whose answers are checked and remembered.
#[derive(Debug)]
pub struct CheckedDirectory<D> {
    inner: D,
    clock: UnixClock,
    seen: Mutex<Seen>,
    /// Who asks something holds its lock meanwhile.
    asking: Asking,
    counts: Counts,
}

#[derive(Debug)]
struct Seen {
    book: Book,
    cache: Cache,
}

type Asking = Mutex<HashMap<Question, Arc<tokio::sync::Mutex<()>>>>;

/// A place in the queue of those who ask the same. Given up when it is dropped, so that a lookup which
/// is cancelled leaves no entry behind.
struct Turn<'a> {
    asking: &'a Asking,
    question: Question,
    mutex: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Turn<'a> {
    fn of(asking: &'a Asking, question: Question) -> Self {
        let mut all = asking.lock().unwrap_or_else(PoisonError::into_inner);
        let mutex = Arc::clone(all.entry(question).or_default());
        Self {
            asking,
            question,
            mutex,
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut all = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // This one's and the table's: nobody else waits.
        if Arc::strong_count(&self.mutex) <= 2 {
            all.remove(&self.question);
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    remembered: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
    stale: AtomicU64,
    refused: AtomicU64,
    conflicts: AtomicU64,
}

/// What became of lookups, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// Answered without asking.
    pub remembered: u64,
    /// Asked of the directory.
    pub asked: u64,
    /// Of these, not answered.
    pub failed: u64,
    /// Of these, answered with what was remembered.
    pub stale: u64,
    /// Records that were not believed.
    pub refused: u64,
    /// Conflicts over an address that were noticed.
    pub conflicts: u64,
}

impl<D: PeerDirectory> CheckedDirectory<D> {
    /// Checks by the terms and members of this book; it may have records already.
    pub fn new(inner: D, book: Book, cache: CacheConfig, clock: UnixClock) -> Self {
        let cache = Cache::new(cache);
        Self {
            inner,
            clock,
            seen: Mutex::new(Seen { book, cache }),
            asking: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// The directory behind it.
    pub const fn inner(&self) -> &D {
        &self.inner
    }

    /// What became of lookups.
    pub fn counts(&self) -> LookupCounts {
        let of = |count: &AtomicU64| count.load(Relaxed);
        LookupCounts {
            remembered: of(&self.counts.remembered),
            asked: of(&self.counts.asked),
            failed: of(&self.counts.failed),
            stale: of(&self.counts.stale),
            refused: of(&self.counts.refused),
            conflicts: of(&self.counts.conflicts),
        }
    }

    /// All records that are valid now, to be written to a file for the next start, say.
    pub fn records(&self) -> Vec<PeerRecord> {
        let now = self.clock.now();
        self.seen().book.records(now).cloned().collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Believes a record or not; what is not newer is nothing new. Whether the book changed.
    fn enter(&self, record: PeerRecord) -> bool {
        let now = self.clock.now();
        let (peer, sequence) = (record.peer, record.sequence);
        let mut seen = self.seen();
        let before = seen.book.get(peer, now);
        let before = before.map_or_else(Vec::new, |record| record.addresses.clone());
        match seen.book.insert(record.clone(), now) {
            Ok(conflicts) => {
                for address in before {
                    seen.cache.forget(Question::Address(address));
                }
                seen.cache.learn(&record, now);
                self.counts
                    .conflicts
                    .fetch_add(conflicts.len() as u64, Relaxed);
                conflicts.iter().for_each(super::Conflict::report);
                true
            }
            Err(RecordError::Old { have }) if have == sequence => false,
            Err(error) => {
                self.counts.refused.fetch_add(1, Relaxed);
                tracing::debug!(%peer, %error, "a directory's record is not believed");
                false
            }
        }
    }

    /// How many questions somebody asks or waits for.
    #[cfg(test)]
    pub(super) fn asking_for_test(&self) -> usize {
        let asking = self.asking.lock();
        asking.unwrap_or_else(PoisonError::into_inner).len()
    }

    #[cfg(test)]
    pub(super) fn enter_for_test(&self, record: PeerRecord) {
        self.enter(record);
    }

    /// What the book says, whoever told it.
    fn known(&self, question: Question) -> Vec<PeerRecord> {
        let now = self.clock.now();
        let book = &self.seen().book;
        match question {
            Question::Peer(peer) => book.get(peer, now).cloned().into_iter().collect(),
            Question::Address(address) => book.claimants(address, now).cloned().collect(),
        }
    }

    async fn look_up(&self, question: Question) -> Result<Vec<PeerRecord>, DirectoryError> {
        if let Some(found) = self.remembered(question) {
            return Ok(found);
        }
        let turn = Turn::of(&self.asking, question);
        let held = turn.mutex.lock().await;
        // Whoever asked before may have brought the answer.
        let answer = match self.remembered(question) {
            Some(found) => Ok(found),
            None => self.ask(question).await,
        };
        drop(held);
        answer
    }

    fn remembered(&self, question: Question) -> Option<Vec<PeerRecord>> {
        let Remembered::Fresh(found) = self.seen().cache.get(question, self.clock.now()) else {
            return None;
        };
        self.counts.remembered.fetch_add(1, Relaxed);
        Some(found)
    }

    async fn ask(&self, question: Question) -> Result<Vec<PeerRecord>, DirectoryError> {
        self.counts.asked.fetch_add(1, Relaxed);
        let answer = match question {
            Question::Peer(peer) => self.inner.resolve(peer).await.map(Vec::from_iter),
            Question::Address(address) => self.inner.resolve_address(address).await,
        };
        // Where the directory decides, it is not outvoted by what was claimed before.
        let decides = matches!(question, Question::Address(_))
            && self.inner.authority() == Authority::Directory;
        match answer {
            Ok(records) => {
                let named: Vec<PeerId> = records.iter().map(|record| record.peer).collect();
                for record in records {
                    self.enter(record);
                }
                let mut found = self.known(question);
                found.retain(|record| !decides || named.contains(&record.peer));
                let now = self.clock.now();
                self.seen().cache.put(question, found.clone(), now);
                Ok(found)
            }
            Err(error) => {
                self.counts.failed.fetch_add(1, Relaxed);
                let known = self.known(question);
                if known.is_empty() || decides {
                    return Err(error);
                }
                self.counts.stale.fetch_add(1, Relaxed);
                Ok(known)
            }
        }
    }
}

#[async_trait]
impl<D: PeerDirectory> PeerDirectory for CheckedDirectory<D> {
    /// Own records are checked as well: one that nobody would believe is an error here already.
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        let checked =
            super::Valid::check(record.clone(), self.seen().book.terms(), self.clock.now());
        checked.map_err(|error| error.of(record.sequence))?;
        self.inner.publish(record.clone()).await?;
        self.enter(record);
        Ok(())
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        let mut found = self.look_up(Question::Peer(peer)).await?;
        Ok(found.pop())
    }

    /// That of the directory behind it.
    fn authority(&self) -> Authority {
        self.inner.authority()
    }

    /// Whose it is first.
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        self.look_up(Question::Address(address)).await
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        loop {
            let record = self.inner.changed().await?;
            let (peer, sequence) = (record.peer, record.sequence);
            // It may be known already, by a lookup or since we published it, and is news all the same.
            self.enter(record);
            let now = self.clock.now();
            let book = &self.seen().book;
            if let Some(known) = book.get(peer, now).filter(|r| r.sequence == sequence) {
                return Ok(known.clone());
            }
        }
    }
}
