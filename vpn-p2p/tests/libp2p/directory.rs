//! The DHT as a directory: its contract, and what adversaries get.

use std::sync::Arc;
use std::time::Duration;

use super::world::{Member, PATIENCE, address, config, everybody, identity, own};
use async_trait::async_trait;
use tokio::time::timeout;
use vpn_core::testing::conformance::{DirectoryFixture, peer_directory};
use vpn_core::{DirectoryError, PeerDirectory, PeerRecord};
use vpn_p2p::directory::Draft;
use vpn_p2p::directory::kademlia::KademliaDirectory;
use vpn_p2p::libp2p::body::{Body, TERMS};
use vpn_p2p::libp2p::{Node, NodeConfig};

/// The same for all records: those that are made alike are alike.
fn now() -> u64 {
    static NOW: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *NOW.get_or_init(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_secs()
    })
}

fn record(peer: u8, sequence: u64, host: u8, lives: u64) -> PeerRecord {
    let draft = Draft {
        addresses: vec![[100, 64, 0, host].into()],
        sequence,
        expires: now() + lives,
        body: Body::default().encode().into(),
    };
    draft.sign(&identity(peer), &TERMS).unwrap()
}

/// Two nodes that are connected; the first one's directory is looked at.
struct Fixture {
    directory: Arc<KademliaDirectory>,
    _nodes: [Node; 2],
}

async fn pair() -> Fixture {
    let start = |n: u8, mut config: NodeConfig| {
        config.inside.push("100.64.0.0/24".parse().unwrap());
        Node::start(config, &identity(n)).unwrap()
    };
    let far = start(20, config(everybody(), &[]));
    let mut endpoints = far.endpoints();
    endpoints.wait_for(|all| !all.is_empty()).await.unwrap();
    let near = start(19, config(everybody(), &far.addresses()));
    let directory = KademliaDirectory::new(near.clone());
    // Connected, and in each other's tables: only then can be published.
    let ready = async {
        let first = record(18, 1, 250, 600);
        while directory.publish(first.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ready).await.unwrap();
    // What that changed is told of before the test.
    directory.changed().await.unwrap();
    Fixture {
        directory,
        _nodes: [near, far],
    }
}

#[async_trait]
impl DirectoryFixture for Fixture {
    fn directory(&self) -> &dyn PeerDirectory {
        &*self.directory
    }

    fn record(&self, peer: u8, sequence: u64, address: u8) -> PeerRecord {
        record(peer, sequence, address, 600)
    }

    async fn patience(&self) {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_a_directory() {
    peer_directory(pair).await.unwrap();
}

#[tokio::test]
async fn forged_expired_and_strangers_records_are_refused() {
    let fixture = pair().await;
    let mut forged = record(2, 1, 2, 600);
    forged.addresses = vec![[100, 64, 0, 3].into()];
    let mut too_long = record(2, 1, 2, 600);
    too_long.expires += 1;
    for wrong in [
        forged,
        too_long,
        record(2, 1, 2, 0),
        record(2, 1, 2, 100 * 60 * 60),
        // Not on the list.
        record(30, 1, 2, 600),
    ] {
        let refused = fixture.directory.publish(wrong).await;
        assert!(
            matches!(refused, Err(DirectoryError::Refused(_))),
            "{refused:?}"
        );
    }
    assert_eq!(
        fixture.directory.resolve(identity(2).id()).await.unwrap(),
        None
    );
}

/// Peers keep what they hear, and publishing may be tried again: that it is known already is no reason to sign
/// another one, and to tell it to everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_already_is_not_stale() {
    let fixture = pair().await;
    let record = record(2, 7, 9, 600);
    for _ in 0..2 {
        fixture.directory.publish(record.clone()).await.unwrap();
    }
}

/// The next start needs no bootstrap node: the file has who was met.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_comes_back_by_its_file() {
    let folder = tempfile();
    let path = folder.join("known-peers");
    let bootstrap = Member::new(1, &[]).await;
    let places = bootstrap.node.addresses();
    let other = Member::new(2, &places).await;
    let known = |places: &[_]| {
        let mut config = config(everybody(), places);
        config.known_peers = Some(path.clone());
        config
    };
    let first = Member::with(3, known(&places), own(&[address(3)])).await;
    first.up().await;
    other.is_found_by(&first).await;
    first.send(&other, 1);
    assert_eq!(other.receive().await.1, 1);
    vpn_core::TunnelTransport::close(&first.transport).await;
    vpn_core::TunnelTransport::close(&bootstrap.transport).await;
    let again = Member::with(3, known(&[]), own(&[address(3)])).await;
    again.up().await;
    // What is sent while the other one still takes the former connection for this one's is lost.
    let came = async {
        let mut number = 2;
        loop {
            again.send(&other, number);
            let came = timeout(Duration::from_millis(500), other.receive()).await;
            if let Ok((from, _)) = came {
                return from;
            }
            number += 1;
        }
    };
    let from = timeout(PATIENCE, came).await.expect("it never came back");
    assert_eq!(from, address(3));
    std::fs::remove_dir_all(folder).unwrap();
}

fn tempfile() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("libp2p-file-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
