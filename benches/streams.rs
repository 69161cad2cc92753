//! G12: what dispatcher, frames and pool cost beside the bare stream below them, and what a peer that
//! takes nothing costs the others.
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that cannot run stops, and reports on standard output"
)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::hint::black_box;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use vpn_benches::{heading, is_smoke_test, ruler::median, side_by_side};
use vpn_core::testing::build;
use vpn_core::{DropCounters, Offload, Packet, PacketBatch, PeerId};
use vpn_p2p::streams::frame::{Control, Encoded, Frame, decode};
use vpn_p2p::streams::memory::{MemoryOpener, memory};
use vpn_p2p::streams::pool::{Action, Offer};
use vpn_p2p::streams::{
    Budget, DispatchConfig, Dispatcher, Overflow, PeerOpener, Pool, PoolConfig, Session, Stream,
    StreamId, StreamOpener, StreamPool, TcpOpener,
};

/// Packets per batch.
const BATCH: usize = 64;

/// Bytes that a stream in memory holds: what a socket holds, about.
const HELD: usize = 256 * 1024;

fn small(connection: u16) -> Vec<u8> {
    let from = format!("10.5.0.2:{}", 1000 + connection);
    build::udp(&*from, "203.0.113.10:7", &[7; 1372])
}

fn large() -> Vec<u8> {
    let whole = build::super_tcp("10.5.0.2:1", "192.0.2.1:2", 0x10, 1, 1360, &[7; 64_000]);
    whole.bytes().to_vec()
}

/// A pool with one open stream.
fn open() -> (Pool, StreamId) {
    let (config, budget) = (PoolConfig::default(), Budget::new(64 << 20));
    let mut pool = Pool::new(config, true, Session(1), budget, Instant::now()).unwrap();
    let Some(Action::Open(id)) = pool.take_action() else {
        panic!("it opens a stream at once");
    };
    pool.opened(id);
    let session = Session(2);
    let welcome = Frame::Control(Control::Welcome { session });
    pool.received(Instant::now(), id, welcome).unwrap();
    (pool, id)
}

/// Offers `n` packets of 64 connections; writing and acknowledging them is off the clock unless
/// `whole`.
fn dispatch(n: u64, whole: bool) -> Duration {
    let (mut pool, id) = open();
    let (now, mut out) = (Instant::now(), Vec::new());
    let (mut sent, mut bytes, mut took) = (0, 0, Duration::ZERO);
    for _ in 0..n.div_ceil(BATCH as u64) {
        let made = (0..BATCH as u16).map(|c| Packet::from_slice(&small(c)));
        let mut packets: Vec<Packet> = made.collect();
        let mut started = Instant::now();
        for packet in &mut packets {
            bytes += packet.len() as u64;
            assert_eq!(pool.offer(now, packet), Offer::Taken);
        }
        if !whole {
            took += started.elapsed();
        }
        pool.next_write(now, id, 1 << 20, &mut out);
        sent += BATCH as u64;
        let ack = Control::Ack {
            packets: sent,
            bytes,
        };
        pool.received(now, id, Frame::Control(ack)).unwrap();
        if whole {
            took += started.elapsed();
        }
        started = Instant::now();
        black_box(started);
        out.clear();
    }
    took.mul_f64(n as f64 / (n.div_ceil(BATCH as u64) * BATCH as u64) as f64)
}

fn parsed(n: u64) -> Duration {
    let made = (0..BATCH as u16).map(|c| Packet::from_slice(&small(c)));
    let packets: Vec<Packet> = made.collect();
    vpn_benches::timed(n, || {
        let packet = &packets[0];
        black_box(black_box(packet).parse().is_ok())
    })
}

fn encode(n: u64) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..n.div_ceil(BATCH as u64) {
        let made = (0..BATCH as u16).map(|c| Packet::from_slice(&small(c)));
        let packets: Vec<Packet> = made.collect();
        let mut frames = Vec::with_capacity(BATCH);
        let started = Instant::now();
        frames.extend(packets.into_iter().map(Encoded::packet));
        took += started.elapsed();
        black_box(&frames);
    }
    took.mul_f64(n as f64 / (n.div_ceil(BATCH as u64) * BATCH as u64) as f64)
}

fn decoded(n: u64) -> Duration {
    let mut wire = Vec::new();
    for connection in 0..BATCH as u16 {
        wire.extend_from_slice(Encoded::packet(Packet::from_slice(&small(connection))).bytes());
    }
    let mut took = Duration::ZERO;
    for _ in 0..n.div_ceil(BATCH as u64) {
        let mut bytes = BytesMut::from(&wire[..]);
        let started = Instant::now();
        while let Some(frame) = decode(&mut bytes).unwrap() {
            black_box(frame);
        }
        took += started.elapsed();
    }
    took.mul_f64(n as f64 / (n.div_ceil(BATCH as u64) * BATCH as u64) as f64)
}

fn copied(n: u64) -> Duration {
    let packet = small(1);
    let mut to = vec![0; packet.len()];
    vpn_benches::timed(n, || {
        to.copy_from_slice(black_box(&packet));
        black_box(&to);
    })
}

