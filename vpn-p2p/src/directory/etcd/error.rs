//! What can be wrong with a directory over etcd.

use std::time::Duration;

use ipnet::IpNet;
use vpn_core::DirectoryError;

/// Why etcd did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// The configuration makes no sense.
    #[error("etcd: {0}")]
    Config(&'static str),
    /// It cannot be reached, or refuses: the cause says which. What is there goes on; it is asked again.
    #[error("etcd at {endpoints} cannot be asked")]
    Unavailable {
        /// Where it is.
        endpoints: String,
        /// What the client says.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer in time.
    #[error("etcd at {endpoints} does not answer within {after:?}")]
    Late {
        /// Where it is.
        endpoints: String,
        /// After which time it was given up.
        after: Duration,
    },
    /// All addresses of the prefix are other nodes'. Take a larger prefix, or wait until the lease of a
    /// node that is gone is over.
    #[error("all {size} addresses of {net} are taken")]
    Exhausted {
        /// The prefix.
        net: IpNet,
        /// How many addresses it has for nodes.
        size: u128,
    },
    /// Others were faster each time; try again.
    #[error("others were faster {tries} times for an address of {net}")]
    Contended {
        /// The prefix.
        net: IpNet,
        /// How often it was tried.
        tries: u32,
    },
    /// This directory was closed: start another.
    #[error("this directory was closed")]
    Closed,
}

impl From<EtcdError> for DirectoryError {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::Config(_) | EtcdError::Closed => Self::Refused(Box::new(error)),
            other => Self::Unavailable(Box::new(other)),
        }
    }
}
