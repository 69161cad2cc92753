//! What can be wrong with a TOML file of rules. Every variant names the file.

use std::path::{Path, PathBuf};

use vpn_core::rule::RuleSourceError;

use super::MAX_BYTES;
use crate::source::permission::Refused;

/// Why a TOML file of rules cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TomlError {
    /// The file cannot be read. Check that the path and its permissions are right.
    #[error("{path}: cannot be read; check the path and its permissions", path = path.display())]
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
    /// The file is larger than 16 MiB. Use prefixes and port ranges to say it in fewer
    /// rules, or a database.
    #[error("{path}: larger than {MAX_BYTES} bytes; say it in fewer rules", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is empty, as one that is just being written is. Write a comment in it if no rules
    /// are meant.
    #[error("{path}: empty; write a comment in it if no rules are meant", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is not TOML, or says something at top level that is not about rules.
    #[error("{path}:{line}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A rule makes no sense. Correct the key that is named.
    #[error("{path}:{line}: [[{table}]] number {place}: {key}: {problem}", path = path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// `rule`, `inbound` or `filter`.
        table: &'static str,
        /// Which of these tables, counted from 1.
        place: u32,
        /// The key.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
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
}

impl TomlError {
    pub(super) fn refused(path: &Path) -> impl FnOnce(Refused) -> Self + '_ {
        let path = path.to_owned();
        move |why| match why {
            Refused::Open(source) => Self::Open { path, source },
            Refused::NotAFile => Self::NotAFile { path },
            Refused::WorldWritable(mode) => Self::WorldWritable { path, mode },
        }
    }
}

impl From<TomlError> for RuleSourceError {
    fn from(error: TomlError) -> Self {
        match error {
            TomlError::Syntax {
                path,
                line,
                message,
            } => Self::Invalid {
                place: path.display().to_string(),
                entry: format!("line {line}"),
                problem: message,
            },
            TomlError::Entry {
                path,
                line,
                table,
                place,
                key,
                problem,
            } => Self::Invalid {
                place: path.display().to_string(),
                entry: format!("line {line}, [[{table}]] number {place}"),
                problem: format!("{key}: {problem}"),
            },
            other => Self::Unavailable {
                place: "the TOML file".into(),
                cause: other.into(),
            },
        }
    }
}
