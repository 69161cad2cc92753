//! The thread that notices that the file changed.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::error::TomlError;
use super::{LOOK_EVERY, POLL_EVERY, SETTLE};
use crate::source::changes::Changes;

/// However long the writing goes on, the file is read after this time; half of the 50 ms within
/// which a change must count.
const SETTLE_AT_MOST: Duration = Duration::from_millis(25);

/// Notices that may wait. Where there are more, the file is looked at anyway.
const NOTICES: usize = 256;

/// What the thread is told.
pub(super) enum Notice {
    /// Something in the folder changed; whether it was the file by its name.
    Folder {
        file: bool,
    },
    Stop,
}

/// Counts changes of the file; the thread behind it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    notices: mpsc::SyncSender<Notice>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Takes the baseline and starts the thread.
    pub(super) fn start(path: &Path, changes: Changes) -> Result<Self, TomlError> {
        let (notices, received) = mpsc::sync_channel(NOTICES);
        let mut look = Look::new(path, notices.clone());
        let thread = std::thread::Builder::new()
            .name("rules-watch".into())
            .spawn(move || {
                while let Some(changed) = look.wait(&received) {
                    if changed {
                        changes.count();
                    }
                }
            })
            .map_err(|source| TomlError::Watch {
                path: path.into(),
                source,
            })?;
        Ok(Self {
            notices,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It has ended by itself only if it panicked.
        let _ = self.notices.send(Notice::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What tells one state of a file from another: device, inode, size, and both times.
type State = (u64, u64, u64, (i64, i64), (i64, i64));

fn state(path: &Path) -> Option<State> {
    let meta = std::fs::metadata(path).ok()?;
    let (modified, changed) = (
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    );
    Some((meta.dev(), meta.ino(), meta.size(), modified, changed))
}

/// What the last look at the file saw, and what tells when to look again.
pub(super) struct Look {
    path: PathBuf,
    folder: PathBuf,
    notices: mpsc::SyncSender<Notice>,
    /// The folder it is of, by device and inode. `None` where the system cannot watch.
    watcher: Option<((u64, u64), RecommendedWatcher)>,
    /// When it was last tried to watch the folder.
    tried: Instant,
    seen: Option<State>,
}

impl Look {
    pub(super) fn new(path: &Path, notices: mpsc::SyncSender<Notice>) -> Self {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut look = Self {
            path: path.into(),
            folder,
            notices,
            watcher: None,
            tried: Instant::now(),
            seen: None,
        };
        look.watch_folder();
        look.seen = state(path);
        look
    }

    /// Waits until something may have changed: whether it did. `None` is the end.
    pub(super) fn wait(&mut self, notices: &mpsc::Receiver<Notice>) -> Option<bool> {
        let patience = match self.watcher {
            Some(_) => LOOK_EVERY,
            None => POLL_EVERY,
        };
        let mut named = false;
        match notices.recv_timeout(patience) {
            Ok(Notice::Folder { file }) => named |= file,
            Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if self.tried.elapsed() >= LOOK_EVERY => {
                self.watch_folder();
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let latest = Instant::now() + SETTLE_AT_MOST;
        let mut changed = self.differs() || named;
        // Somebody may be in the middle of writing.
        while changed && Instant::now() < latest {
            match notices.recv_timeout(SETTLE) {
                Ok(Notice::Folder { file }) => changed |= file,
                Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        changed |= self.differs();
        Some(changed)
    }

    /// Whether the file differs from the last look. One that is gone differs: a load then says so.
    fn differs(&mut self) -> bool {
        let now = state(&self.path);
        std::mem::replace(&mut self.seen, now) != now
    }

    /// Watches the folder that is at its path now.
    fn watch_folder(&mut self) {
        self.tried = Instant::now();
        let id = std::fs::metadata(&self.folder).map(|meta| (meta.dev(), meta.ino()));
        let Ok(id) = id else {
            self.watcher = None;
            return;
        };
        if self.watcher.as_ref().is_some_and(|(of, _)| *of == id) {
            return;
        }
        let (notices, name) = (
            self.notices.clone(),
            self.path.file_name().map(OsString::from),
        );
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let file = match event {
                // To be read is no change.
                Ok(event) if event.kind.is_access() => return,
                Ok(event) => event
                    .paths
                    .iter()
                    .any(|path| path.file_name() == name.as_deref()),
                // Too many changes at once, say: some are not told.
                Err(_) => true,
            };
            // Full, or the thread has ended.
            let _ = notices.try_send(Notice::Folder { file });
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        self.watcher = match watching {
            Ok(watcher) => Some((id, watcher)),
            Err(error) => {
                tracing::debug!(%error, "the folder of the rules cannot be watched; polling");
                None
            }
        };
    }
}
