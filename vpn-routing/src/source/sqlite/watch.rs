//! The thread that asks whether the file changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;

use rusqlite::{Connection, OpenFlags};

use super::file::{FileId, identify};
use super::{POLL_EVERY, SqliteError};
use crate::source::changes::Changes;

/// Counts changes of the file; the thread behind it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    changes: Changes,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Takes the baseline and starts the thread.
    pub(super) fn start(path: &Path) -> Result<Self, SqliteError> {
        let changes = Changes::new();
        let stop = Arc::new(AtomicBool::new(false));
        let mut poll = Poll {
            path: path.into(),
            file: None,
            seen: None,
        };
        poll.changed();
        let (counted, stopped) = (changes.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("rules-watch".into())
            .spawn(move || {
                while !stopped.load(SeqCst) {
                    std::thread::park_timeout(POLL_EVERY);
                    if poll.changed() {
                        counted.count();
                    }
                }
            })
            .map_err(|source| SqliteError::Watch {
                path: path.into(),
                source,
            })?;
        Ok(Self {
            changes,
            stop,
            thread: Some(thread),
        })
    }

    /// How many changes were seen.
    pub(super) fn seen(&self) -> u64 {
        self.changes.seen()
    }

    #[cfg(test)]
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Waits until more changes were seen. Cancel-safe.
    pub(super) async fn beyond(&self, seen: u64) {
        self.changes.beyond(seen).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // At most one question to SQLite, which does not wait for locks.
            let _ = thread.join();
        }
    }
}

/// What the last look at the file saw.
struct Poll {
    path: PathBuf,
    file: Option<(FileId, Connection)>,
    seen: Option<(FileId, i64)>,
}

impl Poll {
    /// Whether the file differs from the last look. A file that is gone or locked is no change:
    /// the next look tells.
    fn changed(&mut self) -> bool {
        let Some(now) = self.look() else {
            return false;
        };
        self.seen.replace(now) != Some(now)
    }

    fn look(&mut self) -> Option<(FileId, i64)> {
        let id = identify(&self.path)?;
        if self.file.as_ref().is_none_or(|(open, _)| *open != id) {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags).ok()?;
            self.file = Some((id, connection));
        }
        let (_, connection) = self.file.as_ref()?;
        let mut statement = connection.prepare_cached("PRAGMA data_version").ok()?;
        let version = statement.query_row([], |row| row.get(0)).ok()?;
        Some((id, version))
    }
}
