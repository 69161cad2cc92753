//! Touches etcd: addresses and the record of this node, held under one lease.
//!
//! An address is taken by one transaction: if nobody has it, and this node has none of the prefix, both
//! are written. So two nodes never have the same address, and one node never has two of a prefix,
//! whatever happens in between. A node that comes back before its lease is over gets the address it
//! had; later, its first choice follows from its key, so it gets the same one if nobody took it.

use std::collections::HashSet;
use std::net::IpAddr;

use etcd_client::{Client, Compare, CompareOp, GetOptions, GetResponse, PutOptions, Txn, TxnOp};
use vpn_core::{DirectoryError, PeerId, PeerRecord};

use super::connection::{Connection, is_too_long};
use super::error::EtcdError;
use super::keys::{Keys, hex};
use super::load::end_of;
use crate::directory::pool::Pool;
use crate::directory::records::{RecordError, Terms, decode, encode};

/// So often an address that looked free may turn out to be taken.
const TRIES: u32 = 128;

/// Without knowing what is taken, so many are tried; then it is asked for once.
const BLIND: u32 = 2;

/// At most so many taken addresses are asked for: an answer of about 2 MB. Of prefixes with more,
/// nearly any address is free.
const LISTED: i64 = 16_384;

/// Writes of a record that another writer of the same peer got in between of.
const WRITES: u32 = 4;

/// What this node has at etcd.
#[derive(Debug, Default)]
pub(super) struct Holding {
    pub(super) lease: Option<i64>,
    /// By prefix.
    pub(super) addresses: Vec<(Pool, IpAddr)>,
    /// The record that was published last, and is put back if the lease is lost.
    pub(super) record: Option<PeerRecord>,
    /// It was given back: nothing is to be had any more.
    pub(super) is_closed: bool,
}

/// Asks etcd on behalf of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desk<'a> {
    pub(super) connection: &'a Connection,
    pub(super) keys: &'a Keys,
    pub(super) peer: PeerId,
    pub(super) terms: Terms,
}

