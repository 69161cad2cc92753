//! What a directory costs each node and how old its answers are, with ten and with a thousand of them, on
//! virtual time: a directory that answers late and loses requests and answers.
//!
//! ```text
//! cargo test -p vpn-p2p --features directory --test directory_scale -- --nocapture
//! DIRECTORY_PLOT=benches/pictures/directory.svg …   # draws what it measured
//! ```
//!
//! Every node asks for a peer every two seconds, nine times of ten for one of ten friends, and now and then
//! moves: then it publishes a new record, and what others remember of it is old.
#![cfg(feature = "directory")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it measured"
)]

#[path = "common/plot.rs"]
mod plot;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord};
use vpn_p2p::directory::{
    Book, CacheConfig, CheckedDirectory, Draft, MemoryDirectory, Terms, UnixClock, encode,
};
use vpn_p2p::identity::Identity;

const TERMS: Terms = Terms::new(b"test record v1\0");

/// How long nodes are observed.
const OBSERVED: Duration = Duration::from_secs(600);

/// Between two questions of a node.
const EVERY: Duration = Duration::from_secs(2);

/// Peers that a node asks for most of the time.
const FRIENDS: u64 = 10;

/// After about so long, a node moves.
const STAYS: u64 = 300;

/// Of a hundred requests, and of as many answers, so many are lost.
const LOST: u64 = 5;

/// How late an answer is, in milliseconds.
const LATE: std::ops::Range<u64> = 20..200;

/// After so long an answer is not waited for; a question is asked so often.
const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: usize = 4;

/// Bytes of headers around what is sent: IPv6 and UDP.
const AROUND: u64 = 48;

/// The same numbers in each run.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// The directory as one node has it: far away.
#[derive(Debug)]
struct Remote {
    server: Arc<MemoryDirectory>,
    dice: Mutex<Dice>,
    bytes: AtomicU64,
}

impl Remote {
    fn roll(&self, end: u64) -> u64 {
        self.dice.lock().unwrap().below(end)
    }

    fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(AROUND + bytes as u64, Relaxed);
    }

    /// A request of so many bytes, answered by `ask` with so many.
    async fn request<T, F>(&self, bytes: usize, ask: impl Fn() -> F) -> Result<T, DirectoryError>
    where
        F: Future<Output = Result<(T, usize), DirectoryError>>,
    {
        for _ in 0..TRIES {
            self.sent(bytes);
            let half = Duration::from_millis(LATE.start + self.roll(LATE.end - LATE.start)) / 2;
            let (asked, answered) = (self.roll(100) >= LOST, self.roll(100) >= LOST);
            let answer = timeout(PATIENCE, async {
                sleep(half).await;
                if !asked {
                    std::future::pending::<()>().await;
                }
                let answer = ask().await;
                sleep(half).await;
                if !answered {
                    std::future::pending::<()>().await;
                }
                answer
            });
            match answer.await {
                Ok(Ok((answer, bytes))) => {
                    self.sent(bytes);
                    return Ok(answer);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Err(DirectoryError::Unavailable("no answer".into()))
    }
}

#[async_trait]
impl PeerDirectory for Remote {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        let bytes = encode(&record).len();
        let published = self.request(bytes, || {
            let (server, record) = (Arc::clone(&self.server), record.clone());
            async move {
                let sequence = record.sequence;
                match server.publish(record).await {
                    // An earlier try came there, and its answer was lost.
                    Err(DirectoryError::Stale { have, .. }) if have == sequence => Ok(((), 1)),
                    other => other.map(|()| ((), 1)),
                }
            }
        });
        published.await
    }
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        let asked = self.request(peer.0.len(), || {
            let server = Arc::clone(&self.server);
            async move {
                let found = server.resolve(peer).await?;
                let bytes = found.as_ref().map_or(1, |record| encode(record).len());
                Ok((found, bytes))
            }
        });
        asked.await
    }
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        self.server.resolve_address(address).await
    }
    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        std::future::pending().await
    }
}

/// What all nodes did and saw.
#[derive(Debug, Default)]
struct Seen {
    lookups: u64,
    failed: u64,
    /// How long each took.
    took: Vec<Duration>,
    /// By how much each answer was behind what its peer said at the time; zero for the newest.
    behind: Vec<Duration>,
}

/// When each record of a node was published: by sequence number, from 1.
type Truth = Arc<Mutex<Vec<Instant>>>;

