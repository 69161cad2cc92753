//! G12 over libp2p: the pool beside the bare streams it is over, by turns in one run (feature `libp2p`).
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot run stops, and reports on standard output"
)]

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use vpn_benches::side_by_side;
use vpn_core::testing::build;
use vpn_core::{DropCounters, Offload, PacketBatch, PeerId};
use vpn_p2p::identity::Identity;
use vpn_p2p::libp2p::{Admission, Node, NodeConfig, StreamProtocol};
use vpn_p2p::streams::{Budget, PoolConfig, Stream, StreamOpener, StreamPool};

const BARE: StreamProtocol = StreamProtocol::new("/bench/bare/1");
const POOLED: StreamProtocol = StreamProtocol::new("/bench/pooled/1");

/// What a pool may have in memory.
const BUDGET: usize = 64 << 20;

#[derive(Debug)]
struct To(Node, PeerId);

#[async_trait]
impl StreamOpener for To {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.0.open(self.1, POOLED).await?.compat()))
    }
}

/// Two nodes on loopback that are connected, by QUIC or TCP.
async fn two(listen: &str) -> (Node, Node) {
    let identities = [1, 2].map(|n| Identity::from_bytes(&[n; 32]));
    let members: Vec<PeerId> = identities.iter().map(Identity::id).collect();
    let start = |identity| {
        let mut config = NodeConfig::new(Admission::list(members.clone()));
        config.listen = vec![listen.parse().unwrap()];
        config.loopback = true;
        config.use_relays = false;
        Node::start(config, identity).unwrap()
    };
    let (near, far) = (start(&identities[0]), start(&identities[1]));
    let mut endpoints = far.endpoints();
    endpoints.wait_for(|all| !all.is_empty()).await.unwrap();
    let places = far.endpoints().borrow().clone();
    near.connect(far.id(), places).await.unwrap();
    (near, far)
}

async fn bare(
    ends: &mut (vpn_p2p::libp2p::Stream, vpn_p2p::libp2p::Stream),
    packet: &[u8],
    n: u64,
) -> Duration {
    let (near, far) = ends;
    let count = n as usize;
    let started = Instant::now();
    let write = async {
        for _ in 0..count {
            near.write_all(packet).await.unwrap();
        }
        near.flush().await.unwrap();
    };
    let read = async {
        let mut buffer = vec![0; 128 * 1024];
        let mut left = count * packet.len();
        while left > 0 {
            left -= far.read(&mut buffer).await.unwrap();
        }
    };
    tokio::join!(write, read);
    started.elapsed()
}

async fn pooled(ends: &(StreamPool, Arc<StreamPool>), packet: &[u8], n: u64) -> Duration {
    let (near, far) = ends;
    let count = n as usize;
    let started = Instant::now();
    let write = async {
        let (mut batch, mut drops) = (PacketBatch::new(64, 66_000), DropCounters::default());
        let mut left = count;
        while left > 0 || !batch.is_empty() {
            while left > 0
                && batch.push_with(|buffer| {
                    buffer.extend_from_slice(packet);
                    Some(Offload::NONE)
                })
            {
                left -= 1;
            }
            near.try_send(&mut batch, &mut drops).unwrap();
            if !batch.is_empty() {
                near.writable().await.unwrap();
            }
        }
        assert_eq!(drops.total(), 0);
    };
    let read = async {
        let mut batch = PacketBatch::new(64, 66_000);
        let mut left = count;
        while left > 0 {
            far.readable().await.unwrap();
            left -= far.try_recv(&mut batch).unwrap();
            batch.clear();
        }
    };
    tokio::join!(write, read);
    started.elapsed()
}

/// Both ends of a stream, and of a pool with one stream, over the same connection.
async fn ends(
    near: &Node,
    far: &Node,
) -> (
    (vpn_p2p::libp2p::Stream, vpn_p2p::libp2p::Stream),
    (StreamPool, Arc<StreamPool>),
) {
    let mut taken = far.accept(BARE).unwrap();
    let mut streams = far.accept(POOLED).unwrap();
    let mut one = near.open(far.id(), BARE).await.unwrap();
    one.write_all(&[0]).await.unwrap();
    one.flush().await.unwrap();
    let (_, mut other) = taken.next().await.unwrap();
    other.read_exact(&mut [0]).await.unwrap();
    let config = PoolConfig {
        max_streams_per_peer: 1,
        ..PoolConfig::default()
    };
    let to = Arc::new(To(near.clone(), far.id()));
    let there = StreamPool::listen(config.clone(), Budget::new(BUDGET)).unwrap();
    let here = StreamPool::connect(to, config, Budget::new(BUDGET)).unwrap();
    let there = Arc::new(there);
    let accepting = there.clone();
    tokio::spawn(async move {
        while let Some((_, stream)) = streams.next().await {
            let _ = accepting.accept(Box::new(stream.compat()));
        }
    });
    here.writable().await.unwrap();
    ((one, other), (here, there))
}

fn beside_the_bare_stream(_: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let small = build::udp("10.9.0.1:1", "10.9.0.2:7", &[7; 1372]);
    let large = build::super_tcp("10.9.0.1:1", "10.9.0.2:2", 0x10, 1, 1360, &[7; 64_000]);
    for (listen, name) in [
        ("/ip4/127.0.0.1/udp/0/quic-v1", "QUIC"),
        ("/ip4/127.0.0.1/tcp/0", "TCP, Noise, Yamux"),
    ] {
        let (near, far) = runtime.block_on(two(listen));
        let (mut stream, pools) = runtime.block_on(ends(&near, &far));
        for (packet, size) in [(&small[..], "1,400 bytes"), (large.bytes(), "64 KB")] {
            let rows = side_by_side(
                &format!("a packet of {size} over libp2p, {name} (goal: <= 1.11 x)"),
                &mut [
                    ("the bare stream", &mut |n| {
                        runtime.block_on(bare(&mut stream, packet, n))
                    }),
                    ("the pool over it", &mut |n| {
                        runtime.block_on(pooled(&pools, packet, n))
                    }),
                ],
            );
            let rate = |nanos: f64| packet.len() as f64 * 8.0 / nanos;
            let rates = rows.iter().map(|row| format!("{:.2}", rate(row.nanos)));
            println!("Gbit/s: {}", rates.collect::<Vec<_>>().join(", "));
            // The goal as it is named: throughput, beside that of the bare stream.
            println!("{:.2} of it (goal: >= 0.9)", rows[0].nanos / rows[1].nanos);
        }
        runtime.block_on(async { tokio::join!(near.close(), far.close()) });
    }
}

criterion_group!(benches, beside_the_bare_stream);
criterion_main!(benches);
