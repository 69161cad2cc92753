//! What can go wrong, and the exit code it gets.

use std::path::{Path, PathBuf};

use vpn_examples::file::FileError;
use vpn_p2p::identity::IdentityError;

/// Every error names the file, key or socket it is about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A configuration cannot be read, or makes no sense.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key cannot be read, made or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// The control socket does not answer, or refuses.
    #[error("control socket {}", path.display())]
    Control {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// The system refuses a part of it.
    #[error("{what}")]
    System {
        what: String,
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

impl Error {
    /// 2 for what the user can correct in files and arguments, 1 for what went wrong at run time.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::File(_) | Self::Identity(_) | Self::Argument(_) | Self::Control { .. } => 2,
            _ => 1,
        }
    }

    /// For `map_err` of what a control socket does.
    pub(crate) fn control(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Control { path, cause }
    }
}

/// For `map_err` of what the system refuses.
pub(crate) fn system<E>(what: impl Into<String>) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let what = what.into();
    move |cause| Error::System {
        what,
        cause: Box::new(cause),
    }
}
