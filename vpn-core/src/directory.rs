//! Which peers exist, and where.
//!
//! A directory keeps signed records and believes nothing: who uses a record verifies it, and decides
//! between two claims of one address. So a directory may be run by somebody who is not trusted; the
//! worst it can do is to keep silent. `vpn_p2p::directory` has what verifies and decides, and
//! directories in memory, in a file, over etcd and over a DHT.

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
    /// The directory does not take this record: it is forged, expired, too long, or the directory
    /// cannot be written. The cause says which; another try changes nothing.
    #[error("the directory refuses this record")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What decides whose a virtual address is that several peers claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Authority {
    /// The claims: whoever reads them picks one, by a rule that all readers have in common. A claim
    /// stands until its record expires or a newer one of the same peer gives it up; an answer that does
    /// not have it says nothing, since a directory of this kind may be incomplete.
    #[default]
    Claims,
    /// The directory: it gives each address to one peer at a time (a lease, say), and leaves claims of
    /// others out of its answers. What it says last counts, and a claim that it does not have any more
    /// is void. It cannot make up a claim, but can decide between those there are.
    Directory,
}

/// Finds peers. Whoever uses a record verifies its signature and expiry, also where the directory has
/// done so.
///
/// Asking may take as long as a network does, so it is never done for a packet: packets wait, bounded,
/// or are dropped until an answer is there.
#[async_trait]
pub trait PeerDirectory: Debug + Send + Sync {
    /// Makes a record known to others. A directory forgets it when it expires at the latest, so whoever
    /// stays publishes again, with a larger sequence number.
    ///
    /// # Errors
    ///
    /// Of [`Stale`](DirectoryError::Stale), the owner's next record takes a number above `have`.
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError>;

    /// The newest record of a peer; `None` if there is none.
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError>;

    /// The newest record of each peer that claims a virtual address, in no order; empty if nobody does.
    ///
    /// Several are a conflict, or an attempt: the directory does not say whose the address is, since
    /// sequence numbers of two peers say nothing about each other. A directory may leave out all but
    /// a few.
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError>;

    /// The next record that is new or changed. Cancel-safe. Between two calls, of several changes of
    /// one peer only the last need be told; where a directory lost count, it tells what it has. What was
    /// told is told to nobody else: a directory has one listener.
    async fn changed(&self) -> Result<PeerRecord, DirectoryError>;

    /// What decides whose an address is that several claim. Default: [`Authority::Claims`].
    fn authority(&self) -> Authority {
        Authority::Claims
    }
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
            ) -> Result<Vec<PeerRecord>, DirectoryError> {
                (**self).resolve_address(address).await
            }
            async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
                (**self).changed().await
            }
            fn authority(&self) -> Authority {
                (**self).authority()
            }
        }
    )*};
}
forward!(Arc<T>, Box<T>);
