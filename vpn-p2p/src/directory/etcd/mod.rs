//! A directory over etcd, and virtual addresses that are leased there.
//!
//! Every node keeps a copy of all records and follows changes, so that lookups ask nobody, and go on
//! while etcd is away. What is a node's (its addresses, its record) is under one lease that it renews;
//! a node that dies frees them when the lease is over. While etcd cannot be reached a node keeps its
//! addresses: nobody can take them from an etcd that is down. One that was cut off for longer than its
//! lease from an etcd that others reach may find its address taken; then it gets another, and
//! [`addresses`](EtcdDirectory::addresses) tells.
//!
//! Whose an address is etcd decides (one transaction, in `lease.rs`); what a peer says about
//! itself is signed, and checked here. So whoever can write to etcd can give addresses to others and
//! leave peers out, but speak for none.
//!
//! A crash of etcd loses nothing that it acknowledged, and it gives every lease its whole time again when
//! it is back.
//!
//! ```no_run
//! use vpn_core::PeerDirectory;
//! use vpn_p2p::directory::*;
//! use vpn_p2p::identity::Identity;
//!
//! # async fn node() -> Result<(), Box<dyn std::error::Error>> {
//! const TERMS: Terms = Terms::new(b"example network record v1\0");
//! let (me, clock) = (Identity::read("key")?, UnixClock::default());
//! let mut config = EtcdConfig::new(["etcd.example.org:2379"]);
//! config.user = Some(EtcdUser::new("mesh", std::fs::read_to_string("password")?.trim()));
//! config.tls = Some(EtcdTls { ca: std::fs::read("ca.pem")?, ..EtcdTls::default() });
//! let directory = EtcdDirectory::start(config, me.id(), Book::new(TERMS), clock.clone())?;
//!
//! let pools = [Pool::new("10.7.0.0/16".parse()?), Pool::new("fd07::/64".parse()?)];
//! let addresses = directory.lease(&pools, &[]).await?;
//! let record = Draft {
//!     addresses,
//!     sequence: clock.now() * 1000,
//!     expires: clock.now() + 3600,
//!     body: (&b"where I am"[..]).into(),
//! };
//! directory.publish(record.sign(&me, &TERMS)?).await?;
//! loop {
//!     println!("{:?} is somewhere else", directory.changed().await?.peer);
//! }
//! # }
//! ```

mod config;
mod connection;
mod error;
mod keep;
mod keys;
mod lease;
mod load;
mod mirror;
mod past;
mod wall;
mod watch;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use vpn_core::{Authority, DirectoryError, PeerDirectory, PeerId, PeerRecord};

pub use config::{EtcdConfig, EtcdTls, EtcdUser, LEASE, MIN_LEASE, REQUEST};
pub use error::EtcdError;

use self::connection::Connection;
use self::keys::Keys;
use self::lease::{Desk, Holding};
use self::mirror::Mirror;
use super::book::Book;
use super::clock::UnixClock;
use super::news::News;
use super::pool::Pool;
use super::records::Valid;

/// A directory over etcd. Dropping it stops following and renewing; what is leased is free when its
/// lease is over, or at once with [`close`](Self::close).
#[derive(Debug)]
pub struct EtcdDirectory {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

/// How a directory over etcd is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdStatus {
    /// Whether changes come in now.
    pub following: bool,
    /// Up to which revision of etcd this is; `None` before everything was loaded.
    pub revision: Option<i64>,
    /// Records of peers.
    pub records: usize,
    /// Entries that were not believed, since the beginning.
    pub refused: u64,
    /// Why changes do not come in, or did not last time.
    pub trouble: Option<String>,
}

#[derive(Debug)]
struct Shared {
    peer: PeerId,
    keys: Keys,
    connection: Connection,
    mirror: Mutex<Mirror>,
    news: News,
    clock: UnixClock,
    /// Held across requests: of two changes to what is ours, one waits.
    holding: tokio::sync::Mutex<Holding>,
    addresses: tokio::sync::watch::Sender<Vec<IpAddr>>,
    /// Wakes who keeps the lease.
    doubt: tokio::sync::Notify,
    /// Whether changes come in, and why not.
    following: tokio::sync::watch::Sender<(bool, Option<String>)>,
    cluster: AtomicU64,
}