fn identity(node: u64) -> Identity {
    let mut secret = [9; 32];
    secret[..8].copy_from_slice(&node.to_be_bytes());
    Identity::from_bytes(&secret)
}

fn record(node: u64, sequence: u64, unix: u64) -> PeerRecord {
    let draft = Draft {
        addresses: vec![[10, 64, (node >> 8) as u8, node as u8].into()],
        sequence,
        expires: unix + 3600,
        // A few places where a node can be reached.
        body: vec![0; 150].into(),
    };
    draft.sign(&identity(node), &TERMS).unwrap()
}

/// One node's day.
#[derive(Debug)]
struct Node {
    number: u64,
    directory: CheckedDirectory<Remote>,
    clock: UnixClock,
    peers: Arc<Vec<PeerId>>,
    truth: Arc<Vec<Truth>>,
    dice: Dice,
    seen: Seen,
}

impl Node {
    async fn say(&self) {
        let sequence = {
            let mut said = self.truth[self.number as usize].lock().unwrap();
            said.push(Instant::now());
            said.len() as u64
        };
        let record = record(self.number, sequence, self.clock.now());
        while self.directory.publish(record.clone()).await.is_err() {
            sleep(PATIENCE).await;
        }
    }

    fn somebody(&mut self) -> usize {
        let count = self.peers.len() as u64;
        let near = self.dice.below(10) < 9;
        let range = if near {
            FRIENDS.min(count - 1)
        } else {
            count - 1
        };
        let step = 1 + self.dice.below(range);
        ((self.number + step) % count) as usize
    }

    async fn look_up(&mut self) {
        let whom = self.somebody();
        let began = Instant::now();
        let found = self.directory.resolve(self.peers[whom]).await;
        self.seen.lookups += 1;
        self.seen.took.push(began.elapsed());
        let Ok(Some(found)) = found else {
            self.seen.failed += 1;
            return;
        };
        // Since when there is a newer one.
        let said = self.truth[whom].lock().unwrap();
        let newer = said.get(found.sequence as usize);
        let behind = newer.map_or(Duration::ZERO, |at| at.elapsed());
        self.seen.behind.push(behind);
    }

    async fn run(mut self) -> (Seen, u64, f64) {
        let start = Duration::from_millis(self.dice.below(5000));
        sleep(start).await;
        self.say().await;
        // All are there before the first is asked for.
        sleep(Duration::from_secs(30) - start).await;
        let before = self.directory.inner().bytes.load(Relaxed);
        let end = Instant::now() + OBSERVED;
        let mut move_at = Instant::now() + Duration::from_secs(self.dice.below(2 * STAYS));
        while Instant::now() < end {
            if move_at <= Instant::now() {
                self.say().await;
                move_at = Instant::now() + Duration::from_secs(self.dice.below(2 * STAYS));
            }
            self.look_up().await;
            sleep(EVERY).await;
        }
        let bytes = self.directory.inner().bytes.load(Relaxed) - before;
        let asked = self.directory.counts().asked;
        (self.seen, bytes, asked as f64)
    }
}

/// What a size costs.
#[derive(Clone, Copy, Debug)]
struct Cost {
    nodes: usize,
    /// Lookups of a node in a minute, and how many of them asked the directory.
    lookups: f64,
    asked: f64,
    /// Bytes of a node in a second, both ways.
    bytes: f64,
    /// Lookups that found nobody, in a thousand.
    failed: f64,
    /// The part of answers that were not the newest, in a hundred; by how many seconds the 95th and the
    /// worst answer was behind.
    old: f64,
    behind: f64,
    worst: f64,
    /// Milliseconds that the 95th lookup took.
    took: f64,
}

