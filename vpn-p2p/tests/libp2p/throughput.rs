//! G12 over libp2p: the pool beside the bare streams it is over, by turns in one run. Ignored: it measures,
//! and means something only if it was optimised.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::world::{config, everybody, identity};
use async_trait::async_trait;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use vpn_core::testing::build;
use vpn_core::{DropCounters, Offload, PacketBatch, PeerId};
use vpn_p2p::libp2p::{Node, StreamProtocol};
use vpn_p2p::streams::{Budget, PoolConfig, Stream, StreamOpener, StreamPool};

const BARE: StreamProtocol = StreamProtocol::new("/test/bare/1");
const POOLED: StreamProtocol = StreamProtocol::new("/test/pooled/1");

/// Bytes of one turn.
const TURN: usize = 64 << 20;

/// Turns of each.
const TURNS: usize = 7;

#[derive(Debug)]
struct To(Node, PeerId);

#[async_trait]
impl StreamOpener for To {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.0.open(self.1, POOLED).await?.compat()))
    }
}

async fn two(listen: &str) -> (Node, Node) {
    let start = |n: u8, bootstrap: &[_]| {
        let mut config = config(everybody(), bootstrap);
        config.listen = vec![listen.parse().unwrap()];
        Node::start(config, &identity(n)).unwrap()
    };
    let far = start(2, &[]);
    let mut endpoints = far.endpoints();
    endpoints.wait_for(|all| !all.is_empty()).await.unwrap();
    let near = start(1, &far.addresses());
    let places = far.endpoints().borrow().clone();
    near.connect(far.id(), places).await.unwrap();
    (near, far)
}

async fn bare(
    near: &mut vpn_p2p::libp2p::Stream,
    far: &mut vpn_p2p::libp2p::Stream,
    packet: &[u8],
) -> Duration {
    let count = TURN / packet.len();
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

async fn pooled(near: &StreamPool, far: &StreamPool, packet: &[u8]) -> Duration {
    let count = TURN / packet.len();
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

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn throughput_of_the_pool_beside_the_bare_stream() {
    for listen in ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"] {
        let (near, far) = two(listen).await;
        let mut taken = far.accept(BARE).unwrap();
        let mut streams = far.accept(POOLED).unwrap();
        let mut one = near.open(far.id(), BARE).await.unwrap();
        one.write_all(&[0]).await.unwrap();
        one.flush().await.unwrap();
        let (_, mut other) = taken.next().await.unwrap();
        other.read_exact(&mut [0]).await.unwrap();
        let one_stream = PoolConfig {
            max_streams_per_peer: 1,
            ..PoolConfig::default()
        };
        let to = Arc::new(To(near.clone(), far.id()));
        let there = StreamPool::listen(one_stream.clone(), Budget::new(64 << 20)).unwrap();
        let here = StreamPool::connect(to, one_stream, Budget::new(64 << 20)).unwrap();
        let there = Arc::new(there);
        let accepting = there.clone();
        tokio::spawn(async move {
            while let Some((_, stream)) = streams.next().await {
                let _ = accepting.accept(Box::new(stream.compat()));
            }
        });
        here.writable().await.unwrap();
        let small = build::udp("10.9.0.1:1", "10.9.0.2:7", &[7; 1372]);
        let large = build::super_tcp("10.9.0.1:1", "10.9.0.2:2", 0x10, 1, 1360, &[7; 64_000]);
        for packet in [&small[..], large.bytes()] {
            let (mut bares, mut pools) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                bares.push(bare(&mut one, &mut other, packet).await);
                pools.push(pooled(&here, &there, packet).await);
            }
            let (bare, pooled) = (median(bares), median(pools));
            let rate = |seconds: f64| TURN as f64 * 8.0 / seconds / 1e9;
            println!(
                "{listen}, {} bytes: bare {:.2} Gbit/s, pool {:.2} Gbit/s, {:.2} of it (goal: 0.9)",
                packet.len(),
                rate(bare),
                rate(pooled),
                bare / pooled
            );
        }
        near.close().await;
        far.close().await;
    }
}
