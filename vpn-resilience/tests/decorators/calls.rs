//! Directories and sources of rules behind policies.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use vpn_core::rule::RuleSourceError;
use vpn_core::testing::MemoryDirectory;
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord, RuleSnapshot, RuleSource};
use vpn_resilience::call::{WithBreaker, WithRetry};
use vpn_resilience::decorate::*;
use vpn_resilience::*;

/// A directory that cannot be reached so many times.
#[derive(Debug, Default)]
struct Flaky {
    inner: MemoryDirectory,
    failures: AtomicU32,
    asked: AtomicU32,
}

impl Flaky {
    fn failing(times: u32) -> Self {
        Self {
            failures: times.into(),
            ..Self::default()
        }
    }

    fn ask(&self) -> Result<(), DirectoryError> {
        let asked = self.asked.fetch_add(1, SeqCst);
        match asked < self.failures.load(SeqCst) {
            true => Err(DirectoryError::Unavailable("no route".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl PeerDirectory for Flaky {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        self.ask()?;
        self.inner.publish(record).await
    }
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        self.ask()?;
        self.inner.resolve(peer).await
    }
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        self.ask()?;
        self.inner.resolve_address(address).await
    }
    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        self.ask()?;
        self.inner.changed().await
    }
}

fn record(sequence: u64) -> PeerRecord {
    PeerRecord {
        peer: PeerId([1; 32]),
        addresses: Vec::new(),
        sequence,
        expires: u64::MAX,
        body: Default::default(),
        signature: Default::default(),
    }
}

fn retry() -> WithRetry<fn(&DirectoryError) -> Fault> {
    WithRetry::new(RetryConfig::default(), 7, directory_fault)
}

fn breaker() -> WithBreaker<fn(&DirectoryError) -> Fault> {
    WithBreaker::new(BreakerConfig::default(), directory_fault)
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_away_for_a_moment_answers() {
    let directory = Decorated::new(Flaky::failing(3), retry());
    assert_eq!(directory.resolve(PeerId([1; 32])).await.unwrap(), None);
    assert_eq!(directory.policy().counters().attempts, 4);
}

#[tokio::test(start_paused = true)]
async fn what_it_says_is_told_as_it_is_and_opens_no_breaker() {
    let directory = Decorated::new(MemoryDirectory::new(), breaker().around(retry()));
    directory.publish(record(5)).await.unwrap();
    for _ in 0..20 {
        let refused = directory.publish(record(5)).await;
        assert!(
            matches!(refused, Err(DirectoryError::Stale { have: 5, .. })),
            "{refused:?}"
        );
    }
    assert_eq!(directory.policy().outside().status().transitions.opened, 0);
    assert_eq!(directory.policy().inside().counters().retries, 0);
}

/// Regression S-1: a peer that failed was unreachable until the program was started again.
#[tokio::test(start_paused = true)]
async fn s1_one_that_was_ill_is_asked_again_once_it_is_well() {
    let directory = Decorated::new(Flaky::failing(25), breaker().around(retry()));
    let peer = PeerId([1; 32]);
    for _ in 0..5 {
        directory.resolve(peer).await.unwrap_err();
    }
    let error = directory.resolve(peer).await.unwrap_err();
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("no attempt is made for now"), "{cause}");
    assert_eq!(directory.inner().asked.load(SeqCst), 25);
    tokio::time::sleep(Duration::from_secs(60)).await;
    for _ in 0..2 {
        directory.resolve(peer).await.unwrap();
    }
    let status = directory.policy().outside().status();
    assert_eq!(status.state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn errors_say_what_was_tried_and_what_was_said() {
    let directory = Decorated::new(Flaky::failing(u32::MAX), retry());
    let error = directory.resolve(PeerId([1; 32])).await.unwrap_err();
    let mut said = Vec::new();
    let mut cause: Option<&dyn Error> = Some(&error);
    while let Some(this) = cause {
        said.push(this.to_string());
        cause = this.source();
    }
    let expected = [
        "the directory cannot be reached",
        "gave up after 5 attempts",
        "the call failed",
        "the directory cannot be reached",
        "no route",
    ];
    assert_eq!(said, expected);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_changes_pauses_where_it_fails_and_goes_on() {
    let directory = Decorated::new(Flaky::failing(10), retry());
    let begun = Instant::now();
    // Dropped again and again: the pauses stay.
    while begun.elapsed() < Duration::from_secs(60) {
        let _ = timeout(Duration::from_millis(10), directory.changed()).await;
    }
    let asked = directory.inner().asked.load(SeqCst);
    assert!((5..=9).contains(&asked), "{asked}");
    directory.inner().inner.publish(record(1)).await.unwrap();
    let told = timeout(Duration::from_secs(300), directory.changed()).await;
    assert_eq!(told.unwrap().unwrap(), record(1));
}

/// Rules that cannot be read so many times, or are wrong.
#[derive(Debug)]
struct Rules(Mutex<Vec<RuleSourceError>>);

#[async_trait]
impl RuleSource for Rules {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        match self.0.lock().unwrap().pop() {
            Some(error) => Err(error),
            None => Ok(RuleSnapshot::default()),
        }
    }
    async fn changed(&self) {
        std::future::pending().await
    }
}

fn away() -> RuleSourceError {
    RuleSourceError::Unavailable {
        place: "rules.db".to_owned(),
        cause: "locked".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_cannot_be_read_are_read_again_and_wrong_ones_are_not() {
    let policy = || WithRetry::new(RetryConfig::default(), 7, rules_fault);
    let rules = Decorated::new(Rules(Mutex::new(vec![away(), away()])), policy());
    rules.load().await.unwrap();
    assert_eq!(rules.policy().counters().attempts, 3);

    let wrong = RuleSourceError::Invalid {
        place: "rules.db".to_owned(),
        entry: "row 7".to_owned(),
        problem: "no such tunnel".to_owned(),
    };
    let rules = Decorated::new(Rules(Mutex::new(vec![wrong])), policy());
    let error = rules.load().await.unwrap_err();
    assert_eq!(error.to_string(), "rules.db: row 7: no such tunnel");
    assert_eq!(rules.policy().counters().attempts, 1);

    let always = (0..9).map(|_| away()).collect();
    let rules = Decorated::new(Rules(Mutex::new(always)), policy());
    let error = rules.load().await.unwrap_err();
    assert!(error.to_string().contains("rules of rules.db"), "{error}");
}
