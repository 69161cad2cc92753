//! The directories against the contract, and what each adds to it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use vpn_core::testing::conformance::{DirectoryFixture, peer_directory};
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord};

use super::*;
use crate::identity::Identity;

const TERMS: Terms = Terms::new(b"test record v1\0");
const NOW: u64 = 1_000_000;

fn clock() -> UnixClock {
    UnixClock::new(|| NOW)
}

fn record(peer: u8, sequence: u64, host: u8) -> PeerRecord {
    let draft = Draft {
        addresses: vec![[100, 64, 0, host].into()],
        sequence,
        expires: NOW + 1000,
        body: Default::default(),
    };
    draft
        .sign(&Identity::from_bytes(&[peer; 32]), &TERMS)
        .unwrap()
}

fn memory() -> MemoryDirectory {
    MemoryDirectory::with(Book::new(TERMS), clock())
}

fn link(name: &str, directory: impl PeerDirectory + 'static, budget: u64) -> Link {
    Link {
        name: name.into(),
        directory: Arc::new(directory),
        budget: Duration::from_millis(budget),
    }
}

fn chain(links: Vec<Link>) -> ChainDirectory {
    ChainDirectory::new(links, TERMS, clock())
}

fn checked<D: PeerDirectory>(inner: D) -> CheckedDirectory<D> {
    CheckedDirectory::new(inner, Book::new(TERMS), CacheConfig::default(), clock())
}

#[derive(Debug)]
struct Fixture(Box<dyn PeerDirectory>);

#[async_trait]
impl DirectoryFixture for Fixture {
    fn directory(&self) -> &dyn PeerDirectory {
        &*self.0
    }

    fn record(&self, peer: u8, sequence: u64, address: u8) -> PeerRecord {
        record(peer, sequence, address)
    }
}

#[tokio::test(start_paused = true)]
async fn they_keep_the_contract_of_a_directory() {
    let make = async || Fixture(Box::new(memory()));
    peer_directory(make).await.unwrap();
    let make = async || Fixture(Box::new(checked(memory())));
    peer_directory(make).await.unwrap();
    let make = async || {
        let links = vec![link("one", memory(), 1000), link("two", memory(), 1000)];
        Fixture(Box::new(chain(links)))
    };
    peer_directory(make).await.unwrap();
}

/// A file whose lines this process writes.
#[derive(Debug)]
struct Written(PathBuf, StaticDirectory);

#[async_trait]
impl PeerDirectory for Written {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        // What is stale is refused as such; all else has to be written by hand.
        let refused = self.1.publish(record.clone()).await;
        if let Err(DirectoryError::Stale { .. }) = refused {
            return refused;
        }
        let mut all = read_records(&self.0).unwrap();
        all.retain(|there| there.peer != record.peer);
        all.push(record);
        write_records(&self.0, &all).unwrap();
        self.1.reload().unwrap();
        Ok(())
    }
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        self.1.resolve(peer).await
    }
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        self.1.resolve_address(address).await
    }
    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        self.1.changed().await
    }
}