async fn cost(nodes: usize) -> Cost {
    let start = Instant::now();
    let clock = UnixClock::new(move || 1_000_000 + start.elapsed().as_secs());
    let book = || Book::new(TERMS);
    let server = Arc::new(MemoryDirectory::with(book(), clock.clone()));
    let peers = Arc::new((0..nodes as u64).map(|n| identity(n).id()).collect());
    let truth: Arc<Vec<Truth>> = Arc::new((0..nodes).map(|_| Truth::default()).collect());
    let mut running = JoinSet::new();
    for number in 0..nodes as u64 {
        let remote = Remote {
            server: Arc::clone(&server),
            dice: Mutex::new(Dice(number << 20)),
            bytes: AtomicU64::new(0),
        };
        let cache = CacheConfig::default();
        let node = Node {
            number,
            directory: CheckedDirectory::new(remote, book(), cache, clock.clone()),
            clock: clock.clone(),
            peers: Arc::clone(&peers),
            truth: Arc::clone(&truth),
            dice: Dice(number.rotate_right(17)),
            seen: Seen::default(),
        };
        running.spawn(node.run());
    }
    let (mut all, mut bytes, mut asked) = (Seen::default(), 0, 0.0);
    for (seen, sent, questions) in running.join_all().await {
        all.lookups += seen.lookups;
        all.failed += seen.failed;
        all.took.extend(seen.took);
        all.behind.extend(seen.behind);
        bytes += sent;
        asked += questions;
    }
    all.took.sort_unstable();
    all.behind.sort_unstable();
    let at = |sorted: &[Duration], part: f64| {
        let at = (sorted.len() as f64 * part) as usize;
        sorted[at.min(sorted.len() - 1)].as_secs_f64()
    };
    let (count, minutes) = (nodes as f64, OBSERVED.as_secs_f64() / 60.0);
    let old = all.behind.iter().filter(|behind| !behind.is_zero()).count();
    Cost {
        nodes,
        lookups: all.lookups as f64 / count / minutes,
        asked: asked / count / minutes,
        bytes: bytes as f64 / count / OBSERVED.as_secs_f64(),
        failed: all.failed as f64 / all.lookups as f64 * 1e3,
        old: old as f64 / all.behind.len() as f64 * 100.0,
        behind: at(&all.behind, 0.95),
        worst: at(&all.behind, 1.0),
        took: at(&all.took, 0.95) * 1e3,
    }
}

const QUANTITIES: [&str; 6] = [
    "lookups that ask, in a minute",
    "bytes in a second, both ways",
    "% of answers not the newest",
    "s behind, 95th of 100 answers",
    "s behind, the worst answer",
    "ms to answer, 95th of 100",
];

impl Cost {
    fn print(&self) {
        println!(
            "{:>5} nodes, each: {:.1} lookups in a minute, {:.2} asked of the directory, 95 % within \
             {:.0} ms, {:.2} ‰ failed; {:.1} bytes in a second; {:.1} % of answers not the newest, 95 % \
             at most {:.1} s behind, the worst {:.1} s",
            self.nodes,
            self.lookups,
            self.asked,
            self.took,
            self.failed,
            self.bytes,
            self.old,
            self.behind,
            self.worst
        );
    }

    fn plotted(&self) -> Vec<f64> {
        vec![
            self.asked,
            self.bytes,
            self.old,
            self.behind,
            self.worst,
            self.took,
        ]
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_cost_each_what_a_hundred_do() {
    let mut costs = Vec::new();
    for nodes in [10, 30, 100, 300, 1000] {
        let cost = cost(nodes).await;
        cost.print();
        costs.push(cost);
    }
    let known_for = CacheConfig::default().known_for as f64;
    for cost in &costs {
        // A fourth of requests or answers lost four times in a row: 0.1 in a thousand.
        assert!(cost.failed < 1.0, "{cost:?}");
        // What is remembered is at most as old as the cache lets it be, and as an answer is late; the
        // new record may have been late as well.
        let late = PATIENCE.as_secs_f64() * 2.0 * TRIES as f64;
        assert!(cost.worst <= known_for + late, "{cost:?}");
    }
    let [.., hundred, _, thousand] = &costs[..] else {
        return;
    };
    // With more nodes, a node asks more often for somebody it did not ask for lately: a tenth of its
    // lookups at most.
    let bound = 1.0 + 0.1 * 60.0 / EVERY.as_secs_f64();
    assert!(thousand.asked < hundred.asked + bound, "{thousand:?}");
    assert!(thousand.bytes < hundred.bytes * 1.5, "{thousand:?}");
    if let Some(path) = std::env::var_os("DIRECTORY_PLOT") {
        let title = "What a directory costs each node, over the number of nodes";
        let points = costs.iter().map(|cost| (cost.nodes, cost.plotted()));
        let points: Vec<plot::Point> = points.collect();
        std::fs::write(path, plot::svg(title, &QUANTITIES, &points)).expect("the plot");
    }
}
