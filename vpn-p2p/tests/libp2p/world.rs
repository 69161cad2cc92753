//! Nodes in one process, each with a tunnel and the DHT as its directory.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use vpn_core::testing::build;
use vpn_core::{DropCounters, Packet, PacketBatch, PeerDirectory, TransportState, TunnelTransport};
use vpn_p2p::directory::kademlia::KademliaDirectory;
use vpn_p2p::identity::Identity;
use vpn_p2p::libp2p::{Admission, Libp2pTransport, Libp2pTunnel, Multiaddr, Node, NodeConfig, Own};

/// More than anything here takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn identity(n: u8) -> Identity {
    Identity::from_bytes(&[n; 32])
}

pub(crate) fn address(n: u8) -> IpAddr {
    [10, 7, 0, n].into()
}

/// Everybody from 1 to 20.
pub(crate) fn everybody() -> Admission {
    Admission::list((1..=20).map(|n| identity(n).id()))
}

pub(crate) fn config(admission: Admission, bootstrap: &[Multiaddr]) -> NodeConfig {
    let mut config = NodeConfig::new(admission);
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
    config.bootstrap = bootstrap.to_vec();
    config.inside = vec!["10.7.0.0/16".parse().unwrap()];
    config.loopback = true;
    config.use_relays = false;
    config
}

pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) directory: Arc<KademliaDirectory>,
    pub(crate) transport: Libp2pTransport,
    pub(crate) address: IpAddr,
}

pub(crate) fn own(addresses: &[IpAddr]) -> Own {
    Own {
        addresses: addresses
            .iter()
            .map(|address| format!("{address}/16").parse().unwrap())
            .collect(),
        ..Own::default()
    }
}

impl Member {
    /// Number `n`, which claims address `n`.
    pub(crate) async fn new(n: u8, bootstrap: &[Multiaddr]) -> Self {
        Self::with(n, config(everybody(), bootstrap), own(&[address(n)])).await
    }

    pub(crate) async fn with(n: u8, config: NodeConfig, own: Own) -> Self {
        let node = Node::start(config, &identity(n)).unwrap();
        let directory = KademliaDirectory::new(node.clone());
        let tunnel = Libp2pTunnel::new(own.addresses.clone());
        let transport = Libp2pTransport::start(node.clone(), directory.clone(), tunnel).unwrap();
        let mut endpoints = node.endpoints();
        let address = own.addresses[0].addr();
        node.announce(own, identity(n), directory.clone()).unwrap();
        timeout(PATIENCE, endpoints.wait_for(|all| !all.is_empty()))
            .await
            .unwrap()
            .unwrap();
        Self {
            node,
            directory,
            transport,
            address,
        }
    }

    pub(crate) async fn up(&self) {
        let mut state = self.transport.state();
        let up = async { while !matches!(state.next().await, TransportState::Up(_)) {} };
        timeout(PATIENCE, up).await.expect("nobody is connected");
    }

    /// Until its record can be found by others.
    pub(crate) async fn is_found_by(&self, other: &Self) {
        let found = async {
            while other
                .directory
                .resolve_address(self.address)
                .await
                .map_or(true, |records| records.is_empty())
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, found)
            .await
            .expect("its record is nowhere");
    }

    pub(crate) fn send_from(&self, source: IpAddr, to: IpAddr, number: u32) -> DropCounters {
        send_from(&self.transport, source, to, number)
    }

    pub(crate) fn send(&self, to: &Self, number: u32) {
        let drops = self.send_from(self.address, to.address, number);
        assert_eq!(drops.total(), 0, "{drops:?}");
    }

    /// The next packet: its source, and the number in it.
    pub(crate) async fn receive(&self) -> (IpAddr, u32) {
        receive(&self.transport).await
    }
}

pub(crate) fn send_from(
    transport: &Libp2pTransport,
    source: IpAddr,
    to: IpAddr,
    number: u32,
) -> DropCounters {
    let payload = number.to_be_bytes();
    let bytes = build::udp((source, 1000), (to, 2000), &payload);
    let mut batch = PacketBatch::new(4, 2048);
    batch.push(Packet::from_slice(&bytes)).unwrap();
    let mut drops = DropCounters::default();
    transport.try_send(&mut batch, &mut drops).unwrap();
    drops
}

/// The next packet: its source, and the number in it.
pub(crate) async fn receive(transport: &Libp2pTransport) -> (IpAddr, u32) {
    let receive = async {
        let mut batch = PacketBatch::new(1, 2048);
        loop {
            let mut drops = DropCounters::default();
            transport.try_recv(&mut batch, &mut drops).unwrap();
            if let Some(packet) = batch.packets().first() {
                let parsed = packet.parse().unwrap();
                let bytes = packet.bytes();
                let number = bytes[bytes.len() - 4..].try_into().unwrap();
                return (parsed.flow.src(), u32::from_be_bytes(number));
            }
            transport.readable().await.unwrap();
        }
    };
    timeout(PATIENCE, receive).await.expect("no packet came")
}
