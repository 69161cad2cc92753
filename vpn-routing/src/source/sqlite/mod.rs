//! Rules in an SQLite file that other processes may edit while it is in use.
//!
//! # Journal
//!
//! The file uses SQLite's rollback journal, not WAL: a reader then needs no `-shm` file beside
//! it, so it may lie in a directory that the daemon cannot write, and one file is all there is
//! to copy. Rules are few and rarely written; a reader waits for a writer no longer than
//! [`BUSY_TIMEOUT`].
//!
//! # Noticing changes
//!
//! SQLite's hooks see only their own connection. `PRAGMA data_version` (about a microsecond)
//! tells whether another one committed; a thread asks it every [`POLL_EVERY`], and whether the
//! path still names the same file (an editor or a restore may have replaced it). The thread ends
//! when the source is dropped.
//!
//! # Versions
//!
//! Tables of version 1 know users, executables, destinations, ports and protocols. They are read
//! as they are, so a file that must not be written keeps working, and get the columns of version
//! 2 with the first change. A version 1 program refuses the file from then on.
//!
//! What may start behind tunnels and the packet filter are kept in files of the source
//! `TomlRules` only.
//!
//! # Who may write
//!
//! Rules decide what leaves by which tunnel, so a file that everybody may write is refused. A new
//! file is readable and writable by its owner only.
//!
//! Nothing here runs on an async worker: loads go to the blocking pool. The editing functions
//! block the caller, up to [`BUSY_TIMEOUT`]; they are meant for a command line.

mod edit;
mod error;
mod file;
mod row;
#[cfg(test)]
mod tests;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use vpn_core::rule::RuleSourceError;
use vpn_core::{Rule, RuleSnapshot, RuleSource};

pub use error::SqliteError;
use file::OpenFile;
use watch::Watch;

/// Version of the tables, in the file's `user_version`.
pub const SCHEMA_VERSION: i32 = 2;

/// How often the file is asked whether it changed. A fifth of the 50 ms within which a change
/// must count.
pub const POLL_EVERY: Duration = Duration::from_millis(10);

/// How long to wait for another process that is writing.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Rules in an SQLite file. See the [crate documentation of sources](crate::source).
#[derive(Debug)]
pub struct SqliteRules {
    file: Arc<Mutex<OpenFile>>,
    path: PathBuf,
    watch: Watch,
    /// Which change the last `load` saw.
    loaded: AtomicU64,
}

impl SqliteRules {
    /// Opens the file; makes it (mode 0600, without rules) if it is missing.
    ///
    /// Blocks for a few milliseconds.
    ///
    /// # Errors
    ///
    /// Every error names the file: it cannot be read or made, is no regular file, may be written
    /// by everybody, is no database, is a database of something else, or is of a newer version.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SqliteError> {
        let path = path.into();
        let file = OpenFile::open_or_make(&path)?;
        // Its baseline is taken before anything is loaded, so no change falls in between.
        let watch = Watch::start(&path)?;
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
            path,
            watch,
            loaded: AtomicU64::new(0),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All rules, oldest first. Blocks.
    ///
    /// # Errors
    ///
    /// A row that makes no sense is named with its column; none of the rules is returned then.
    pub fn list(&self) -> Result<Vec<Rule>, SqliteError> {
        read(&self.file)
    }
}

fn read(file: &Mutex<OpenFile>) -> Result<Vec<Rule>, SqliteError> {
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    file.follow()?;
    row::read_all(file.path(), file.connection())
}

#[async_trait]
impl RuleSource for SqliteRules {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        // Before reading: a change during the read counts as not loaded.
        let seen = self.watch.seen();
        let file = Arc::clone(&self.file);
        let rules = tokio::task::spawn_blocking(move || read(&file)).await;
        // Also where that failed: who asks tries again in time, and not without pause.
        self.loaded.store(seen, SeqCst);
        let rules = rules.map_err(|cause| RuleSourceError::Unavailable {
            place: self.path.display().to_string(),
            cause: cause.into(),
        })??;
        Ok(RuleSnapshot::from(rules))
    }

    async fn changed(&self) {
        self.watch.beyond(self.loaded.load(SeqCst)).await;
    }
}
