//! Directories: who is where, from whom, and what of it is believed.
//!
//! A node says about itself: these virtual addresses are mine, here I can be reached. It signs that
//! with its [identity](crate::identity), numbers it, and gives it an end. A
//! [`PeerDirectory`](vpn_core::PeerDirectory) carries such records to others; none has to be trusted.
//! What is believed is decided by whoever reads, from the records alone:
//!
//! | Module | What it decides |
//! |---|---|
//! | [`records`] | which record is believed: signature, end, form |
//! | [`book`] | which of a peer's records is the newest; what is remembered of it; members |
//! | [`claims`] | whose an address is that several claim |
//! | [`cache`] | which answers are remembered, and for how long |
//! | [`pool`] | which addresses of a prefix are nodes', in which order one tries them |
//!
//! All of these are pure; the time is an argument, in seconds since the Unix epoch. Directories:
//!
//! | Directory | Where records are |
//! |---|---|
//! | [`MemoryDirectory`] | in this process |
//! | [`StaticDirectory`] | in a file |
//! | [`ChainDirectory`] | in several other directories, asked at once |
//! | [`CheckedDirectory`] | in another; checks and remembers what it says |
//! | `EtcdDirectory` | in etcd, copied here; leases addresses (feature `etcd`) |
//! | `KademliaDirectory` | with the members themselves: a DHT (feature `libp2p`) |
//!
//! # Example
//!
//! ```
//! use vpn_core::{DirectoryError, PeerDirectory};
//! use vpn_p2p::directory::*;
//! use vpn_p2p::identity::Identity;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // What all nodes of a network agree on.
//! const TERMS: Terms = Terms::new(b"example network record v1\0");
//! let clock = UnixClock::default();
//! let me = Identity::generate()?;
//! let members = [me.id()];
//!
//! // Any directory, with what it says checked and remembered.
//! let book = Book::new(TERMS).members(members);
//! let inner = MemoryDirectory::new(TERMS);
//! let directory = CheckedDirectory::new(inner, book, CacheConfig::default(), clock.clone());
//!
//! // An address nobody has, preferably always the same; then it is claimed.
//! let pool = Pool::new("fd07::/64".parse()?);
//! let mut free = None;
//! for address in pool.choices(me.id()).take(10) {
//!     if directory.resolve_address(address).await?.is_empty() {
//!         free = Some(address);
//!         break;
//!     }
//! }
//! let record = Draft {
//!     addresses: free.into_iter().collect(),
//!     sequence: 1,
//!     expires: clock.now() + 3600,
//!     body: (&b"where I am"[..]).into(),
//! };
//! let record = record.sign(&me, &TERMS)?;
//! directory.publish(record.clone()).await?;
//! assert_eq!(directory.resolve(me.id()).await?, Some(record.clone()));
//!
//! // A stranger's record is not taken, and the same one not twice.
//! let stranger = Draft { sequence: 1, expires: clock.now() + 60, ..Draft::default() };
//! let stranger = stranger.sign(&Identity::generate()?, &TERMS)?;
//! directory.inner().publish(stranger.clone()).await?;
//! assert_eq!(directory.resolve(stranger.peer).await?, None);
//! let again = directory.publish(record).await;
//! assert!(matches!(again, Err(DirectoryError::Stale { .. })));
//! # Ok(())
//! # }
//! ```
//!
//! Which one for what, files, leases, TLS: [`manual::directories`](crate::manual::directories).

pub mod book;
pub mod cache;
pub mod chain;
pub mod checked;
pub mod claims;
pub mod clock;
#[cfg(feature = "etcd")]
#[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
pub mod etcd;
pub mod file;
#[cfg(feature = "libp2p")]
#[cfg_attr(docsrs, doc(cfg(feature = "libp2p")))]
pub mod kademlia;
pub mod memory;
pub(crate) mod news;
pub mod pool;
pub mod records;
#[cfg(test)]
mod tests;

pub use book::{Book, MAX_PEERS};
pub use cache::{Cache, CacheConfig, Question, Remembered};
pub use chain::{ChainDirectory, ChainError, Link};
pub use checked::{CheckedDirectory, LookupCounts};
pub use claims::{Conflict, Rank, winner};
pub use clock::UnixClock;
#[cfg(feature = "etcd")]
#[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
pub use etcd::{EtcdConfig, EtcdDirectory, EtcdError, EtcdStatus, EtcdTls, EtcdUser};
pub use file::{FileError, StaticDirectory, read_records, write_records};
pub use memory::MemoryDirectory;
pub use pool::Pool;
pub use records::{Draft, RecordError, Terms, Valid, decode, encode};
