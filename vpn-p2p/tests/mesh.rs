//! A hub and nodes on loopback, with real sockets, TLS and sessions. Everything goes by the relay here, as its policy says; direct paths are tried in the labs.
#![cfg(feature = "mesh")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use common::{End, PATIENCE, Plain, udp};
use vpn_core::packet::Gso;
use vpn_core::testing::build;
use vpn_core::{
    DownCause, DropCounters, DropReason, NetworkEvent, Packet, PacketBatch, TransportState,
    TunnelTransport, Underlay, UnderlayError,
};
use vpn_p2p::mesh::hub::{Admitted, HubServer, Listen, TlsLimits};
use vpn_p2p::mesh::{
    Carrier, HubConfig, HubEndpoint, HubId, Identity, LinkConfig, MemberConfig, MeshTransport,
    NodeConfig, PeerRules, Policy, Stage,
};

struct Net {
    hub: HubServer,
    nodes: Vec<Identity>,
}

fn address(node: usize) -> String {
    format!("10.77.0.{}", node + 2)
}

impl Net {
    /// A hub that admits so many nodes.
    fn new(count: usize) -> Self {
        let identity = Identity::generate().unwrap();
        let nodes: Vec<Identity> = (0..count).map(|_| Identity::generate().unwrap()).collect();
        let config = HubConfig {
            members: (nodes.iter().enumerate())
                .map(|(at, node)| Admitted::new(node.id(), vec![address(at).parse().unwrap()]))
                .collect(),
            ..HubConfig::default()
        };
        let listen = Listen::on(&["127.0.0.1:0".parse().unwrap()], true).unwrap();
        let hub = HubServer::start(config, TlsLimits::default(), &identity, listen).unwrap();
        Self { hub, nodes }
    }

    fn node(&self, at: usize, identity: &Identity, carrier: Carrier) -> MeshTransport {
        let config = self.config(at, carrier);
        MeshTransport::start(config, identity.clone(), Arc::new(Plain)).unwrap()
    }

    fn config(&self, at: usize, carrier: Carrier) -> NodeConfig {
        let mut link = LinkConfig::new(self.hub.id(), HubId(0));
        link.udp = carrier == Carrier::Udp;
        link.tls = carrier == Carrier::Tls;
        let relayed = PeerRules {
            policy: Policy::RelayOnly,
            ..PeerRules::default()
        };
        let member = MemberConfig {
            default_rules: relayed,
            addresses: vec![format!("{}/24", address(at)).parse().unwrap()],
            hubs: vec![link],
            seed: Some(at as u64),
            ..MemberConfig::default()
        };
        let endpoint = HubEndpoint {
            host: "provider.test".to_owned(),
            port: self.hub.local_addrs()[0].port(),
        };
        NodeConfig::new(member, vec![endpoint])
    }

    async fn end(&self, at: usize, carrier: Carrier) -> End<MeshTransport> {
        let end = End::new(self.node(at, &self.nodes[at], carrier));
        end.up().await;
        end
    }
}

fn packet(from: usize, to: usize, text: &[u8]) -> Vec<u8> {
    udp(&address(from), &address(to), text)
}

