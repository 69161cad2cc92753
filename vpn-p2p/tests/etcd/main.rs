//! The directory over etcd against the distribution's etcd, which each test starts for itself.
#![cfg(feature = "etcd")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

mod away;
mod loading;
mod secure;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipnet::IpNet;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use vpn_core::testing::conformance::{DirectoryFixture, peer_directory};
use vpn_core::{DirectoryError, PeerDirectory, PeerRecord};
use vpn_lab_etcd::Server;
use vpn_p2p::directory::{
    Book, Draft, EtcdConfig, EtcdDirectory, EtcdError, Pool, Terms, UnixClock,
};
use vpn_p2p::identity::Identity;

const TERMS: Terms = Terms::new(b"test record v1\0");
const LEASE: Duration = Duration::from_secs(5);

fn config(endpoint: String) -> EtcdConfig {
    let mut config = EtcdConfig::new([endpoint]);
    config.lease = LEASE;
    config
}

fn identity(node: u32) -> Identity {
    let mut secret = [7; 32];
    secret[..4].copy_from_slice(&node.to_be_bytes());
    Identity::from_bytes(&secret)
}

fn directory(endpoint: String, node: u32) -> EtcdDirectory {
    with(config(endpoint), node)
}

fn with(config: EtcdConfig, node: u32) -> EtcdDirectory {
    let peer = identity(node).id();
    EtcdDirectory::start(config, peer, Book::new(TERMS), UnixClock::default()).unwrap()
}

fn record(node: u32, sequence: u64, addresses: Vec<IpAddr>) -> PeerRecord {
    let draft = Draft {
        addresses,
        sequence,
        expires: UnixClock::default().now() + 3600,
        body: Default::default(),
    };
    draft.sign(&identity(node), &TERMS).unwrap()
}

fn pool(net: &str) -> Pool {
    Pool::new(net.parse::<IpNet>().unwrap())
}

