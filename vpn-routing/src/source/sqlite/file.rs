//! Touches the file: makes it, checks who may write it, opens it, notices that it was replaced.

use std::fs::{Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{BUSY_TIMEOUT, SCHEMA_VERSION, SqliteError};
use crate::source::permission::{self, Refused};

/// `IS` in place of `=` and no NULL in a key: that is why matches are compared in SQL column by
/// column. `AUTOINCREMENT`: an id is never used again, so a newer rule has a larger one.
const SCHEMA: &str = "
    CREATE TABLE rules (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        uid INTEGER,
        exe,
        dst TEXT,
        port_first INTEGER,
        port_last INTEGER,
        proto TEXT,
        action TEXT NOT NULL,
        tunnel TEXT,
        cgroup TEXT,
        package TEXT,
        src TEXT,
        iif TEXT,
        domain TEXT,
        family TEXT,
        on_change TEXT,
        on_down TEXT
    );";

/// From version 1 to version 2.
const ADD_COLUMNS: &str = "
    ALTER TABLE rules ADD COLUMN cgroup TEXT;
    ALTER TABLE rules ADD COLUMN package TEXT;
    ALTER TABLE rules ADD COLUMN src TEXT;
    ALTER TABLE rules ADD COLUMN iif TEXT;
    ALTER TABLE rules ADD COLUMN domain TEXT;
    ALTER TABLE rules ADD COLUMN family TEXT;
    ALTER TABLE rules ADD COLUMN on_change TEXT;
    ALTER TABLE rules ADD COLUMN on_down TEXT;
    PRAGMA user_version = 2;";

/// Held while a file is made. Closing *any* descriptor of a file drops every POSIX lock that the
/// process holds on it, those of SQLite included: so the file is opened by nobody but SQLite, and
/// the descriptor that made it is closed before another thread can open it.
static MAKING: Mutex<()> = Mutex::new(());

/// Which file a path names.
pub(super) type FileId = (u64, u64);

/// An open database and the file it is.
#[derive(Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    connection: Connection,
    id: FileId,
}

impl OpenFile {
    /// Opens the file, or makes it.
    pub(super) fn open_or_make(path: &Path) -> Result<Self, SqliteError> {
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        match options.open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            // A read-only directory says this also when the file exists: `open` tells.
            Err(_) if path.exists() => {}
            Err(source) => {
                let path = path.into();
                return Err(SqliteError::Open { path, source });
            }
        }
        Self::open(path)
    }

    /// Opens the file, which must exist.
    pub(super) fn open(path: &Path) -> Result<Self, SqliteError> {
        let id = check(path)?;
        let at = SqliteError::at(path);
        // Falls back to reading only, by itself, where the file may not be written.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(&at)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(&at)?;
        prepare(path, &mut connection)?;
        Ok(Self {
            path: path.into(),
            connection,
            id,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Checks permissions again, and opens the file anew if the path names another one now.
    pub(super) fn follow(&mut self) -> Result<(), SqliteError> {
        if check(&self.path)? != self.id {
            *self = Self::open(&self.path)?;
        }
        Ok(())
    }
}

/// Which file a path names; `None` if there is none.
pub(super) fn identify(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|meta| id(&meta))
}

fn id(meta: &Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

fn check(path: &Path) -> Result<FileId, SqliteError> {
    let path_of = || path.to_owned();
    let meta = permission::check(path).map_err(|why| match why {
        Refused::Open(source) => SqliteError::Open {
            path: path_of(),
            source,
        },
        Refused::NotAFile => SqliteError::NotAFile { path: path_of() },
        Refused::WorldWritable(mode) => SqliteError::WorldWritable {
            path: path_of(),
            mode,
        },
    })?;
    Ok(id(&meta))
}

/// Version of the tables.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings tables of an older version to this one, within the caller's transaction.
pub(super) fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    if version(connection)? == 1 {
        connection.execute_batch(ADD_COLUMNS)?;
    }
    Ok(())
}

/// Refuses tables of a newer version.
pub(super) fn check_version(path: &Path, found: i32) -> Result<(), SqliteError> {
    if (1..=SCHEMA_VERSION).contains(&found) {
        return Ok(());
    }
    Err(SqliteError::Newer {
        path: path.into(),
        found,
        known: SCHEMA_VERSION,
    })
}

/// Makes the tables in a new file, or checks those that are there.
fn prepare(path: &Path, connection: &mut Connection) -> Result<(), SqliteError> {
    let at = SqliteError::at(path);
    let tables = |c: &Connection, name: &str| {
        let sql = "SELECT count(*) FROM sqlite_master WHERE name LIKE ?1";
        c.query_row(sql, [name], |row| row.get::<_, i64>(0))
    };
    if version(connection).map_err(&at)? == 0i32 {
        let begin = TransactionBehavior::Immediate;
        let transaction = connection.transaction_with_behavior(begin).map_err(&at)?;
        // Another process may have been first.
        if version(&transaction).map_err(&at)? == 0i32 {
            if tables(&transaction, "%").map_err(&at)? > 0 {
                return Err(SqliteError::NotRules { path: path.into() });
            }
            transaction.execute_batch(SCHEMA).map_err(&at)?;
            transaction
                .pragma_update(None, "user_version", SCHEMA_VERSION)
                .map_err(&at)?;
            transaction.commit().map_err(&at)?;
        }
    }
    let found = version(connection).map_err(&at)?;
    if tables(connection, "rules").map_err(&at)? == 0 {
        return Err(SqliteError::NotRules { path: path.into() });
    }
    check_version(path, found)
}