fn in_memory(criterion: &mut Criterion) {
    criterion.bench_function("streams/offer", |b| b.iter_custom(|n| dispatch(n, false)));
    side_by_side(
        "one packet of 1,400 bytes through the pure parts",
        &mut [
            ("copying it", &mut copied),
            ("parsing it", &mut parsed),
            ("offer: parse, lane, stream, queue", &mut |n| {
                dispatch(n, false)
            }),
            ("offer, write, acknowledge", &mut |n| dispatch(n, true)),
            ("encoding its frame", &mut encode),
            ("decoding its frame", &mut decoded),
        ],
    );
}

/// What carries the bytes.
#[derive(Clone, Copy)]
enum Below {
    Memory,
    Tcp,
}

async fn stream(below: Below) -> (Box<dyn Stream>, Box<dyn Stream>) {
    match below {
        Below::Memory => {
            let (near, far) = tokio::io::duplex(HELD);
            (Box::new(near), Box::new(far))
        }
        Below::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            let (near, far) = tokio::join!(TcpStream::connect(at), listener.accept());
            let (near, far) = (near.unwrap(), far.unwrap().0);
            near.set_nodelay(true).unwrap();
            (Box::new(near), Box::new(far))
        }
    }
}

/// Both ends' owner: the stream as it is. A batch is filled as a device fills it, and written.
async fn bare(ends: &mut (Box<dyn Stream>, Box<dyn Stream>), packet: &[u8], n: u64) -> Duration {
    let (near, far) = ends;
    let started = Instant::now();
    let write = async {
        let mut batch = PacketBatch::new(BATCH, 66_000);
        let mut left = n;
        while left > 0 {
            left -= fill(&mut batch, packet, left);
            for packet in batch.packets() {
                near.write_all(packet.bytes()).await.unwrap();
            }
            batch.clear();
        }
    };
    let read = async {
        let mut buffer = vec![0; 128 * 1024];
        let mut left = n as usize * packet.len();
        while left > 0 {
            left -= far.read(&mut buffer).await.unwrap();
        }
    };
    tokio::join!(write, read);
    started.elapsed()
}

fn fill(batch: &mut PacketBatch, packet: &[u8], most: u64) -> u64 {
    let before = batch.len();
    while ((batch.len() - before) as u64) < most {
        let filled = batch.push_with(|buf| {
            buf.extend_from_slice(packet);
            Some(Offload::NONE)
        });
        if !filled {
            break;
        }
    }
    (batch.len() - before) as u64
}

async fn pooled(ends: &(StreamPool, StreamPool), packet: &[u8], n: u64) -> Duration {
    let (near, far) = ends;
    let started = Instant::now();
    let write = async {
        let (mut batch, mut drops) = (PacketBatch::new(BATCH, 66_000), DropCounters::default());
        let mut left = n;
        loop {
            left -= fill(&mut batch, packet, left);
            if batch.is_empty() {
                break;
            }
            near.try_send(&mut batch, &mut drops).unwrap();
            if !batch.is_empty() {
                near.writable().await.unwrap();
            }
        }
        assert_eq!(drops.total(), 0);
    };
    let read = async {
        let mut batch = PacketBatch::new(BATCH, 66_000);
        let mut left = n as usize;
        while left > 0 {
            far.readable().await.unwrap();
            left -= far.try_recv(&mut batch).unwrap();
            batch.clear();
        }
    };
    tokio::join!(write, read);
    started.elapsed()
}

async fn pools(below: Below) -> (StreamPool, StreamPool) {
    let config = PoolConfig {
        max_streams_per_peer: 1,
        ..PoolConfig::default()
    };
    let far = StreamPool::listen(config.clone(), Budget::new(64 << 20)).unwrap();
    let connect = |opener: Arc<dyn StreamOpener>| {
        StreamPool::connect(opener, config.clone(), Budget::new(64 << 20)).unwrap()
    };
    let near = match below {
        Below::Memory => {
            let (opener, listener) = memory(HELD);
            let near = connect(Arc::new(opener));
            far.accept(Box::new(listener.accept().await.unwrap()))
                .unwrap();
            near.writable().await.unwrap();
            far.accept(Box::new(listener.accept().await.unwrap()))
                .unwrap();
            near
        }
        Below::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = connect(Arc::new(TcpOpener::new(listener.local_addr().unwrap())));
            far.accept(Box::new(listener.accept().await.unwrap().0))
                .unwrap();
            near.writable().await.unwrap();
            far.accept(Box::new(listener.accept().await.unwrap().0))
                .unwrap();
            near
        }
    };
    (near, far)
}