async fn talk(near: Carrier, far: Carrier) {
    let net = Net::new(2);
    let (mut a, mut b) = tokio::join!(net.end(0, near), net.end(1, far));
    assert_eq!(a.send(&[packet(0, 1, b"first")]).await.total(), 0);
    assert_eq!(b.receive().await, packet(0, 1, b"first"));
    for n in 0..100u8 {
        assert_eq!(b.send(&[packet(1, 0, &[n; 1000])]).await.total(), 0);
        assert_eq!(a.receive().await, packet(1, 0, &[n; 1000]));
    }
    let status = a.transport.status();
    assert_eq!(status.peers[0].stage, Stage::Relayed);
    assert_eq!(status.peers[0].path.carrier, Some(near));
    // A super-packet comes out as one stream, whether it went whole or not.
    let ends = ("10.77.0.2:80", "10.77.0.3:4000");
    let segment = build::tcp(
        ends.0,
        ends.1,
        vpn_core::packet::tcp_flags::ACK,
        1,
        &[7; 5000],
    );
    let mut big = Packet::from_slice(&segment);
    big.offload.gso = Some(Gso { size: 1000 });
    assert_eq!(a.send_packet(big).await.total(), 0);
    let mut bytes = 0;
    while bytes < 5000 {
        bytes += b.receive().await.len() - 40;
    }
    assert_eq!(bytes, 5000);
    let counted = a.transport.status().metrics("test");
    let by_streams = u64::from(near == Carrier::Tls);
    assert_eq!(counted.peers, [0, 1 - by_streams, by_streams, 0]);
    assert_eq!((counted.connected, counted.tx[1][0]), (1, 1 + 5));
    assert_eq!(counted.rx[1][0], 100);
    let hub = net.hub.status().hub.metrics("test");
    assert_eq!(hub.members, [2, 0, 0]);
    // L-29: nobody is asked about what is not a member's; it is dropped and counted, like what is
    // too large.
    let mut unknown = a.send(&[udp(&address(0), "192.0.2.1", b"?")]).await;
    assert_eq!(unknown.get(DropReason::AddressNotAllowed), 1);
    unknown = a.send(&[packet(0, 1, &[0; 1408])]).await;
    assert_eq!(unknown.get(DropReason::TooBig), 1);
    a.close().await;
    b.close().await;
    net.hub.close().await;
}

