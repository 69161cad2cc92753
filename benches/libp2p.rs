//! G12 over libp2p: the pool beside the bare streams it is over, and what a member that takes nothing costs
//! the others, by turns in one run (feature `libp2p`).
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot run stops, and reports on standard output"
)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use tokio::sync::Notify;
use vpn_benches::side_by_side;
use vpn_core::testing::build;
use vpn_core::{DropCounters, Offload, PacketBatch, PeerId};
use vpn_p2p::identity::Identity;
use vpn_p2p::libp2p::{Admission, IncomingStreams, Node, NodeConfig, PacketStream, StreamProtocol};
use vpn_p2p::streams::{
    Budget, DispatchConfig, Dispatcher, Overflow, PeerOpener, PoolConfig, Stream, StreamOpener,
    StreamPool,
};

const BARE: StreamProtocol = StreamProtocol::new("/bench/bare/1");
const POOLED: StreamProtocol = StreamProtocol::new("/bench/pooled/1");

/// What a pool may have in memory.
const BUDGET: usize = 64 << 20;

#[derive(Debug)]
struct To(Node, PeerId);

#[async_trait]
impl StreamOpener for To {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(PacketStream::new(
            self.0.open(self.1, POOLED).await?,
        )))
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
            let _ = accepting.accept(Box::new(PacketStream::new(stream)));
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

/// Members that take what they are sent; there is one more.
const OTHERS: usize = 3;

/// Packets that may be on their way to each of the others.
const UNDER_WAY: u64 = 512;

/// Packets sent to one before it is another one's turn.
const BATCH: u64 = 64;

/// What the last member does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Nothing: it is sent nothing.
    Idle,
    /// It takes what it is sent.
    Takes,
    /// It is sent as much as the others, and reads none of it.
    Stalls,
}

#[derive(Debug)]
struct Many(Node);

#[async_trait]
impl PeerOpener for Many {
    async fn open(&self, peer: PeerId) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(PacketStream::new(
            self.0.open(peer, POOLED).await?,
        )))
    }
}

/// What arrived at one member.
#[derive(Debug, Default)]
struct Arrived(AtomicU64, Arc<Notify>);

/// A node, a dispatcher over it, and the members it sends to.
struct World {
    last: Last,
    nodes: Vec<Node>,
    dispatcher: Dispatcher,
    peers: Vec<(PeerId, Arc<Arrived>)>,
    came: Arc<Notify>,
}

/// Takes streams and, unless it stalls, packets.
async fn take(mut streams: IncomingStreams, arrived: Arc<Arrived>, reads: bool) {
    let pool = StreamPool::listen(PoolConfig::default(), Budget::new(BUDGET)).unwrap();
    let mut batch = PacketBatch::new(64, 66_000);
    loop {
        tokio::select! {
            Some((_, stream)) = streams.next() => pool.accept(Box::new(PacketStream::new(stream))).unwrap(),
            Ok(()) = pool.readable(), if reads => {
                let count = pool.try_recv(&mut batch).unwrap() as u64;
                batch.clear();
                arrived.0.fetch_add(count, Ordering::Relaxed);
                arrived.1.notify_one();
            }
            // The node ended.
            else => return,
        }
    }
}

