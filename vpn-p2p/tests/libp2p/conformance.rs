//! The tunnel over libp2p keeps the contract of a transport.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use vpn_core::testing::build;
use vpn_core::testing::conformance::{FarEnd, TransportFixture, number_of, tunnel_transport};
use vpn_core::{
    DirectoryError, DropCounters, Packet, PacketBatch, PeerDirectory, PeerId, PeerRecord,
    TransportState, TunnelTransport,
};
use vpn_p2p::directory::MemoryDirectory;
use vpn_p2p::libp2p::body::TERMS;
use vpn_p2p::libp2p::{Libp2pTransport, Libp2pTunnel, Node, Own};

use super::world::{config, everybody, identity};

/// Those of the suite's packets.
const NEAR: [u8; 4] = [10, 5, 0, 2];
const FAR: [u8; 4] = [203, 0, 113, 10];

/// Two members that have one directory and do not know each other, until they are to answer.
struct Fixture {
    near: Libp2pTransport,
    far: Libp2pTransport,
    batch: Mutex<PacketBatch>,
}

fn member(n: u8, address: [u8; 4], directory: &Arc<Silent>) -> Libp2pTransport {
    let mut config = config(everybody(), &[]);
    config.inside.clear();
    let node = Node::start(config, &identity(n)).unwrap();
    let own = Own {
        addresses: vec![IpAddr::from(address).into()],
        ..Own::default()
    };
    let mut tunnel = Libp2pTunnel::new(own.addresses.clone());
    tunnel.networks = [NEAR, FAR].map(|net| IpAddr::from(net).into()).to_vec();
    let transport = Libp2pTransport::start(node.clone(), directory.clone(), tunnel).unwrap();
    node.announce(own, identity(n), directory.clone()).unwrap();
    transport
}

/// A directory that is asked, and tells nothing by itself: who is told of a member seeks its company.
#[derive(Debug)]
struct Silent(MemoryDirectory);

#[async_trait]
impl PeerDirectory for Silent {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        self.0.publish(record).await
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        self.0.resolve(peer).await
    }

    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        self.0.resolve_address(address).await
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        std::future::pending().await
    }
}

impl Fixture {
    fn new() -> Self {
        let directory = Arc::new(Silent(MemoryDirectory::new(TERMS)));
        Self {
            near: member(1, NEAR, &directory),
            far: member(2, FAR, &directory),
            batch: Mutex::new(PacketBatch::new(8, 2048)),
        }
    }
}

#[async_trait]
impl FarEnd for Fixture {
    async fn send(&self, number: u16) {
        let bytes = build::udp("203.0.113.10:7", "10.5.0.2:4000", &number.to_be_bytes());
        let mut batch = PacketBatch::new(1, 2048);
        batch.push(Packet::from_slice(&bytes)).unwrap();
        let mut drops = DropCounters::default();
        self.far.try_send(&mut batch, &mut drops).unwrap();
        assert_eq!(drops.total(), 0, "{drops:?}");
    }

    async fn receive(&self) -> u16 {
        let mut batch = self.batch.lock().await;
        while batch.is_empty() {
            self.far.readable().await.unwrap();
            let mut drops = DropCounters::default();
            self.far.try_recv(&mut batch, &mut drops).unwrap();
        }
        let number = number_of(batch.packets()[0].bytes()).unwrap();
        batch.recycle_front(1);
        number
    }

    /// What is too much for one member is dropped: the others must not wait for it.
    fn fills_up(&self) -> bool {
        false
    }

    async fn patience(&self) {
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
}

#[async_trait]
impl TransportFixture for Fixture {
    fn transport(&self) -> &dyn TunnelTransport {
        &self.near
    }

    async fn answer(&self) {
        let mut endpoints = self.far.node().endpoints();
        let known = endpoints.wait_for(|all| !all.is_empty()).await;
        let places = known.unwrap().clone();
        let (near, far) = (self.near.node(), self.far.node());
        near.connect(far.id(), places).await.unwrap();
        let mut state = self.far.state();
        while !matches!(state.next().await, TransportState::Up(_)) {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract_of_a_transport() {
    tunnel_transport(async || Fixture::new()).await.unwrap();
}
