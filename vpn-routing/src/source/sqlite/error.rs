//! What can be wrong with a file of rules. Every variant names the file.

use std::path::PathBuf;

use vpn_core::rule::RuleSourceError;

/// Why a file of rules cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// The file cannot be read or made. Check that the path and its permissions are right.
    #[error("{path}: cannot be opened; check the path and its permissions", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The path names a directory or a device. Give the path of a file.
    #[error("{path}: not a regular file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Everybody may write the file and so decide where traffic goes. `chmod o-w` it.
    #[error("{path}: everybody may write it (mode {mode:04o}); run chmod o-w", path = path.display())]
    WorldWritable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not an SQLite database, or is damaged. Name another file, or restore it.
    #[error("{path}: not an SQLite database, or damaged", path = path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// It is a database, and not one of rules. Name another file.
    #[error("{path}: an SQLite database of something else (it has no table of rules)", path = path.display())]
    NotRules {
        /// The file.
        path: PathBuf,
    },
    /// A newer version made the file. Update this program.
    #[error("{path}: tables of version {found}, this program knows up to {known}; update it", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: i32,
        /// Version of this program.
        known: i32,
    },
    /// A row makes no sense. Correct or delete it.
    #[error("{path}: row {row}: column {column}: {problem}", path = path.display())]
    BadRow {
        /// The file.
        path: PathBuf,
        /// The row's id.
        row: i64,
        /// The column.
        column: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The rule cannot be stored by this version.
    #[error("{path}: {what} cannot be stored by this version", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What cannot.
        what: &'static str,
    },
    /// The thread that looks for changes cannot be started.
    #[error("{path}: the thread that watches it cannot be started", path = path.display())]
    Watch {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// SQLite reports another error; busy and locked pass by themselves.
    #[error("{path}: the database reports an error", path = path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
}

impl SqliteError {
    /// Names the file of an error of SQLite.
    pub(super) fn at(path: &std::path::Path) -> impl Fn(rusqlite::Error) -> Self + '_ {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, NotADatabase, PermissionDenied};
        move |source| match source.sqlite_error_code() {
            Some(NotADatabase | DatabaseCorrupt) => Self::NotADatabase { path: path.into() },
            Some(CannotOpen | PermissionDenied) => Self::Open {
                path: path.into(),
                source: std::io::Error::other(source),
            },
            _ => Self::Sqlite {
                path: path.into(),
                source,
            },
        }
    }
}

impl From<SqliteError> for RuleSourceError {
    fn from(error: SqliteError) -> Self {
        match error {
            SqliteError::BadRow {
                path,
                row,
                column,
                problem,
            } => Self::Invalid {
                place: path.display().to_string(),
                entry: format!("row {row}"),
                problem: format!("column {column}: {problem}"),
            },
            other => Self::Unavailable {
                place: "the SQLite file".into(),
                cause: other.into(),
            },
        }
    }
}
