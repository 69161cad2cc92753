//! A chaos run: supervised tasks look up a peer in a directory that fails as a seed has it, and one of
//! them panics now and then. Breaker, retry and supervisor keep it going; every call, attempt and
//! start is counted, and stopping leaves nothing.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;
use vpn_core::testing::MemoryDirectory;
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord};
use vpn_resilience::call::{WithBreaker, WithRetry};
use vpn_resilience::decorate::{Decorated, directory_fault};
use vpn_resilience::supervise::{Supervisor, SupervisorConfig, TaskConfig};
use vpn_resilience::{BackoffConfig, BreakerConfig, BudgetConfig, RetryConfig};

const ALICE: PeerId = PeerId([7; 32]);

/// Tasks that look her up.
const TASKS: u64 = 5;

/// A directory behind a bad network: every third answer is lost, and now and then eight in a row.
#[derive(Debug, Default)]
struct Flaky {
    inner: MemoryDirectory,
    asked: AtomicU64,
}

impl Flaky {
    fn fails(&self) -> Result<(), DirectoryError> {
        let asked = self.asked.fetch_add(1, Relaxed);
        // A mix of the number: the same in every run.
        let mixed = asked.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if mixed.is_multiple_of(3) || asked % 100 >= 92 {
            return Err(DirectoryError::Unavailable("no answer".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl PeerDirectory for Flaky {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        self.inner.publish(record).await
    }
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        self.fails()?;
        self.inner.resolve(peer).await
    }
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        self.fails()?;
        self.inner.resolve_address(address).await
    }
    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        self.inner.changed().await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // A thousand times as fast as it would be with a real directory.
    let retry = RetryConfig {
        initial_interval: Duration::from_millis(1),
        max_interval: Duration::from_millis(30),
        budget: BudgetConfig {
            percent: 100,
            ..BudgetConfig::default()
        },
        ..RetryConfig::default()
    };
    let breaker = BreakerConfig {
        reset_after: Duration::from_millis(60),
        ..BreakerConfig::default()
    };
    // Outside the breaker, which sees calls; inside the retry, which sees their attempts.
    let policy = WithBreaker::new(breaker, directory_fault).around(WithRetry::new(
        retry,
        42,
        directory_fault,
    ));
    let directory = Arc::new(Decorated::new(Flaky::default(), policy));

    let supervisor = Supervisor::new(SupervisorConfig::default());
    let mut config = TaskConfig::default();
    config.backoff = BackoffConfig {
        base: Duration::from_millis(5),
        cap: Duration::from_millis(50),
        ..config.backoff
    };
    let found = Arc::new(AtomicU64::new(0));
    for number in 0..TASKS {
        let (directory, found) = (directory.clone(), found.clone());
        let look = move |stop: tokio_util::sync::CancellationToken| {
            let (directory, found) = (directory.clone(), found.clone());
            async move {
                for round in 0u64.. {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        answer = directory.resolve(ALICE) => drop(answer?),
                    }
                    found.fetch_add(1, Relaxed);
                    // What a mistake in a program would be; quiet, for the example's sake.
                    if number == 0 && round == 20 {
                        std::panic::resume_unwind(Box::new("a mistake"));
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                Ok::<(), DirectoryError>(())
            }
        };
        supervisor.spawn(&format!("look-up {number}"), config, look)?;
    }
    while found.load(Relaxed) < 500 {
        sleep(Duration::from_millis(5)).await;
    }
    let stopped = supervisor.stop().await;

    let tasks = supervisor.report().counters;
    let (breaker, retry) = (
        directory.policy().outside().status(),
        directory.policy().inside(),
    );
    let calls = retry.counters();
    println!("{} look-ups succeeded", found.load(Relaxed));
    println!("calls: {calls:?}");
    println!("breaker: {:?}, {:?}", breaker.transitions, breaker.counters);
    println!("tasks: {tasks:?}; stopped: {stopped:?}");

    assert_eq!(
        calls.attempts,
        directory.inner().asked.load(Relaxed),
        "to the attempt"
    );
    assert_eq!(
        calls.calls,
        calls.succeeded + calls.failed + calls.cancelled
    );
    assert_eq!(calls.calls, breaker.counters.admitted);
    // Each end was followed by another start, but for those that waited for theirs at the end.
    assert!(tasks.starts <= TASKS + tasks.panics + tasks.failures);
    assert!(tasks.starts + TASKS > tasks.panics + tasks.failures);
    assert!(tasks.panics > 0 && calls.retries > 0);
    assert_eq!(stopped.cut_off + stopped.stuck, 0);
    Ok(())
}
