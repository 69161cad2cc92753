//! Which peers exist, and where. Provisional until the mesh uses it.

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// A peer's identity: its Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub [u8; 32]);

impl Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What a peer says about itself, signed with its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// Whose record.
    pub peer: PeerId,
    /// The virtual addresses it claims.
    pub addresses: Vec<IpAddr>,
    /// Larger is newer; a smaller or equal one never replaces a record.
    pub sequence: u64,
    /// When it stops being valid, in seconds since the Unix epoch.
    pub expires: u64,
    /// Session key, candidates and what else the mesh needs, in its own encoding.
    pub body: Bytes,
    /// Ed25519 signature over all of the above.
    pub signature: Bytes,
}

/// Why a directory could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The directory cannot be reached; try again later.
    #[error("the directory cannot be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The record is not newer than the one that is there.
    #[error("the directory has sequence {have} for this peer, not older than {offered}")]
    Stale {
        /// Sequence number in the directory.
        have: u64,
        /// Sequence number that was offered.
        offered: u64,
    },
}

/// Finds peers. Records are opaque to it: whoever uses one verifies its signature and expiry.
#[async_trait]
pub trait PeerDirectory: Debug + Send + Sync {
    /// Makes a record known to others.
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError>;

    /// The newest record of a peer; `None` if there is none.
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError>;

    /// The newest record that claims a virtual address; `None` if there is none.
    async fn resolve_address(&self, address: IpAddr) -> Result<Option<PeerRecord>, DirectoryError>;

    /// The next record that is new or changed. Cancel-safe.
    async fn changed(&self) -> Result<PeerRecord, DirectoryError>;
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        impl<T: PeerDirectory + ?Sized> PeerDirectory for $pointer {
            async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
                (**self).publish(record).await
            }
            async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
                (**self).resolve(peer).await
            }
            async fn resolve_address(
                &self,
                address: IpAddr,
            ) -> Result<Option<PeerRecord>, DirectoryError> {
                (**self).resolve_address(address).await
            }
            async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
                (**self).changed().await
            }
        }
    )*};
}
forward!(Arc<T>, Box<T>);