impl Desk<'_> {
    /// A lease for all that is this node's.
    pub(super) async fn grant(self) -> Result<i64, EtcdError> {
        let mut client = self.connection.client().await?;
        let seconds = self.connection.config().lease.as_secs();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let granted = client.lease_grant(seconds, None);
        Ok(self.connection.within(granted).await?.id())
    }

    /// Keeps the lease; `false` if etcd does not know it any more.
    pub(super) async fn keep(self, lease: i64) -> Result<bool, EtcdError> {
        let mut client = self.connection.client().await?;
        let kept = self.connection.within(client.lease_keep_alive(lease)).await;
        let Err(error) = kept else {
            return Ok(true);
        };
        // The client has one error for a lease that is lost and for a request that is: so it is asked.
        let asked = client.lease_time_to_live(lease, None);
        match self.connection.within(asked).await {
            Ok(left) if left.ttl() <= 0 => Ok(false),
            Ok(_) => Err(error),
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back, with all that is under it.
    pub(super) async fn revoke(self, lease: i64) -> Result<(), EtcdError> {
        let mut client = self.connection.client().await?;
        let revoked = client.lease_revoke(lease);
        self.connection.within(revoked).await.map(drop)
    }

    /// An address of this pool under this lease: the one this node has, the one it prefers, or another.
    pub(super) async fn claim(
        self,
        pool: &Pool,
        prefer: Option<IpAddr>,
        lease: i64,
    ) -> Result<IpAddr, EtcdError> {
        let mut client = self.connection.client().await?;
        let node = self.keys.node(self.peer, pool.net());
        let mut had = self.had(&mut client, &node, pool).await?;
        let (mut taken, mut complete) = (HashSet::new(), false);
        for attempt in 0..TRIES {
            // If it is not ours any more, it is free for all, or somebody else's.
            if let Some(address) = had.address
                && self.take_over(&mut client, &node, address, lease).await?
            {
                return Ok(address);
            }
            if attempt == BLIND {
                (taken, complete) = self.taken(&mut client).await?;
            }
            let preferred = prefer.filter(|address| pool.contains(*address));
            let mut choices = preferred.into_iter().chain(pool.choices(self.peer));
            let Some(address) = choices.find(|address| !taken.contains(address)) else {
                if complete {
                    return Err(EtcdError::Exhausted {
                        net: pool.net(),
                        size: pool.size(),
                    });
                }
                (taken, complete) = self.taken(&mut client).await?;
                continue;
            };
            if self
                .take(&mut client, &node, had.revision, address, lease)
                .await?
            {
                return Ok(address);
            }
            taken.insert(address);
            had = self.had(&mut client, &node, pool).await?;
        }
        Err(EtcdError::Contended {
            net: pool.net(),
            tries: TRIES,
        })
    }

    /// An entry; of one that is too long to be ours, the key alone.
    async fn entry(self, client: &mut Client, key: &str) -> Result<GetResponse, EtcdError> {
        match self.connection.within(client.get(key, None)).await {
            Err(error) if is_too_long(&error) => {
                let key_alone = GetOptions::new().with_keys_only();
                self.connection
                    .within(client.get(key, Some(key_alone)))
                    .await
            }
            there => there,
        }
    }

    /// What etcd says this node has of a pool.
    async fn had(self, client: &mut Client, node: &str, pool: &Pool) -> Result<Had, EtcdError> {
        let there = self.entry(client, node).await?;
        let entry = there.kvs().first();
        let address = entry.and_then(|entry| entry.value_str().ok()?.parse().ok());
        Ok(Had {
            revision: entry.map_or(0, etcd_client::KeyValue::mod_revision),
            address: address.filter(|address| pool.contains(*address)),
        })
    }

    /// Puts what this node has already under another lease, unless it is somebody else's now.
    async fn take_over(
        self,
        client: &mut Client,
        node: &str,
        address: IpAddr,
        lease: i64,
    ) -> Result<bool, EtcdError> {
        let (key, me) = (self.keys.address(address), hex(self.peer));
        let mine = [
            Compare::value(key.as_str(), CompareOp::Equal, me),
            Compare::value(node, CompareOp::Equal, address.to_string()),
        ];
        let txn = Txn::new()
            .when(mine)
            .and_then(self.writes(node, address, lease));
        Ok(self.connection.within(client.txn(txn)).await?.succeeded())
    }

    /// Takes an address if nobody has it and what this node has is as it was.
    async fn take(
        self,
        client: &mut Client,
        node: &str,
        revision: i64,
        address: IpAddr,
        lease: i64,
    ) -> Result<bool, EtcdError> {
        let free = [
            Compare::create_revision(self.keys.address(address), CompareOp::Equal, 0),
            Compare::mod_revision(node, CompareOp::Equal, revision),
        ];
        let txn = Txn::new()
            .when(free)
            .and_then(self.writes(node, address, lease));
        Ok(self.connection.within(client.txn(txn)).await?.succeeded())
    }

    fn writes(self, node: &str, address: IpAddr, lease: i64) -> [TxnOp; 2] {
        let under = || Some(PutOptions::new().with_lease(lease));
        [
            TxnOp::put(self.keys.address(address), hex(self.peer), under()),
            TxnOp::put(node, address.to_string(), under()),
        ]
    }

    /// Taken addresses, of all prefixes; and whether these are all.
    async fn taken(self, client: &mut Client) -> Result<(HashSet<IpAddr>, bool), EtcdError> {
        let prefix = self.keys.addresses();
        let (mut from, end) = (prefix.clone().into_bytes(), end_of(prefix.as_bytes()));
        let (mut taken, mut left, mut page) = (HashSet::new(), LISTED, LISTED);
        loop {
            page = page.min(left);
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_keys_only()
                .with_limit(page);
            let there = client.get(from.clone(), Some(options));
            let there = match self.connection.within(there).await {
                // Others may have written long keys.
                Err(error) if is_too_long(&error) && page > 1 => {
                    page /= 2;
                    continue;
                }
                there => there?,
            };
            taken.extend(there.kvs().iter().filter_map(|entry| {
                let address = entry.key_str().ok()?.strip_prefix(&prefix)?;
                address.parse::<IpAddr>().ok()
            }));
            left -= i64::try_from(there.kvs().len()).unwrap_or(left);
            let Some(last) = there.kvs().last().filter(|_| there.more()) else {
                return Ok((taken, true));
            };
            if left <= 0 {
                return Ok((taken, false));
            }
            from = last.key().to_vec();
            from.push(0);
        }
    }

    /// Writes a record if it is newer than what is there; the same again for the lease's sake only where
    /// `again` says so.
    pub(super) async fn write(
        self,
        record: &PeerRecord,
        lease: i64,
        again: bool,
    ) -> Result<(), DirectoryError> {
        let mut client = self.connection.client().await?;
        let key = self.keys.record(record.peer);
        for _ in 0..WRITES {
            let there = self.entry(&mut client, &key).await?;
            let entry = there.kvs().first();
            // What is no record, or was not signed by this peer, is overwritten: anybody who may write there
            // could name a number that leaves none larger.
            let have = entry.and_then(|entry| decode(entry.value()).ok());
            let have =
                have.filter(|have| have.peer == record.peer && self.terms.are_signed_in(have));
            let have = have.map(|record| record.sequence);
            if let Some(have) = have
                && (have > record.sequence || (have == record.sequence && !again))
            {
                return Err(RecordError::Old { have }.of(record.sequence));
            }
            let revision = entry.map_or(0, etcd_client::KeyValue::mod_revision);
            let same = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
            let options = PutOptions::new().with_lease(lease);
            let put = TxnOp::put(key.as_str(), encode(record), Some(options));
            let txn = Txn::new().when([same]).and_then([put]);
            let done = self.connection.within(client.txn(txn)).await?;
            if done.succeeded() {
                return Ok(());
            }
        }
        let busy = "another writer of the same record was faster each time";
        Err(DirectoryError::Unavailable(busy.into()))
    }

    /// A record as etcd has it now.
    pub(super) async fn read(self, peer: PeerId) -> Result<Option<PeerRecord>, EtcdError> {
        let mut client = self.connection.client().await?;
        let there = self.entry(&mut client, &self.keys.record(peer)).await?;
        let entry = there.kvs().first();
        Ok(entry.and_then(|entry| decode(entry.value()).ok()))
    }
}

/// What etcd says a node has of one pool.
#[derive(Clone, Copy, Debug)]
struct Had {
    /// Of the node's key; 0 where there is none.
    revision: i64,
    address: Option<IpAddr>,
}
