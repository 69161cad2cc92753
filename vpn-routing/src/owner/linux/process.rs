//! Answers which process holds a socket: remembers, or asks the thread that searches.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use vpn_core::owner::{Conclusion, Doubt};
use vpn_core::{OwnerAnswer, OwnerQuery};

use super::choose::Found;
use super::search::{self, Holder, Process};

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
pub(super) struct Processes {
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

impl Processes {
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
        if let Some(conclusion) = self.shared.remembered(&found) {
            return conclusion.into();
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

impl Drop for Processes {
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
        let holders = search::holders(&wanted, &shared.stop, &mut |_, _, _| {});
        for inode in wanted {
            let nobody = Err(Doubt::ProcessHidden);
            let holder = holders.get(&inode).cloned().unwrap_or(nobody);
            shared.memory().insert(Instant::now(), inode, holder);
        }
        for (query, found) in batch {
            let hidden = Conclusion::Unknown(Doubt::ProcessHidden);
            let conclusion = shared.remembered(&found).unwrap_or(hidden);
            if answers.blocking_send((query, conclusion.into())).is_err() {
                return;
            }
        }
    }
}

impl Shared {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What follows if every socket is remembered: Known if the same kind of process holds all.
    fn remembered(&self, found: &Found) -> Option<Conclusion> {
        let mut holders = Vec::with_capacity(found.inodes.len());
        let (now, memory) = (Instant::now(), self.memory());
        for inode in &found.inodes {
            holders.push(memory.get(now, *inode)?);
        }
        drop(memory);
        match agreed(&holders) {
            // It may have executed another program since, or moved, or ended and left the socket
            // to a child.
            Ok(holder) if Process::read(holder.pid).as_ref() != Some(&holder.process) => None,
            Ok(holder) => Some(Conclusion::Known(found.owner(holder.process.clone()))),
            Err(doubt) => Some(Conclusion::Unknown(doubt)),
        }
    }
}

/// The one that stands for all, if all are the same.
pub(super) fn agreed(holders: &[Result<Holder, Doubt>]) -> Result<&Holder, Doubt> {
    let mut all = holders
        .iter()
        .map(|holder| holder.as_ref().map_err(|doubt| *doubt));
    let first = all.next().unwrap_or(Err(Doubt::ProcessHidden))?;
    for holder in all {
        if holder?.process != first.process {
            return Err(Doubt::SeveralProcesses);
        }
    }
    Ok(first)
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
    holder: Result<Holder, Doubt>,
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
    fn insert(&mut self, now: Instant, inode: u32, holder: Result<Holder, Doubt>) {
        let known = Remembered { holder, since: now };
        if self.holders.insert(inode, known).is_none() {
            self.order.push_back(inode);
        }
        while self.order.len() > self.bound.get() {
            if let Some(oldest) = self.order.pop_front() {
                self.holders.remove(&oldest);
            }
        }
    }

    fn get(&self, now: Instant, inode: u32) -> Option<Result<Holder, Doubt>> {
        let known = self.holders.get(&inode)?;
        let age = now.saturating_duration_since(known.since);
        if known.holder.is_err() && age > NEGATIVE_FOR {
            return None;
        }
        Some(known.holder.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: Result<Holder, Doubt> = Err(Doubt::ProcessHidden);

    fn holder(pid: u32, executable: &str, cgroup: &str) -> Result<Holder, Doubt> {
        let path = |text: &str| Some(Arc::from(std::path::Path::new(text)));
        Ok(Holder {
            pid,
            process: Process {
                executable: path(executable),
                cgroup: path(cgroup),
            },
        })
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        for inode in 0..MAX_CACHED as u32 + 10 {
            memory.insert(now, inode, HIDDEN);
        }
        assert_eq!(memory.holders.len(), MAX_CACHED);
        assert_eq!(memory.order.len(), MAX_CACHED);
        assert!(memory.get(now, 9).is_none());
        assert!(memory.get(now, 10).is_some());
    }

    #[test]
    fn what_was_not_found_is_searched_again_after_a_while_and_not_before() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.insert(now, 1, HIDDEN);
        memory.insert(now, 2, holder(9, "/usr/bin/curl", "/user.slice"));
        assert_eq!(memory.get(now + NEGATIVE_FOR, 1), Some(HIDDEN));
        let later = now + NEGATIVE_FOR + Duration::from_millis(1);
        assert_eq!(memory.get(later, 1), None);
        assert!(memory.get(later, 2).is_some());
    }

    #[test]
    fn sockets_of_one_port_need_the_same_program_in_the_same_group() {
        let curl = holder(9, "/usr/bin/curl", "/a");
        let again = holder(10, "/usr/bin/curl", "/a");
        let moved = holder(11, "/usr/bin/curl", "/b");
        let other = holder(12, "/usr/bin/wget", "/a");
        assert_eq!(agreed(&[curl.clone(), again]).unwrap().pid, 9);
        for stranger in [moved, other] {
            let both = [curl.clone(), stranger];
            assert_eq!(agreed(&both), Err(Doubt::SeveralProcesses));
        }
        assert_eq!(agreed(&[curl, HIDDEN]), Err(Doubt::ProcessHidden));
        assert_eq!(agreed(&[]), Err(Doubt::ProcessHidden));
    }
}