impl EtcdDirectory {
    /// Begins to follow etcd; it need not be there yet. `peer` is this node, `book` has the terms and
    /// members. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`EtcdError::Config`].
    pub fn start(
        config: EtcdConfig,
        peer: PeerId,
        book: Book,
        clock: UnixClock,
    ) -> Result<Self, EtcdError> {
        config.check()?;
        let keys = Keys::below(config.prefix.clone());
        let shared = Arc::new(Shared {
            peer,
            mirror: Mutex::new(Mirror::new(keys.clone(), book)),
            keys,
            connection: Connection::new(config),
            news: News::default(),
            clock,
            holding: tokio::sync::Mutex::default(),
            addresses: tokio::sync::watch::Sender::default(),
            doubt: tokio::sync::Notify::new(),
            following: tokio::sync::watch::Sender::default(),
            cluster: AtomicU64::new(0),
        });
        let tasks = [
            tokio::spawn(watch::follow(Arc::clone(&shared))),
            tokio::spawn(keep::keep(Arc::clone(&shared))),
        ];
        Ok(Self { shared, tasks })
    }

    /// Takes an address of each pool for this node, and keeps it; asking again returns the same. A node
    /// that had one in an earlier life names it, and gets it if nobody else has it.
    ///
    /// # Errors
    ///
    /// [`EtcdError::Exhausted`] if all addresses of a pool are taken. What was taken of the others is kept.
    pub async fn lease(&self, pools: &[Pool], prefer: &[IpAddr]) -> Result<Vec<IpAddr>, EtcdError> {
        let mut holding = self.shared.holding.lock().await;
        let desk = self.shared.desk();
        let mut all = Vec::new();
        for pool in pools {
            let there = holding.addresses.iter().find(|(of, _)| of == pool);
            if let Some((_, address)) = there.filter(|_| holding.lease.is_some()) {
                all.push(*address);
                continue;
            }
            let lease = lease_of(&mut holding, desk).await?;
            let prefer = prefer.iter().find(|address| pool.contains(**address));
            let claimed = desk.claim(pool, prefer.copied(), lease).await;
            let address = claimed.inspect_err(|_| self.shared.doubt.notify_one())?;
            holding.addresses.retain(|(of, _)| of != pool);
            holding.addresses.push((pool.clone(), address));
            self.shared.tell_addresses(&holding);
            all.push(address);
        }
        Ok(all)
    }

    /// The addresses of this node. They change if the lease was lost and somebody else was faster; one
    /// is missing if its pool has none left.
    pub fn addresses(&self) -> tokio::sync::watch::Receiver<Vec<IpAddr>> {
        self.shared.addresses.subscribe()
    }

    /// Waits until everything was loaded and changes come in.
    pub async fn followed(&self) {
        let mut following = self.shared.following.subscribe();
        // Fails only if the sender is gone, and `self` holds it.
        let _ = following.wait_for(|(following, _)| *following).await;
    }

    /// How it is doing.
    pub fn status(&self) -> EtcdStatus {
        let (following, trouble) = self.shared.following.borrow().clone();
        let mirror = self.shared.mirror();
        let (records, refused) = mirror.counts();
        EtcdStatus {
            following,
            revision: mirror.revision(),
            records,
            refused,
            trouble,
        }
    }

    /// Gives back what is leased, so that others can have it at once, and ends: nothing is leased or
    /// published any more, and nothing is followed.
    ///
    /// # Errors
    ///
    /// [`EtcdError`]; what is leased is free when its lease is over.
    pub async fn close(&self) -> Result<(), EtcdError> {
        self.tasks.iter().for_each(JoinHandle::abort);
        let lease = {
            let mut holding = self.shared.holding.lock().await;
            holding.is_closed = true;
            holding.lease.take()
        };
        match lease {
            Some(lease) => self.shared.desk().revoke(lease).await,
            None => Ok(()),
        }
    }
}

