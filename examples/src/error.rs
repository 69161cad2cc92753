//! What can go wrong in a program of a mesh, and the exit code it gets.

use std::path::{Path, PathBuf};

use vpn_p2p::identity::IdentityError;

use crate::file::FileError;
use crate::program::Fails;

/// Every error names the file, key or socket it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key cannot be read, made or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Path {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// The control socket does not answer, or refuses.
    #[error("control socket {}", path.display())]
    Control {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// Nobody answered.
    #[error("{0}")]
    Unanswered(String),
    /// The system refuses a part of it.
    #[error("{what}")]
    System {
        /// Which part.
        what: String,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The terminal cannot be written to.
    #[error("the terminal")]
    Terminal(#[source] std::io::Error),
    /// No runtime.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

impl Fails for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::File(_)
            | Self::Identity(_)
            | Self::Path { .. }
            | Self::Argument(_)
            | Self::Control { .. } => 2,
            _ => 1,
        }
    }

    fn no_runtime(cause: std::io::Error) -> Self {
        Self::Runtime(cause)
    }
}

impl Error {
    /// For `map_err` of what a control socket does.
    pub fn control(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Control { path, cause }
    }

    /// For `map_err` of what happens to a file.
    pub fn path(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Path { path, cause }
    }
}

/// For `map_err` of what the system refuses.
pub fn system<E>(what: impl Into<String>) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let what = what.into();
    move |cause| Error::System {
        what,
        cause: Box::new(cause),
    }
}