#[tokio::test]
async fn a_file_keeps_the_contract_of_a_directory() {
    let path = std::env::temp_dir().join(format!("records-kept-{}", std::process::id()));
    let make = async || {
        write_records(&path, []).unwrap();
        let there = StaticDirectory::with(&path, Book::new(TERMS), clock()).unwrap();
        Fixture(Box::new(Written(path.clone(), there)))
    };
    peer_directory(make).await.unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_is_cancelled_leaves_nothing_behind() {
    let slow = Odd::with(&[record(1, 1, 1)], 1000).await;
    let directory = Arc::new(checked(slow));
    let peer = record(1, 1, 1).peer;
    let ask = |directory: &Arc<CheckedDirectory<Odd>>| {
        let directory = Arc::clone(directory);
        tokio::spawn(async move { directory.resolve(peer).await })
    };
    let (first, second) = (ask(&directory), ask(&directory));
    sleep(Duration::from_millis(100)).await;
    assert_eq!(directory.asking_for_test(), 1);
    first.abort();
    assert!(first.await.is_err());
    // Who waits behind it asks now.
    assert_eq!(directory.asking_for_test(), 1);
    let found = second.await.unwrap().unwrap();
    assert_eq!(found.map(|record| record.peer), Some(peer));
    for host in 2..100 {
        let address = [100, 64, 0, host].into();
        let asked = directory.resolve_address(address);
        let cancelled = tokio::time::timeout(Duration::from_millis(10), asked).await;
        assert!(cancelled.is_err());
    }
    assert_eq!(directory.asking_for_test(), 0);
}

/// Answers late, lies, or is away.
#[derive(Debug)]
struct Odd {
    inner: MemoryDirectory,
    delay: Duration,
    away: AtomicBool,
    forges: AtomicBool,
    asked: AtomicU64,
}

impl Odd {
    async fn with(records: &[PeerRecord], delay: u64) -> Self {
        let inner = memory();
        for record in records {
            inner.publish(record.clone()).await.unwrap();
        }
        Self {
            inner,
            delay: Duration::from_millis(delay),
            away: AtomicBool::new(false),
            forges: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        }
    }

    async fn ask(&self) -> Result<(), DirectoryError> {
        self.asked.fetch_add(1, SeqCst);
        sleep(self.delay).await;
        match self.away.load(SeqCst) {
            true => Err(DirectoryError::Unavailable("away".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl PeerDirectory for Odd {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        self.ask().await?;
        self.inner.publish(record).await
    }
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        self.ask().await?;
        let mut found = self.inner.resolve(peer).await?;
        if let Some(record) = found.as_mut().filter(|_| self.forges.load(SeqCst)) {
            record.sequence += 100;
        }
        Ok(found)
    }
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        self.ask().await?;
        self.inner.resolve_address(address).await
    }
    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        self.ask().await?;
        self.inner.changed().await
    }
}

async fn sequence(directory: &dyn PeerDirectory) -> (Option<u64>, Duration) {
    let began = Instant::now();
    let found = directory.resolve(record(1, 0, 1).peer).await.unwrap();
    (found.map(|record| record.sequence), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn the_newest_of_those_that_answer_within_the_grace_counts() {
    let (old, new) = ([record(1, 4, 1)], [record(1, 5, 1)]);
    let ms = Duration::from_millis;
    for (delay, seen, took) in [
        (10, Some(5), ms(10)),
        (49, Some(5), ms(49)),
        (200, Some(4), GRACE),
    ] {
        let links = vec![
            link("near", Odd::with(&old, 0).await, 1000),
            link("far", Odd::with(&new, delay).await, 1000),
        ];
        assert_eq!(sequence(&chain(links)).await, (seen, took), "{delay} ms");
    }
}

const GRACE: Duration = super::chain::GRACE;

#[tokio::test(start_paused = true)]
async fn who_has_nothing_or_lies_does_not_keep_the_answer_away() {
    let forger = Odd::with(&[record(1, 4, 1)], 0).await;
    forger.forges.store(true, SeqCst);
    let links = vec![
        link("forger", forger, 1000),
        link("empty", memory(), 1000),
        link("far", Odd::with(&[record(1, 5, 1)], 700).await, 1000),
    ];
    let (seen, took) = sequence(&chain(links)).await;
    assert_eq!((seen, took), (Some(5), Duration::from_millis(700)));
}

#[tokio::test(start_paused = true)]
async fn each_has_its_budget_and_nobody_is_said_by_who_answers_only() {
    let hangs = Odd::with(&[record(1, 5, 1)], 60_000).await;
    let links = vec![link("hangs", hangs, 300), link("empty", memory(), 1000)];
    let all = chain(links);
    assert_eq!(sequence(&all).await, (None, Duration::from_millis(300)));
    // Of a record that one takes and the other does not, each result is told; one is enough.
    let each = all.publish_each(&record(2, 1, 2)).await;
    assert_eq!(each[0].0, "hangs");
    assert!(matches!(each[0].1, Err(DirectoryError::Unavailable(_))));
    assert!(each[1].1.is_ok());
    all.publish(record(2, 2, 2)).await.unwrap();

    let hangs = Odd::with(&[], 60_000).await;
    let away = Odd::with(&[], 0).await;
    away.away.store(true, SeqCst);
    let all = chain(vec![link("hangs", hangs, 300), link("away", away, 300)]);
    let failed = all.resolve(record(1, 1, 1).peer).await.unwrap_err();
    let said = std::error::Error::source(&failed).unwrap().to_string();
    assert!(said.contains("hangs") && said.contains("away"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_once_however_many_tell_it() {
    let (one, two) = (Arc::new(memory()), Arc::new(memory()));
    let all = chain(vec![
        link("one", Arc::clone(&one), 1000),
        link("two", Arc::clone(&two), 1000),
    ]);
    for directory in [&one, &two] {
        directory.publish(record(1, 1, 1)).await.unwrap();
    }
    assert_eq!(all.changed().await.unwrap(), record(1, 1, 1));
    let again = tokio::time::timeout(Duration::from_secs(5), all.changed());
    assert!(again.await.is_err());
    two.publish(record(1, 2, 1)).await.unwrap();
    assert_eq!(all.changed().await.unwrap(), record(1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_at_once_is_asked_once_and_then_remembered() {
    let directory = Arc::new(checked(Odd::with(&[record(1, 1, 1)], 100).await));
    let peer = record(1, 1, 1).peer;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let directory = Arc::clone(&directory);
        asking.spawn(async move { directory.resolve(peer).await.unwrap() });
    }
    while let Some(found) = asking.join_next().await {
        assert_eq!(found.unwrap(), Some(record(1, 1, 1)));
    }
    let counts = directory.counts();
    assert_eq!((counts.asked, counts.remembered), (1, 49));
    assert_eq!(directory.inner().asked.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn forged_and_older_answers_are_not_believed() {
    let time = Arc::new(AtomicU64::new(NOW));
    let source = Arc::clone(&time);
    let clock = UnixClock::new(move || source.load(SeqCst));
    let book = Book::new(TERMS);
    let inner = Odd::with(&[record(1, 4, 1)], 0).await;
    inner.forges.store(true, SeqCst);
    let directory = CheckedDirectory::new(inner, book, CacheConfig::default(), clock);
    let peer = record(1, 1, 1).peer;
    assert_eq!(directory.resolve(peer).await.unwrap(), None);
    assert_eq!(directory.counts().refused, 1);
    // A newer one is known from elsewhere: what the directory has is genuine, and a rollback.
    directory.inner().forges.store(false, SeqCst);
    directory.enter_for_test(record(1, 5, 1));
    time.fetch_add(100, SeqCst);
    let found = directory.resolve(peer).await.unwrap();
    assert_eq!(found, Some(record(1, 5, 1)));
    assert_eq!(directory.counts().refused, 2);
}

#[tokio::test(start_paused = true)]
async fn while_the_directory_is_away_valid_records_are_used() {
    let time = Arc::new(AtomicU64::new(NOW));
    let source = Arc::clone(&time);
    let clock = UnixClock::new(move || source.load(SeqCst));
    let inner = Odd::with(&[record(1, 1, 1)], 0).await;
    let directory = CheckedDirectory::new(inner, Book::new(TERMS), CacheConfig::default(), clock);
    let address = record(1, 1, 1).addresses[0];
    let all = vec![record(1, 1, 1)];
    assert_eq!(directory.resolve_address(address).await.unwrap(), all);
    directory.inner().away.store(true, SeqCst);
    time.store(NOW + 999, SeqCst);
    assert_eq!(directory.resolve_address(address).await.unwrap(), all);
    assert_eq!(directory.counts().stale, 1);
    time.store(NOW + 1000, SeqCst);
    assert!(directory.resolve_address(address).await.is_err(), "expired");
    assert!(directory.resolve(record(2, 1, 1).peer).await.is_err());
}

/// Gives each address to who is named here.
#[derive(Debug)]
struct Leases(std::sync::Mutex<Vec<PeerRecord>>, AtomicBool);

#[async_trait]
impl PeerDirectory for Leases {
    async fn publish(&self, _: PeerRecord) -> Result<(), DirectoryError> {
        Ok(())
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        let all = self.0.lock().unwrap();
        Ok(all.iter().find(|record| record.peer == peer).cloned())
    }

    async fn resolve_address(&self, _: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        if self.1.load(SeqCst) {
            return Err(DirectoryError::Unavailable("away".into()));
        }
        Ok(self.0.lock().unwrap().clone())
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        std::future::pending().await
    }

    fn authority(&self) -> vpn_core::Authority {
        vpn_core::Authority::Directory
    }
}

#[tokio::test]
async fn what_a_directory_that_decides_gives_to_another_is_another_ones() {
    let time = Arc::new(AtomicU64::new(NOW));
    let source = Arc::clone(&time);
    let clock = UnixClock::new(move || source.load(SeqCst));
    let inner = Leases(vec![record(1, 1, 1)].into(), AtomicBool::new(false));
    let directory = CheckedDirectory::new(inner, Book::new(TERMS), CacheConfig::default(), clock);
    assert_eq!(directory.authority(), vpn_core::Authority::Directory);
    let address = record(1, 1, 1).addresses[0];
    for peer in [1, 2, 1] {
        time.fetch_add(100, SeqCst);
        *directory.inner().0.lock().unwrap() = vec![record(peer, 1, 1)];
        let found = directory.resolve_address(address).await.unwrap();
        assert_eq!(found, [record(peer, 1, 1)], "whoever claimed it before");
    }
    time.fetch_add(100, SeqCst);
    directory.inner().1.store(true, SeqCst);
    assert!(directory.resolve_address(address).await.is_err());
}