impl Drop for EtcdDirectory {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The lease that there is, or a new one.
async fn lease_of(holding: &mut Holding, desk: Desk<'_>) -> Result<i64, EtcdError> {
    if let Some(lease) = holding.lease {
        return Ok(lease);
    }
    if holding.is_closed {
        return Err(EtcdError::Closed);
    }
    let lease = desk.grant().await?;
    holding.lease = Some(lease);
    Ok(lease)
}

impl Shared {
    fn desk(&self) -> Desk<'_> {
        Desk {
            connection: &self.connection,
            keys: &self.keys,
            peer: self.peer,
            terms: *self.mirror().terms(),
        }
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_addresses(&self, holding: &Holding) {
        let all = holding.addresses.iter().map(|(_, address)| *address);
        let all: Vec<IpAddr> = all.collect();
        self.addresses.send_if_modified(|told| {
            let other = *told != all;
            *told = all;
            other
        });
    }

    /// Changes come in, or do not, and why.
    fn following(&self, state: Result<(), &EtcdError>) {
        let now = match state {
            Ok(()) => (true, None),
            Err(error) => (false, Some(with_cause(error))),
        };
        self.following.send_if_modified(|told| {
            let other = *told != now;
            *told = now;
            other
        });
    }

    /// Whether this is the same etcd as before.
    fn cluster(&self, id: u64) -> bool {
        let before = self.cluster.swap(id, Relaxed);
        before == 0 || before == id
    }

    fn unavailable(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EtcdError {
        EtcdError::Unavailable {
            endpoints: self.connection.config().endpoints.join(", "),
            cause: cause.into(),
        }
    }

    fn ended(&self, why: &'static str) -> EtcdError {
        self.unavailable(why)
    }
}

fn with_cause(error: &EtcdError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[async_trait]
impl PeerDirectory for EtcdDirectory {
    /// Under this node's lease, whoever's the record is.
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let checked = Valid::check(record.clone(), shared.mirror().terms(), now);
        checked.map_err(|error| error.of(record.sequence))?;
        let mut holding = shared.holding.lock().await;
        let desk = shared.desk();
        let lease = lease_of(&mut holding, desk).await?;
        let written = desk.write(&record, lease, false).await;
        written.inspect_err(|_| shared.doubt.notify_one())?;
        let key = shared.keys.record(record.peer);
        // Ours is here at once, and not only when etcd tells of it.
        let news = shared
            .mirror()
            .written(key.as_bytes(), &super::encode(&record), now);
        if record.peer == shared.peer {
            holding.record = Some(record);
        }
        drop(holding);
        news.into_iter().for_each(|peer| shared.news.tell(peer));
        Ok(())
    }

    /// From the copy; before there is one, from etcd.
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        let now = self.shared.clock.now();
        let loaded = {
            let mirror = self.shared.mirror();
            if let Some(record) = mirror.get(peer, now) {
                return Ok(Some(record.clone()));
            }
            mirror.revision().is_some()
        };
        if loaded && self.shared.following.borrow().0 {
            return Ok(None);
        }
        // The copy may be old: that there is nobody is said by etcd alone.
        let record = self.shared.desk().read(peer).await?;
        let terms = *self.shared.mirror().terms();
        let valid = record.and_then(|record| Valid::check(record, &terms, now).ok());
        let valid = valid.map(Valid::into_record);
        Ok(valid.filter(|record| record.peer == peer))
    }

    /// From the copy. Of an address that is leased, its holder's claim only.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Unavailable`] if nobody is known and etcd is not followed now.
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        let found = self
            .shared
            .mirror()
            .claimants(address, self.shared.clock.now());
        let following = self.shared.following.borrow().0;
        match found.is_empty() && !following {
            true => Err(DirectoryError::Unavailable(
                "etcd is not followed at the moment".into(),
            )),
            false => Ok(found),
        }
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        let look = |peer| {
            let now = self.shared.clock.now();
            self.shared.mirror().get(peer, now).cloned()
        };
        Ok(self.shared.news.next(look).await)
    }

    /// A lease decides.
    fn authority(&self) -> Authority {
        Authority::Directory
    }
}
