//! Answers which executable holds a socket: remembers, or asks the thread that searches.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use vpn_core::{OwnerAnswer, OwnerQuery};

use super::choose::Found;
use super::search::{self, Holder};

/// How many questions may wait for the search; more are Unknown at once. A pass takes
/// milliseconds and answers all of them.
pub const MAX_PENDING: usize = 1024;

/// How many sockets are remembered; the oldest is forgotten first.
pub const MAX_CACHED: usize = 4096;

/// How long "nobody we may look into" is remembered, so that an app we cannot see does not keep
/// the search busy.
const NEGATIVE_FOR: Duration = Duration::from_millis(500);

/// How many questions one pass answers, so that the first waits for no crowd.
const MAX_BATCH: usize = 256;

/// The memory, and the thread behind it, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Executables {
    shared: Arc<Shared>,
    questions: Option<SyncSender<Question>>,
    answers: tokio::sync::Mutex<mpsc::Receiver<(OwnerQuery, OwnerAnswer)>>,
    thread: Option<JoinHandle<()>>,
}

type Question = (OwnerQuery, Found);

#[derive(Debug)]
struct Shared {
    memory: Mutex<Memory>,
    stop: AtomicBool,
}

impl Executables {
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            memory: Mutex::new(Memory::default()),
            stop: AtomicBool::new(false),
        });
        let (questions, asked) = sync_channel(MAX_PENDING);
        let (answered, answers) = mpsc::channel(MAX_PENDING);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("owner-search".into())
            .spawn(move || run(&theirs, &asked, &answered))?;
        Ok(Self {
            shared,
            questions: Some(questions),
            answers: tokio::sync::Mutex::new(answers),
            thread: Some(thread),
        })
    }

    /// From memory, or Pending.
    pub(super) fn resolve(&self, query: OwnerQuery, found: Found) -> OwnerAnswer {
        if let Some(answer) = self.shared.remembered(&found) {
            return answer;
        }
        let sent = self.questions.as_ref().map(|q| q.try_send((query, found)));
        match sent {
            Some(Ok(())) => OwnerAnswer::Pending,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                OwnerAnswer::Unknown
            }
        }
    }

    pub(super) async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
        match self.answers.lock().await.recv().await {
            Some(answer) => answer,
            // The thread is gone: nothing was left pending that could be answered.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Executables {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        drop(self.questions.take());
        self.answers.get_mut().close();
        if let Some(thread) = self.thread.take() {
            // At most one process's descriptors.
            let _ = thread.join();
        }
    }
}

fn run(
    shared: &Shared,
    questions: &Receiver<Question>,
    answers: &mpsc::Sender<(OwnerQuery, OwnerAnswer)>,
) {
    while let Ok(first) = questions.recv() {
        if shared.stop.load(Relaxed) {
            return;
        }
        let mut batch = vec![first];
        batch.extend(questions.try_iter().take(MAX_BATCH - 1));
        let mut wanted: Vec<u32> = batch.iter().flat_map(|(_, f)| f.inodes.clone()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let holders = search::holders(&wanted, &shared.stop);
        for inode in wanted {
            // Not found and "different executables" are the same to whoever asks.
            let holder = holders.get(&inode).cloned().flatten();
            shared.memory().insert(inode, holder);
        }
        for (query, found) in batch {
            let answer = shared.remembered(&found).unwrap_or(OwnerAnswer::Unknown);
            if answers.blocking_send((query, answer)).is_err() {
                return;
            }
        }
    }
}

impl Shared {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer if every socket is remembered: Known if all are held by one executable.
    fn remembered(&self, found: &Found) -> Option<OwnerAnswer> {
        let mut holders = Vec::with_capacity(found.inodes.len());
        let memory = self.memory();
        for inode in &found.inodes {
            holders.push(memory.get(*inode)?);
        }
        drop(memory);
        let first = holders.first().cloned().flatten();
        let same = |f: &Holder, h: &Option<Holder>| {
            h.as_ref().is_some_and(|h| h.executable == f.executable)
        };
        let Some(holder) = first.filter(|f| holders.iter().all(|h| same(f, h))) else {
            return Some(OwnerAnswer::Unknown);
        };
        // It may have executed another program since, or ended and left the socket to a child.
        if search::executable_of(holder.pid).as_ref() != Some(&holder.executable) {
            return None;
        }
        Some(OwnerAnswer::Known(found.owner(Some(holder.executable))))
    }
}

/// What is known of sockets, by inode; the oldest leaves first.
#[derive(Debug)]
struct Memory {
    holders: hashbrown::HashMap<u32, Remembered, foldhash::quality::RandomState>,
    order: std::collections::VecDeque<u32>,
    bound: NonZeroUsize,
}

#[derive(Debug)]
struct Remembered {
    holder: Option<Holder>,
    since: Instant,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            holders: Default::default(),
            order: Default::default(),
            bound: NonZeroUsize::new(MAX_CACHED).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

impl Memory {
    fn insert(&mut self, inode: u32, holder: Option<Holder>) {
        let since = Instant::now();
        if self
            .holders
            .insert(inode, Remembered { holder, since })
            .is_none()
        {
            self.order.push_back(inode);
        }
        while self.order.len() > self.bound.get() {
            if let Some(oldest) = self.order.pop_front() {
                self.holders.remove(&oldest);
            }
        }
    }

    fn get(&self, inode: u32) -> Option<Option<Holder>> {
        let known = self.holders.get(&inode)?;
        if known.holder.is_none() && known.since.elapsed() > NEGATIVE_FOR {
            return None;
        }
        Some(known.holder.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let mut memory = Memory::default();
        for inode in 0..MAX_CACHED as u32 + 10 {
            memory.insert(inode, None);
        }
        assert_eq!(memory.holders.len(), MAX_CACHED);
        assert_eq!(memory.order.len(), MAX_CACHED);
        assert!(memory.get(9).is_none());
        assert!(memory.get(10).is_some());
    }
}
