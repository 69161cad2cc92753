//! Many peers: what happens to one is met by no other. On a clock that only moves when all have
//! nothing to do.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vpn_core::testing::build;
use vpn_core::{DropCounters, DropReason, Packet, PacketBatch, PeerId, TransportError};
use vpn_p2p::streams::frame::{Control, Encoded, HEADER, Purpose, Session};
use vpn_p2p::streams::memory::{MemoryListener, MemoryOpener, memory};
use vpn_p2p::streams::{
    Budget, DispatchConfig, DispatchError, Dispatcher, Overflow, PeerOpener, PoolConfig, Stream,
    StreamOpener, StreamPool,
};

/// What a peer is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Reads,
    /// It answers, and then takes nothing.
    Stalls,
    /// It cannot even be dialled: that never returns.
    Hangs,
}

type Arrived = Arc<Mutex<HashMap<PeerId, u64>>>;

/// Peers in memory, each with a task that takes what comes.
#[derive(Debug)]
struct Peers {
    openers: HashMap<PeerId, MemoryOpener>,
    hanging: Vec<PeerId>,
}

#[async_trait]
impl PeerOpener for Peers {
    async fn open(&self, peer: PeerId) -> io::Result<Box<dyn Stream>> {
        if self.hanging.contains(&peer) {
            std::future::pending::<()>().await;
        }
        self.openers[&peer].open().await
    }
}

