//! What can go wrong, and the exit code it gets.

use std::path::PathBuf;

use vpn_core::rule::RuleSourceError;
pub(crate) use vpn_examples::chain;
use vpn_examples::file::FileError;
use vpn_examples::program::Fails;

/// Every error names the file, key or socket it is about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be read.
    #[error("{}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// The configuration is not valid TOML, or has a wrong or unknown key.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        message: String,
    },
    /// The configuration is well-formed and makes no sense.
    #[error("{}: {key}: {problem}", path.display())]
    Config {
        path: PathBuf,
        key: String,
        problem: String,
    },
    /// A provider's file cannot be used.
    #[error("[tunnel.{tunnel}] {key}")]
    Provider {
        tunnel: String,
        key: &'static str,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A tunnel cannot be started.
    #[error("[tunnel.{tunnel}]")]
    Tunnel {
        tunnel: String,
        #[source]
        cause: vpn_p2p::wireguard::WireGuardError,
    },
    /// The rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RuleSourceError),
    /// The rules file cannot be used.
    #[error(transparent)]
    RulesFile(#[from] vpn_routing::source::SqliteError),
    /// The rules of the configuration cannot be used.
    #[error(transparent)]
    RulesTables(#[from] vpn_routing::source::TomlError),
    /// A rule cannot be put in force.
    #[error("{}: {problem}", path.display())]
    Rule { path: PathBuf, problem: String },
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// There is no way past the tunnels here.
    #[error("direct is not available here, and is asked for by {asked_by}")]
    Direct {
        asked_by: String,
        #[source]
        cause: vpn_tun::DirectError,
    },
    /// The interface cannot be made.
    #[error("[interface] name = \"{name}\"")]
    Device {
        name: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another program has the interface.
    #[error(
        "[interface] name = \"{name}\": it exists already: choose another name or stop the program \
         that owns it"
    )]
    InUse { name: String },
    /// The system refuses a part of the plan.
    #[error("{what}")]
    System {
        what: &'static str,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The control socket does not answer, or refuses.
    #[error("control socket {}", path.display())]
    Control {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// Nobody can ask for metrics there.
    #[error("metrics = \"{address}\"")]
    Metrics {
        address: std::net::SocketAddr,
        #[source]
        cause: std::io::Error,
    },
    /// The engine ended by itself.
    #[error("the engine ended")]
    Engine(#[from] vpn_routing::engine::EngineError),
    /// The engine is not there any more.
    #[error(transparent)]
    Gone(#[from] vpn_routing::engine::EngineGone),
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
            Self::Read { .. }
            | Self::Syntax { .. }
            | Self::Config { .. }
            | Self::Provider { .. }
            | Self::Rules(_)
            | Self::RulesFile(_)
            | Self::RulesTables(_)
            | Self::Rule { .. }
            | Self::Direct { .. }
            | Self::InUse { .. }
            | Self::Control { .. }
            | Self::Metrics { .. }
            | Self::Argument(_) => 2,
            _ => 1,
        }
    }

    fn no_runtime(cause: std::io::Error) -> Self {
        Self::Runtime(cause)
    }
}

/// For `map_err` of what the system refuses.
pub(crate) fn system<E>(what: &'static str) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |cause| Error::System {
        what,
        cause: Box::new(cause),
    }
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Read { path, cause } => Self::Read { path, cause },
            FileError::Syntax {
                path,
                line,
                message,
            } => Self::Syntax {
                path,
                line,
                message,
            },
            FileError::Config { path, key, problem } => Self::Config { path, key, problem },
        }
    }
}