/// Waits until it is so.
async fn becomes(what: &str, within: u64, mut is: impl AsyncFnMut() -> bool) {
    let waited = timeout(Duration::from_secs(within), async {
        while !is().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

/// Within so many seconds this directory has that record.
async fn sees(directory: &EtcdDirectory, record: &PeerRecord, within: u64) {
    becomes("the record is not seen", within, async || {
        knows(directory, record).await
    })
    .await;
}

async fn knows(directory: &EtcdDirectory, record: &PeerRecord) -> bool {
    directory.resolve(record.peer).await.ok().flatten().as_ref() == Some(record)
}

struct Fixture(EtcdDirectory, u64);

#[async_trait]
impl DirectoryFixture for Fixture {
    fn directory(&self) -> &dyn PeerDirectory {
        &self.0
    }

    fn record(&self, peer: u8, sequence: u64, address: u8) -> PeerRecord {
        let draft = Draft {
            addresses: vec![[100, 64, 0, address].into()],
            sequence,
            expires: self.1,
            body: Default::default(),
        };
        draft.sign(&identity(peer.into()), &TERMS).unwrap()
    }

    async fn patience(&self) {
        sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_a_directory() {
    let Some(server) = Server::start() else {
        return;
    };
    let round = std::sync::atomic::AtomicU32::new(0);
    let make = async || {
        let mut config = config(server.endpoint());
        let round = round.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        config.prefix = format!("round{round}/");
        let directory = with(config, 1);
        directory.followed().await;
        Fixture(directory, UnixClock::default().now() + 3600)
    };
    peer_directory(make).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_race_for_a_24_and_the_255th_is_refused() {
    let Some(server) = Server::start() else {
        return;
    };
    let pools = [pool("10.7.0.0/24"), pool("fd07::/64")];
    let mut config = config(server.endpoint());
    // A crowd on a small machine: nobody's is to end while others begin.
    config.lease = Duration::from_secs(300);
    config.request = Duration::from_secs(30);
    let began = Instant::now();
    let mut racing = JoinSet::new();
    for node in 0..200 {
        let (pools, directory) = (pools.clone(), with(config.clone(), node));
        racing.spawn(async move {
            let addresses = directory.lease(&pools, &[]).await.unwrap();
            (node, directory, addresses)
        });
    }
    let mut nodes = racing.join_all().await;
    println!(
        "200 nodes have addresses of both families after {:?}",
        began.elapsed()
    );
    for node in 200..254 {
        let directory = with(config.clone(), node);
        let addresses = directory.lease(&pools, &[]).await.unwrap();
        nodes.push((node, directory, addresses));
    }
    println!("254 nodes after {:?}", began.elapsed());
    let mut all = BTreeSet::new();
    for (_, directory, addresses) in &nodes {
        assert_eq!(addresses.len(), 2);
        assert_eq!(*directory.addresses().borrow(), *addresses);
        for (address, pool) in addresses.iter().zip(&pools) {
            assert!(pool.contains(*address) && all.insert(*address), "{address}");
        }
    }
    assert_eq!(all.len(), 2 * 254);
    let late = with(config.clone(), 254);
    let refused = late.lease(&pools, &[]).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "all 254 addresses of 10.7.0.0/24 are taken"
    );
    assert!(matches!(refused, EtcdError::Exhausted { size: 254, .. }));
    // Who asks again has what it had; so does one that crashed, also under another lease.
    let (node, directory, addresses) = nodes.swap_remove(17);
    assert_eq!(directory.lease(&pools, &[]).await.unwrap(), addresses);
    drop(directory);
    let again = with(config.clone(), node);
    assert_eq!(again.lease(&pools, &[]).await.unwrap(), addresses);
    // One that leaves makes room at once.
    again.close().await.unwrap();
    let freed = late.lease(&pools, &[]).await.unwrap();
    assert_eq!(freed[0], addresses[0]);
}

#[tokio::test]
async fn a_node_that_dies_frees_its_address_after_its_lease() {
    let Some(server) = Server::start() else {
        return;
    };
    let pools = [pool("10.7.0.0/32")];
    let (one, two) = (
        directory(server.endpoint(), 1),
        directory(server.endpoint(), 2),
    );
    two.followed().await;
    let address = one.lease(&pools, &[]).await.unwrap();
    let said = record(1, 1, address.clone());
    one.publish(said.clone()).await.unwrap();
    sees(&two, &said, 5).await;
    assert!(two.lease(&pools, &[]).await.is_err());
    // While it lives, it keeps it: longer than a lease.
    sleep(LEASE * 2).await;
    assert!(two.lease(&pools, &[]).await.is_err());
    let died = Instant::now();
    drop(one);
    becomes("the address is not free", 20, async || {
        two.lease(&pools, &[]).await.is_ok()
    })
    .await;
    let after = died.elapsed();
    println!("free {after:?} after its node died, with a lease of {LEASE:?}");
    assert!(after > LEASE / 2, "{after:?}");
    becomes("its record stays", 5, async || !knows(&two, &said).await).await;
}

#[tokio::test]
async fn what_was_closed_leases_and_publishes_nothing_more() {
    let Some(server) = Server::start() else {
        return;
    };
    let pools = [pool("10.7.0.0/30")];
    let one = directory(server.endpoint(), 1);
    let address = one.lease(&pools, &[]).await.unwrap();
    let said = record(1, 1, address.clone());
    one.publish(said.clone()).await.unwrap();
    one.close().await.unwrap();
    let refused = one.lease(&pools, &[]).await.unwrap_err();
    assert!(matches!(refused, EtcdError::Closed), "{refused}");
    let refused = one.publish(record(1, 2, address.clone())).await;
    assert!(matches!(refused, Err(DirectoryError::Refused(_))));
    one.close().await.unwrap();
    // Both are free, and the record is gone.
    let two = directory(server.endpoint(), 2);
    assert_eq!(two.lease(&pools, &address).await.unwrap(), address);
    two.followed().await;
    assert!(!knows(&two, &said).await);
}
