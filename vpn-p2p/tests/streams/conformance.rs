//! The tunnel over streams keeps the contract of a transport.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use vpn_core::testing::conformance::{
    FarEnd, TransportFixture, number_of, numbered, tunnel_transport,
};
use vpn_core::{Assigned, DropCounters, Packet, PacketBatch, TunnelTransport};
use vpn_p2p::streams::memory::{MemoryListener, memory};
use vpn_p2p::streams::{Budget, PoolConfig, StreamTransport, StreamTunnel, TcpOpener};

fn tunnel() -> StreamTunnel {
    StreamTunnel {
        assigned: Assigned {
            addresses: vec!["10.5.0.2/24".parse().unwrap()],
            mtu: 1400,
            ..Assigned::default()
        },
        allowed: vec!["0.0.0.0/0".parse().unwrap()],
        config: PoolConfig::default(),
    }
}

/// One end opens streams, and the other accepts them once it is told to answer.
struct Fixture {
    near: StreamTransport,
    far: Arc<StreamTransport>,
    answers: watch::Sender<bool>,
    batch: Mutex<PacketBatch>,
    /// What the far end has accepted packets from.
    acceptor: tokio::task::JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

enum Listener {
    Memory(MemoryListener),
    Tcp(tokio::net::TcpListener),
}

impl Listener {
    async fn accept(&self) -> Box<dyn vpn_p2p::streams::Stream> {
        match self {
            Self::Memory(listener) => Box::new(listener.accept().await.unwrap()),
            Self::Tcp(listener) => Box::new(listener.accept().await.unwrap().0),
        }
    }
}

impl Fixture {
    async fn new(tcp: bool) -> Self {
        let (listener, near) = if tcp {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let opener = TcpOpener::new(listener.local_addr().unwrap());
            let near = StreamTransport::connect(Arc::new(opener), tunnel(), Budget::new(1 << 20));
            (Listener::Tcp(listener), near)
        } else {
            let (opener, listener) = memory(4096);
            let near = StreamTransport::connect(Arc::new(opener), tunnel(), Budget::new(1 << 20));
            (Listener::Memory(listener), near)
        };
        let far = StreamTransport::listen(tunnel(), Budget::new(1 << 20)).unwrap();
        let (answers, mut told) = watch::channel(false);
        let far = Arc::new(far);
        let accepting = far.clone();
        let acceptor = tokio::spawn(async move {
            told.wait_for(|&answers| answers).await.unwrap();
            loop {
                let stream = listener.accept().await;
                let _ = accepting.accept(stream);
            }
        });
        Self {
            near: near.unwrap(),
            far,
            answers,
            batch: Mutex::new(PacketBatch::new(8, 2048)),
            acceptor,
        }
    }
}

#[async_trait]
impl FarEnd for Fixture {
    async fn send(&self, number: u16) {
        let mut batch = PacketBatch::new(1, 2048);
        batch.push(Packet::from_slice(&numbered(number))).unwrap();
        let mut drops = DropCounters::default();
        while !batch.is_empty() {
            self.far.writable().await.unwrap();
            self.far.try_send(&mut batch, &mut drops).unwrap();
        }
        assert_eq!(drops.total(), 0);
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
        self.answers.send_replace(true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_memory_it_conforms() {
    tunnel_transport(async || Fixture::new(false).await)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_it_conforms() {
    tunnel_transport(async || Fixture::new(true).await)
        .await
        .unwrap();
}