async fn some(last: Last) -> World {
    let identities: Vec<Identity> = (1..=OTHERS as u8 + 2)
        .map(|n| Identity::from_bytes(&[n; 32]))
        .collect();
    let members: Vec<PeerId> = identities.iter().map(Identity::id).collect();
    let start = |identity| {
        let mut config = NodeConfig::new(Admission::list(members.clone()));
        config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
        config.loopback = true;
        config.use_relays = false;
        Node::start(config, identity).unwrap()
    };
    let nodes: Vec<Node> = identities.iter().map(start).collect();
    let came = Arc::new(Notify::new());
    let config = DispatchConfig {
        pool: PoolConfig {
            overflow: Overflow::DropNew,
            packet_buffer_size: 2 * UNDER_WAY as usize,
            // It stays stalled: replacing it is not what is measured.
            stall_after: Duration::from_secs(3600),
            max_streams_per_peer: 1,
            ..PoolConfig::default()
        },
        ..DispatchConfig::default()
    };
    let dispatcher = Dispatcher::new(Arc::new(Many(nodes[0].clone())), config).unwrap();
    let mut peers = Vec::new();
    for (at, node) in nodes.iter().enumerate().skip(1) {
        let mut endpoints = node.endpoints();
        endpoints.wait_for(|all| !all.is_empty()).await.unwrap();
        let places = node.endpoints().borrow().clone();
        nodes[0].connect(node.id(), places).await.unwrap();
        let arrived = Arc::new(Arrived(AtomicU64::new(0), came.clone()));
        let reads = at <= OTHERS || last == Last::Takes;
        let streams = node.accept(POOLED).unwrap();
        tokio::spawn(take(streams, arrived.clone(), reads));
        let pool = dispatcher.pool(node.id()).unwrap();
        pool.writable().await.unwrap();
        peers.push((node.id(), arrived));
    }
    World {
        last,
        nodes,
        dispatcher,
        peers,
        came,
    }
}

/// How long it takes until each of the others has `n` packets more; the last is sent as many.
async fn run(all: &World, packet: &[u8], n: u64) -> Duration {
    let (mut batch, mut drops) = (PacketBatch::new(64, 66_000), DropCounters::default());
    let mut send = |peer, count: u64| {
        for _ in 0..count {
            batch.push_with(|buffer| {
                buffer.extend_from_slice(packet);
                Some(Offload::NONE)
            });
        }
        all.dispatcher.send(peer, &mut batch, &mut drops).unwrap();
        batch.clear();
    };
    let (others, last) = all.peers.split_at(OTHERS);
    let before: Vec<u64> = others
        .iter()
        .map(|(_, arrived)| arrived.0.load(Ordering::Relaxed))
        .collect();
    let mut sent = [0; OTHERS];
    let started = Instant::now();
    loop {
        let came = all.came.notified();
        let mut moved = false;
        let mut missing = 0;
        for (at, (peer, arrived)) in others.iter().enumerate() {
            let got = arrived.0.load(Ordering::Relaxed) - before[at];
            missing += n - got;
            let count = BATCH.min(n - sent[at]);
            if count > 0 && sent[at] - got + count <= UNDER_WAY {
                send(*peer, count);
                sent[at] += count;
                moved = true;
                if at == 0 && all.last != Last::Idle {
                    send(last[0].0, count);
                }
            }
        }
        if missing == 0 {
            return started.elapsed();
        }
        if !moved {
            came.await;
        }
    }
}

fn a_member_that_stalls(_: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let packet = build::udp("10.9.0.1:1", "10.9.0.2:7", &[7; 1372]);
    let worlds = [Last::Takes, Last::Idle, Last::Stalls];
    let worlds = worlds.map(|last| runtime.block_on(some(last)));
    // Until the stalled one's windows and queue are full.
    runtime.block_on(run(&worlds[2], &packet, 8192));
    let [takes, idle, stalls] = &worlds;
    let once = |world: &World, n| runtime.block_on(run(world, &packet, n));
    let rows = side_by_side(
        "1,400 bytes to each of three members over libp2p, QUIC, and to a fourth (goal: <= 1.02 x)",
        &mut [
            ("that takes it", &mut |n| once(takes, n)),
            ("that is sent nothing", &mut |n| once(idle, n)),
            ("that stalls", &mut |n| once(stalls, n)),
        ],
    );
    println!(
        "the others' throughput beside one that stalls: {:.3} of that beside one that takes it, {:.3} of that without it",
        rows[0].nanos / rows[2].nanos,
        rows[1].nanos / rows[2].nanos
    );
    println!("{} bytes wait for it", stalls.dispatcher.waiting_bytes());
    runtime.block_on(async {
        for node in worlds.iter().flat_map(|world| &world.nodes) {
            node.close().await;
        }
    });
}

criterion_group!(benches, beside_the_bare_stream, a_member_that_stalls);
criterion_main!(benches);
