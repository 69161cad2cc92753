//! What can go wrong while a lab is made.

use std::path::PathBuf;
use std::time::Duration;

/// Why a lab, or a part of it, could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The kernel refused to make or enter a namespace. Run as root, or call
    /// [`enter_user_namespace`](crate::enter_user_namespace) first in `main`.
    #[error("cannot {action} the network namespace {label}")]
    Namespace {
        /// What was tried: `make`, `enter`, `open`.
        action: &'static str,
        /// The namespace's label.
        label: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A user namespace could not be entered.
    #[error("cannot enter a user namespace while {step}")]
    UserNamespace {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A thread of the lab could not be started, or ended early.
    #[error("the lab's thread {0} could not be started or has ended")]
    Thread(String),
    /// A program could not be started. Is it installed?
    #[error("cannot start `{program}`")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A program failed.
    #[error("`{command}` in {label} failed: {message}")]
    Failed {
        /// The whole command line.
        command: String,
        /// The namespace's label.
        label: String,
        /// What the program wrote to its standard error.
        message: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A socket of a service or a capture could not be made.
    #[error("cannot make {what}")]
    Socket {
        /// What it was to be.
        what: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// No region, interface or kind of that name.
    #[error("there is no {0}")]
    Unknown(String),
}

impl LabError {
    pub(crate) fn socket(what: impl Into<String>, cause: impl Into<std::io::Error>) -> Self {
        Self::Socket {
            what: what.into(),
            cause: cause.into(),
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, cause: std::io::Error) -> Self {
        Self::File {
            path: path.into(),
            cause,
        }
    }
}