fn beside_the_bare_stream(_: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (below, name) in [(Below::Memory, "in memory"), (Below::Tcp, "TCP, loopback")] {
        for (packet, size) in [(small(1), "1,400 bytes"), (large(), "64 KB")] {
            let mut ends = runtime.block_on(stream(below));
            let pools = runtime.block_on(pools(below));
            let rows = side_by_side(
                &format!("a packet of {size} over a stream, {name} (goal: <= 1.11 x)"),
                &mut [
                    ("the bare stream", &mut |n| {
                        runtime.block_on(bare(&mut ends, &packet, n))
                    }),
                    ("the pool over it", &mut |n| {
                        runtime.block_on(pooled(&pools, &packet, n))
                    }),
                ],
            );
            let rate = |nanos: f64| packet.len() as f64 * 8.0 / nanos;
            let rates = rows.iter().map(|row| format!("{:.1}", rate(row.nanos)));
            println!("Gbit/s: {}", rates.collect::<Vec<_>>().join(", "));
        }
    }
}

/// Peers in memory.
#[derive(Debug)]
struct Peers(HashMap<PeerId, MemoryOpener>);

#[async_trait]
impl PeerOpener for Peers {
    async fn open(&self, peer: PeerId) -> io::Result<Box<dyn Stream>> {
        self.0[&peer].open().await
    }
}

const PEERS: u8 = 10;

/// Ten peers, of which the last takes packets or does not, and how long the other nine need for theirs.
struct Ten {
    runtime: Runtime,
    dispatcher: Dispatcher,
    got: Rc<RefCell<[u64; PEERS as usize]>>,
    local: tokio::task::LocalSet,
}

fn id(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn ten(last_reads: bool) -> Ten {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (local, got) = (tokio::task::LocalSet::new(), Rc::new(RefCell::default()));
    let mut openers = HashMap::new();
    for n in 0..PEERS {
        let (opener, listener) = memory(HELD);
        openers.insert(id(n), opener);
        let got: Rc<RefCell<[u64; PEERS as usize]>> = Rc::clone(&got);
        local.spawn_local(async move {
            let pool = StreamPool::listen(PoolConfig::default(), Budget::new(1 << 20)).unwrap();
            let mut batch = PacketBatch::new(BATCH, 2048);
            let reads = n + 1 < PEERS || last_reads;
            loop {
                tokio::select! {
                    Some(stream) = listener.accept() => pool.accept(Box::new(stream)).unwrap(),
                    Ok(()) = pool.readable(), if reads => {
                        got.borrow_mut()[usize::from(n)] += pool.try_recv(&mut batch).unwrap() as u64;
                        batch.clear();
                    }
                }
            }
        });
    }
    let config = DispatchConfig {
        pool: PoolConfig {
            overflow: Overflow::DropNew,
            // It stays stalled: replacing it is not what is measured.
            stall_after: Duration::from_secs(3600),
            max_streams_per_peer: 1,
            ..PoolConfig::default()
        },
        ..DispatchConfig::default()
    };
    let dispatcher = runtime.block_on(local.run_until(async {
        let dispatcher = Dispatcher::new(Arc::new(Peers(openers)), config).unwrap();
        for n in 0..PEERS {
            let pool = dispatcher.pool(id(n)).unwrap();
            pool.writable().await.unwrap();
        }
        dispatcher
    }));
    Ten {
        runtime,
        dispatcher,
        got,
        local,
    }
}

impl Ten {
    /// Each of the nine gets `n` packets, one batch after the other, and the tenth is sent as many.
    fn run(&mut self, n: u64) -> Duration {
        let (dispatcher, got) = (&self.dispatcher, &self.got);
        let packet = small(1);
        self.runtime.block_on(self.local.run_until(async {
            let (mut batch, mut drops) = (PacketBatch::new(BATCH, 2048), DropCounters::default());
            let mut wanted = *got.borrow();
            let started = Instant::now();
            let mut left = n;
            while left > 0 {
                let most = left.min(BATCH as u64);
                for peer in 0..PEERS {
                    fill(&mut batch, &packet, most);
                    dispatcher.send(id(peer), &mut batch, &mut drops).unwrap();
                    batch.clear();
                    wanted[usize::from(peer)] += most;
                }
                left -= most;
                let nine = ..usize::from(PEERS) - 1;
                while got.borrow()[nine] != wanted[nine] {
                    tokio::task::yield_now().await;
                }
            }
            started.elapsed()
        }))
    }
}

fn a_stalled_peer(_: &mut Criterion) {
    let (mut all, mut nine) = (ten(true), ten(false));
    // Until the stalled one's queue is full.
    nine.run(4096);
    let rows = side_by_side(
        "a packet to each of nine peers, and to a tenth (goal: <= 1.02 x)",
        &mut [
            ("that takes it", &mut |n| all.run(n)),
            ("that stalls", &mut |n| nine.run(n)),
        ],
    );
    heading("what a stalled peer leaves the others");
    let share = median(vec![rows[0].nanos / rows[1].nanos]);
    println!("{:.3} of their throughput", share);
    if !is_smoke_test() {
        let waiting = nine.dispatcher.waiting_bytes();
        println!("{waiting} bytes wait for it");
    }
}

criterion_group!(benches, in_memory, beside_the_bare_stream, a_stalled_peer);
criterion_main!(benches);