fn id(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn peers(kinds: &[Peer]) -> (Peers, Arrived) {
    let (mut openers, arrived) = (HashMap::new(), Arrived::default());
    for (n, kind) in kinds.iter().copied().enumerate() {
        let peer = id(n as u8);
        let (opener, listener) = memory(16 * 1024);
        openers.insert(peer, opener);
        let arrived = arrived.clone();
        tokio::spawn(async move {
            let pool = StreamPool::listen(PoolConfig::default(), Budget::new(1 << 20)).unwrap();
            let mut batch = PacketBatch::new(64, 2048);
            loop {
                tokio::select! {
                    Some(stream) = listener.accept() => pool.accept(Box::new(stream)).unwrap(),
                    Ok(()) = pool.readable(), if kind == Peer::Reads => {
                        let count = pool.try_recv(&mut batch).unwrap();
                        *arrived.lock().unwrap().entry(peer).or_default() += count as u64;
                        batch.clear();
                    }
                    else => return,
                }
            }
        });
    }
    let hangs = |n: &usize| kinds[*n] == Peer::Hangs;
    let hanging = (0..kinds.len())
        .filter(hangs)
        .map(|n| id(n as u8))
        .collect();
    (Peers { openers, hanging }, arrived)
}

/// Packets per peer and millisecond: the peers' streams could carry more.
const PER_ROUND: u16 = 4;
const ROUNDS: u64 = 1_000;

/// Sends to all peers alike; what each got, and what was refused.
async fn exchange(kinds: &[Peer]) -> (Vec<u64>, u64) {
    let (opener, arrived) = peers(kinds);
    let config = DispatchConfig {
        pool: PoolConfig {
            overflow: Overflow::DropNew,
            ..PoolConfig::default()
        },
        ..DispatchConfig::default()
    };
    let dispatcher = Dispatcher::new(Arc::new(opener), config).unwrap();
    for n in 0..kinds.len() {
        drop(dispatcher.pool(id(n as u8)).unwrap());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut drops, mut batch) = (DropCounters::default(), PacketBatch::new(16, 2048));
    for round in 0..ROUNDS {
        for n in 0..kinds.len() {
            for k in 0..PER_ROUND {
                let from = format!("10.5.0.2:{}", 1000 + k + PER_ROUND * (round % 50) as u16);
                let packet = build::udp(&*from, "203.0.113.10:7", &[7; 900]);
                batch.push(Packet::from_slice(&packet)).unwrap();
            }
            dispatcher
                .send(id(n as u8), &mut batch, &mut drops)
                .unwrap();
            // Of a peer that is not connected they stay.
            drops.add(DropReason::NoSession, batch.len() as u64);
            batch.clear();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    dispatcher.close().await;
    let got = arrived.lock().unwrap();
    let of = |n| got.get(&id(n as u8)).copied().unwrap_or_default();
    let result = (0..kinds.len()).map(of).collect();
    (result, drops.total())
}

/// Regressions S-7 and S-8: one of ten takes nothing, another is never even connected, and the other
/// eight get every packet, as they do without those two.
#[tokio::test(start_paused = true)]
async fn s7_s8_a_stalled_peer_slows_no_other() {
    let all = u64::from(PER_ROUND) * ROUNDS;
    let mut kinds = [Peer::Reads; 10];
    let (got, refused) = exchange(&kinds).await;
    assert_eq!((got, refused), (vec![all; 10], 0));
    (kinds[3], kinds[7]) = (Peer::Stalls, Peer::Hangs);
    let (got, refused) = exchange(&kinds).await;
    for (n, got) in got.into_iter().enumerate() {
        let wanted = if kinds[n] == Peer::Reads { all } else { 0 };
        assert_eq!(got, wanted, "peer {n}");
    }
    assert!(refused > all, "what nobody takes is dropped, and counted");
}

/// Regressions S-9 and S-17: peers that nobody talks to are forgotten, with every task of theirs.
#[tokio::test(start_paused = true)]
async fn s9_s17_idle_peers_go_and_leave_nothing() {
    let (opener, _) = peers(&[Peer::Reads; 3]);
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let config = DispatchConfig {
        max_peers: 2,
        ..DispatchConfig::default()
    };
    let dispatcher = Dispatcher::new(Arc::new(opener), config).unwrap();
    let before = tasks();
    drop(dispatcher.pool(id(0)).unwrap());
    let held = dispatcher.pool(id(1)).unwrap();
    let error = dispatcher.pool(id(2)).unwrap_err();
    assert!(matches!(error, DispatchError::TooManyPeers(2)));
    let (mut drops, mut batch) = (DropCounters::default(), PacketBatch::new(1, 2048));
    batch.push(Packet::from_slice(&[0x45; 20])).unwrap();
    assert_eq!(dispatcher.send(id(2), &mut batch, &mut drops).unwrap(), 0);
    assert_eq!((batch.len(), drops.get(DropReason::NoSession)), (0, 1));
    tokio::time::sleep(Duration::from_secs(420)).await;
    let left: Vec<_> = dispatcher
        .peers()
        .into_iter()
        .map(|(peer, _)| peer)
        .collect();
    assert_eq!(left, [id(1)], "the one that somebody holds");
    drop(held);
    dispatcher.close().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    // The peers' own ends are still there: one acceptor per stream is gone too by then.
    assert!(tasks() <= before + 2, "{} tasks, {before} before", tasks());
    assert!(matches!(dispatcher.pool(id(0)), Err(DispatchError::Closed)));
}

/// A peer that cannot be reached keeps its breaker: it is not forgotten, and dialled anew, as long as
/// somebody has something for it.
#[tokio::test(start_paused = true)]
async fn a_peer_that_is_down_is_kept_while_somebody_wants_it() {
    let (opener, _) = peers(&[Peer::Reads]);
    opener.openers[&id(0)].refuse(true);
    let dispatcher = Dispatcher::new(Arc::new(opener), DispatchConfig::default()).unwrap();
    let (mut drops, mut batch) = (DropCounters::default(), PacketBatch::new(1, 2048));
    for _ in 0..900 {
        let packet = build::udp("10.5.0.2:1000", "203.0.113.10:7", &[7; 900]);
        batch.push(Packet::from_slice(&packet)).unwrap();
        dispatcher.send(id(0), &mut batch, &mut drops).unwrap();
        batch.clear();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let failed = dispatcher
        .pool(id(0))
        .unwrap()
        .status()
        .counters
        .open_failed;
    assert!(
        (15..40).contains(&failed),
        "{failed} in a quarter of an hour"
    );
    tokio::time::sleep(Duration::from_secs(420)).await;
    assert!(dispatcher.peers().is_empty(), "nobody wants it any more");
    dispatcher.close().await;
}

async fn joined(config: PoolConfig) -> (StreamPool, StreamPool, tokio::task::JoinHandle<()>) {
    let (opener, listener) = memory(16 * 1024);
    let opener: Arc<dyn StreamOpener> = Arc::new(opener);
    let near = StreamPool::connect(opener, config.clone(), Budget::new(8 << 20)).unwrap();
    let far = StreamPool::listen(config, Budget::new(8 << 20)).unwrap();
    far.accept(Box::new(listener.accept().await.unwrap()))
        .unwrap();
    near.writable().await.unwrap();
    far.accept(Box::new(listener.accept().await.unwrap()))
        .unwrap();
    // Keeps the listener; no more streams are wanted.
    let kept = tokio::spawn(async move { while listener.accept().await.is_some() {} });
    (near, far, kept)
}

/// Regression S-12: what is sent to a closed pool stays with the caller, with an error.
#[tokio::test(start_paused = true)]
async fn s12_close_under_load_leaves_no_task_and_loses_nothing_silently() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let (near, far, kept) = joined(PoolConfig::default()).await;
    let (mut drops, mut batch) = (DropCounters::default(), PacketBatch::new(64, 2048));
    for n in 0..50_u16 {
        let from = format!("10.5.0.2:{}", 1000 + n);
        let packet = build::udp(&*from, "203.0.113.10:7", &[7; 900]);
        batch.push(Packet::from_slice(&packet)).unwrap();
    }
    assert_eq!(near.try_send(&mut batch, &mut drops).unwrap(), 50);
    tokio::task::yield_now().await;
    near.close().await;
    near.close().await;
    batch.push(Packet::from_slice(&[0x45; 20])).unwrap();
    let closed = near.try_send(&mut batch, &mut drops);
    assert!(matches!(closed, Err(TransportError::Closed)));
    assert_eq!(batch.len(), 1);
    let counters = near.status().counters;
    let gone = counters.delivered.packets + counters.drops.total();
    assert_eq!(counters.taken.packets, gone);
    far.close().await;
    kept.abort();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn a_bad_frame_ends_its_stream_only() {
    let (near, far, kept) = joined(PoolConfig::default()).await;
    let (mut ours, theirs) = tokio::io::duplex(1024);
    far.accept(Box::new(theirs)).unwrap();
    let hello = Encoded::control(Control::Hello {
        // Of the same peer, by its own word; who may say so is found out before.
        session: Session(9),
        number: 77,
        purpose: Purpose::Data,
    });
    ours.write_all(&hello.bytes()[..HEADER + 3]).await.unwrap();
    ours.write_all(b"GET / HTTP/1.1 is no greeting")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let read = ours.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    assert_eq!(read.unwrap().unwrap(), 0, "closed without a word");
    let (mut drops, mut batch) = (DropCounters::default(), PacketBatch::new(4, 2048));
    let packet = build::udp("10.5.0.2:1000", "203.0.113.10:7", b"still there");
    batch.push(Packet::from_slice(&packet)).unwrap();
    assert_eq!(near.try_send(&mut batch, &mut drops).unwrap(), 1);
    far.readable().await.unwrap();
    assert_eq!(far.try_recv(&mut batch).unwrap(), 1);
    assert_eq!(batch.packets()[0].bytes(), packet);
    assert_eq!(near.status().counters.broken, 0);
    kept.abort();
}

/// Four connections' packets go from one pool to the other.
async fn four_packets(from: &StreamPool, to: &StreamPool) {
    let (mut drops, mut batch) = (DropCounters::default(), PacketBatch::new(8, 2048));
    for n in 0..4_u16 {
        let source = format!("10.5.0.2:{}", 1000 + n);
        let packet = build::udp(&*source, "203.0.113.10:7", &[7; 900]);
        batch.push(Packet::from_slice(&packet)).unwrap();
    }
    assert_eq!(from.try_send(&mut batch, &mut drops).unwrap(), 4);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(to.try_recv(&mut batch).unwrap(), 4);
}

/// Hands on the streams that come, until the pool is closed.
fn accepting(listener: MemoryListener, pool: Arc<StreamPool>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            if pool.accept(Box::new(stream)).is_err() {
                break;
            }
        }
    })
}

/// Both ends open streams, and both accept the other's: one pool each, and either way carries.
#[tokio::test(start_paused = true)]
async fn both_ends_may_open_streams() {
    let (to_b, at_b) = memory(4096);
    let (to_a, at_a) = memory(4096);
    let pool = |opener| {
        let pool = StreamPool::connect(
            Arc::new(opener),
            PoolConfig::default(),
            Budget::new(1 << 20),
        );
        Arc::new(pool.unwrap())
    };
    let (a, b) = (pool(to_b), pool(to_a));
    let tasks = [accepting(at_a, a.clone()), accepting(at_b, b.clone())];
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        four_packets(from, to).await;
        assert_eq!(from.status().counters.delivered.packets, 4);
        assert_eq!(from.status().streams, 2, "its own and the other's");
    }
    assert_eq!(
        (a.status().counters.broken, b.status().counters.broken),
        (0, 0)
    );
    a.close().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(b.status().counters.broken, 2);
    b.close().await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A peer that is started anew counts its streams from the beginning. What becomes of those of its
/// predecessor, whose end is heard of late, is not theirs.
#[tokio::test(start_paused = true)]
async fn streams_of_a_peer_that_was_started_anew_are_not_its_old_ones() {
    let far = StreamPool::listen(PoolConfig::default(), Budget::new(1 << 20));
    let far = Arc::new(far.unwrap());
    let mut old = Vec::new();
    for number in 0..3 {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        far.accept(Box::new(theirs)).unwrap();
        let hello = Encoded::control(Control::Hello {
            session: Session(9),
            number,
            purpose: Purpose::Data,
        });
        ours.write_all(hello.bytes()).await.unwrap();
        old.push(ours);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(far.status().streams, 3);
    let (opener, listener) = memory(64 * 1024);
    let config = PoolConfig {
        warm_streams: 3,
        ..PoolConfig::default()
    };
    let near = StreamPool::connect(Arc::new(opener), config, Budget::new(1 << 20)).unwrap();
    let task = accepting(listener, far.clone());
    for heard in [false, true] {
        if heard {
            old.clear();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (from, to) in [(&*far, &near), (&near, &*far)] {
            four_packets(from, to).await;
        }
        assert_eq!((far.status().streams, near.status().streams), (3, 3));
        assert_eq!(far.status().counters.broken, 3);
        assert_eq!(near.status().counters.broken, 0);
    }
    task.abort();
}