/// L-1, S-25: with keys, as it is meant to be used, packets arrive; and no TCP is inside of TCP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_talk_by_datagrams() {
    talk(Carrier::Udp, Carrier::Udp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_talk_by_streams() {
    talk(Carrier::Tls, Carrier::Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_may_have_datagrams_and_the_other_streams() {
    talk(Carrier::Udp, Carrier::Tls).await;
    talk(Carrier::Tls, Carrier::Udp).await;
}

/// L-9: who is not admitted gets nowhere, and is told why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_on_the_list_is_refused() {
    let net = Net::new(1);
    let stranger = Identity::generate().unwrap();
    let end = End::new(net.node(5, &stranger, Carrier::Udp));
    end.state(|state| matches!(state, TransportState::Down(DownCause::Refused(_))))
        .await;
    assert_eq!(net.hub.status().hub.members, 0);
    end.close().await;
    // Nor does somebody else's address help.
    let end = End::new(net.node(0, &stranger, Carrier::Tls));
    end.state(|state| matches!(state, TransportState::Down(DownCause::Refused(_))))
        .await;
    end.close().await;
    net.hub.close().await;
}

async fn restart(carrier: Carrier) {
    let mut net = Net::new(2);
    let at = net.hub.local_addrs()[0];
    let identity = Identity::generate().unwrap();
    net.hub.close().await;
    let config = HubConfig {
        members: (net.nodes.iter().enumerate())
            .map(|(at, node)| Admitted::new(node.id(), vec![address(at).parse().unwrap()]))
            .collect(),
        ..HubConfig::default()
    };
    let start = || {
        let listen = Listen::on(&[at], true).unwrap();
        HubServer::start(config.clone(), TlsLimits::default(), &identity, listen).unwrap()
    };
    net.hub = start();
    let (a, mut b) = tokio::join!(net.end(0, carrier), net.end(1, carrier));
    a.send(&[packet(0, 1, b"before")]).await;
    assert_eq!(b.receive().await, packet(0, 1, b"before"));
    net.hub.close().await;
    net.hub = start();
    let again = async {
        loop {
            a.send(&[packet(0, 1, b"after")]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if b.received.try_recv().is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    a.close().await;
    b.close().await;
    net.hub.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_started_again_is_found_again() {
    restart(Carrier::Udp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_is_one_that_is_reached_by_streams() {
    restart(Carrier::Tls).await;
}

/// What came by a stream and has no room in the caller's batch waits for the next call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_batch_loses_nothing() {
    const COUNT: usize = 60;
    let net = Net::new(2);
    let near = net.end(0, Carrier::Tls).await;
    let far = net.node(1, &net.nodes[1], Carrier::Tls);
    let (mut batch, mut drops) = (PacketBatch::new(2, 1500), DropCounters::default());
    let mut got = 0;
    let mut asked = false;
    let read = async {
        while got < COUNT {
            if !asked && matches!(far.state().get(), TransportState::Up(_)) {
                asked = true;
                let packets: Vec<_> = (0..COUNT).map(|n| packet(0, 1, &[n as u8; 9])).collect();
                assert_eq!(near.send(&packets).await.total(), 0);
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), far.readable()).await;
            got += far.try_recv(&mut batch, &mut drops).unwrap();
            batch.clear();
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    assert_eq!((got, drops.total()), (COUNT, 0));
    far.close().await;
    near.close().await;
    net.hub.close().await;
}

/// T8: no network is down at once; another one is asked at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_follows_the_network_below() {
    let net = Net::new(1);
    for carrier in [Carrier::Udp, Carrier::Tls] {
        let end = net.end(0, carrier).await;
        end.transport.network_changed(NetworkEvent::Lost);
        let now = end.transport.state().get();
        assert!(
            matches!(now, TransportState::Down(DownCause::Network(_))),
            "{now}"
        );
        end.transport.network_changed(NetworkEvent::Changed);
        end.up().await;
        end.close().await;
    }
    net.hub.close().await;
}

/// An underlay whose paths are as narrow as it is told.
#[derive(Debug)]
struct Narrow(Arc<AtomicU16>);

#[async_trait]
impl Underlay for Narrow {
    fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
        Plain.udp(local)
    }

    fn tcp(&self, remote: SocketAddr) -> Result<TcpStream, UnderlayError> {
        Plain.tcp(remote)
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
        Plain.resolve(host, port).await
    }

    fn mtu_to(&self, _: SocketAddr) -> Option<u16> {
        Some(self.0.load(Ordering::Relaxed))
    }
}

/// Inner packets are as large as the way to the hub leaves, which may change; streams carry any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mtu_follows_the_way_in_use() {
    let net = Net::new(2);
    let path = Arc::new(AtomicU16::new(1400));
    let narrow = |carrier| {
        let config = net.config(0, carrier);
        let underlay = Arc::new(Narrow(path.clone()));
        MeshTransport::start(config, net.nodes[0].clone(), underlay).unwrap()
    };
    let near = End::new(narrow(Carrier::Udp));
    let mut far = net.end(1, Carrier::Udp).await;
    let is = |mtu: u16| move |state: &TransportState| matches!(state, TransportState::Up(now) if now.mtu == mtu);
    // Less 28 of IPv4 and UDP, 32 of WireGuard, 12 of the relay.
    near.state(is(1328)).await;
    assert_eq!(near.transport.capabilities().mtu, 1328);
    let fits = packet(0, 1, &[1; 1300]);
    assert_eq!(fits.len(), 1328);
    assert_eq!(near.send(std::slice::from_ref(&fits)).await.total(), 0);
    assert_eq!(far.receive().await, fits);
    let dropped = near.send(&[packet(0, 1, &[1; 1301])]).await;
    assert_eq!(dropped.get(DropReason::TooBig), 1);
    path.store(1300, Ordering::Relaxed);
    near.state(is(1228)).await;
    path.store(9000, Ordering::Relaxed);
    near.state(is(1400)).await;
    near.close().await;
    path.store(1000, Ordering::Relaxed);
    let near = End::new(narrow(Carrier::Tls));
    near.state(is(1400)).await;
    near.close().await;
    far.close().await;
    net.hub.close().await;
}

/// Nobody has to call `close`: its tasks end, and its sockets are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_dropped_leaves_nothing() {
    let net = Net::new(1);
    let end = net.end(0, Carrier::Tls).await;
    let port = end.transport.local_addrs()[0].port();
    assert!(std::net::UdpSocket::bind(("0.0.0.0", port)).is_err());
    end.leave();
    let free = async {
        while std::net::UdpSocket::bind(("0.0.0.0", port)).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while net.hub.status().streams > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.unwrap();
    net.hub.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_returns_and_nothing_is_left() {
    let net = Net::new(1);
    let end = net.end(0, Carrier::Tls).await;
    let node = end.transport.clone();
    let (one, two) = (node.clone(), node.clone());
    let closed = async { tokio::join!(one.close(), two.close()) };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(node.state().get(), TransportState::Closed);
    let left = node.resources();
    assert_eq!((left.descriptors, left.tasks), (0, 0));
    assert!(node.local_addrs().is_empty());
    net.hub.close().await;
}
