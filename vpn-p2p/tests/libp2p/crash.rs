//! Nodes that are gone without a word, and come back.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::world::{Member, PATIENCE, address, config, everybody, own};
use vpn_core::{DirectoryError, PeerDirectory as _};
use vpn_p2p::libp2p::Multiaddr;

/// A member with a runtime of its own: when that is gone, nothing of it says goodbye.
struct Process {
    runtime: Option<Runtime>,
    member: Option<Member>,
}

impl Process {
    async fn start(n: u8, bootstrap: &[Multiaddr]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bootstrap = bootstrap.to_vec();
        let starting = runtime.spawn(async move { Member::new(n, &bootstrap).await });
        Self {
            member: Some(starting.await.unwrap()),
            runtime: Some(runtime),
        }
    }

    fn member(&self) -> &Member {
        self.member.as_ref().unwrap()
    }

    /// As by `kill -9`.
    fn crash(mut self) {
        // First the runtime: a task that is dropped there sends nothing any more.
        self.runtime.take().unwrap().shutdown_background();
        drop(self.member.take());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Both ways, however often it has to be said: what is sent into a dead connection is lost.
async fn both_ways(one: &Member, other: &Member, from: u32) {
    for (sender, receiver) in [(one, other), (other, one)] {
        let mut number = from;
        let heard = async {
            loop {
                sender.send_from(sender.address, receiver.address, number);
                number += 1;
                let came = timeout(Duration::from_millis(250), receiver.receive());
                if let Ok((source, said)) = came.await
                    && said >= from
                {
                    return assert_eq!(source, sender.address);
                }
            }
        };
        timeout(PATIENCE, heard).await.unwrap();
    }
}

/// Its peer takes the former connection for a live one for 20 s still, and would go on using it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_crashed_and_is_started_again_is_reached_at_once() {
    let stays = Member::new(1, &[]).await;
    let places = stays.node.addresses();
    let first = Process::start(2, &places).await;
    first.member().up().await;
    first.member().is_found_by(&stays).await;
    both_ways(&stays, first.member(), 1).await;
    first.crash();
    let begun = Instant::now();
    let again = Process::start(2, &places).await;
    both_ways(&stays, again.member(), 1000).await;
    let took = begun.elapsed();
    println!("reached {took:?} after it was started again");
    assert!(took < Duration::from_secs(8), "{took:?}");
    let links = stays.node.status().peers;
    assert_eq!(links.len(), 1);
    assert_eq!(links[0].1.len(), 1, "a dead connection is kept: {links:?}");
}

/// The defect: the file was written when a node ended and once a minute, so who was killed before that was
/// nobody's acquaintance, and waited until the others noticed its silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_node_met_is_written_down_soon() {
    let folder = std::env::temp_dir().join(format!("libp2p-soon-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("known-peers");
    let stays = Member::new(1, &[]).await;
    let mut config = config(everybody(), &stays.node.addresses());
    config.known_peers = Some(path.clone());
    let other = Member::with(2, config, own(&[address(2)])).await;
    other.up().await;
    let met = Instant::now();
    let known = || std::fs::read_to_string(&path).unwrap_or_default();
    while known().is_empty() {
        assert!(met.elapsed() < Duration::from_secs(15), "nobody is known");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The defect: the task that says who the node is has the directory, and that had the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_dropped_ends() {
    let member = Member::new(1, &[]).await;
    let endpoint = member.node.endpoints().borrow()[0].to_string();
    let port: u16 = endpoint.split('/').nth(4).unwrap().parse().unwrap();
    assert!(std::net::UdpSocket::bind(("127.0.0.1", port)).is_err());
    let Member {
        node,
        directory,
        transport,
        ..
    } = member;
    let own = node.id();
    drop((node, transport));
    let free = async {
        while std::net::UdpSocket::bind(("127.0.0.1", port)).is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("it lives on");
    let asked = directory.resolve(own).await;
    assert!(matches!(asked, Err(DirectoryError::Unavailable(_))));
}
