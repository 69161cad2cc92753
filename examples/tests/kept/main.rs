//! What keeps the daemon's parts alive, without a daemon: a task that panics, a source of rules that
//! fails, a tunnel that flaps.

#![allow(clippy::expect_used, clippy::panic, reason = "a failing test says so")]
#![allow(dead_code, unused_imports, reason = "the daemon uses the rest")]

#[path = "../../multi-region/kept/mod.rs"]
mod kept;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use kept::Kept;
use tokio::sync::{Notify, watch};
use vpn_core::metrics::Snapshot;
use vpn_core::rule::RuleSourceError;
use vpn_core::testing::memory_transport;
use vpn_core::{
    DownCause, DropReason, NetworkEvent, RuleSnapshot, RuleSource, TransportState, TunnelTransport,
};
use vpn_resilience::BreakerConfig;
use vpn_resilience::supervise::TaskStatus;
use vpn_routing::rules::{Compile, CompiledRules, FeedStatus, RuleCache, Target};

/// For what comes in a moment or two.
const LIMIT: Duration = Duration::from_secs(20);

/// What the next loads come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Load,
    Panic,
    Fail,
}

/// A source that does as it is told.
#[derive(Debug)]
struct Fragile {
    does: Mutex<Does>,
    asked: AtomicU64,
    touched: Notify,
}

impl Fragile {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            does: Mutex::new(Does::Load),
            asked: AtomicU64::new(0),
            touched: Notify::new(),
        })
    }

    fn now(&self, does: Does) {
        *self.does.lock().expect("it") = does;
        self.touched.notify_one();
    }
}

#[async_trait]
impl RuleSource for Fragile {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        self.asked.fetch_add(1, SeqCst);
        let does = *self.does.lock().expect("it");
        match does {
            Does::Load => Ok(RuleSnapshot::default()),
            // Once, and quietly.
            Does::Panic => {
                *self.does.lock().expect("it") = Does::Load;
                std::panic::resume_unwind(Box::new("a mistake"))
            }
            Does::Fail => Err(RuleSourceError::Unavailable {
                place: "a shelf".to_owned(),
                cause: "it burns".into(),
            }),
        }
    }

    async fn changed(&self) {
        self.touched.notified().await;
    }
}

fn breaker(failures: u32) -> BreakerConfig {
    BreakerConfig {
        failure_threshold: failures,
        reset_after: Duration::from_secs(3600),
        ..BreakerConfig::default()
    }
}

fn compile() -> Compile {
    let block = Target::Block(DropReason::BlockedByDefault);
    Arc::new(move |snapshot| CompiledRules::compile(snapshot, &|_: &str| None, block))
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waited).await;
    assert!(waited.is_ok(), "not so: {what}");
}

fn task(kept: &Kept, name: &str) -> TaskStatus {
    let tasks = kept.tasks().tasks;
    let found = tasks.into_iter().find(|task| *task.name == *name);
    found.expect("the task")
}

/// The state of a breaker, and how often it refused.
fn state(kept: &Kept, name: &str) -> Option<(&'static str, u64)> {
    let mut snapshot = Snapshot::default();
    kept.measure(&mut snapshot);
    let mut breakers = snapshot.breakers.into_iter();
    let found = breakers.find(|breaker| breaker.name == name)?;
    Some((found.state, found.refused))
}

async fn generation(status: &mut watch::Receiver<FeedStatus>, wanted: u32) {
    let loaded = status.wait_for(|status| u64::from(status.generation.0) >= u64::from(wanted));
    let loaded = tokio::time::timeout(LIMIT, loaded).await;
    assert!(loaded.is_ok_and(|loaded| loaded.is_ok()), "no rules");
}

#[tokio::test]
async fn a_task_that_panics_is_started_again_and_the_others_do_not_notice() {
    let (kept, source) = (Kept::new(breaker(5)), Fragile::new());
    let cache = RuleCache::new();
    let rules = kept.rules("file", source.clone());
    let feed = kept.feed(rules, cache.clone(), compile(), || false);
    let mut status = feed.expect("a feed").status;
    generation(&mut status, 1).await;

    source.now(Does::Panic);
    until("a panic", || task(&kept, "rules").counters.panics == 1).await;
    assert!(!cache.current().generation().is_cold());
    // It loads again, and follows changes again.
    generation(&mut status, 2).await;
    until("it runs", || task(&kept, "rules").state.name() == "running").await;
    let asked = source.asked.load(SeqCst);
    source.now(Does::Load);
    until("a load", || source.asked.load(SeqCst) > asked).await;

    let again = task(&kept, "rules");
    assert_eq!(again.counters.starts, 2);
    assert_eq!(again.said.as_deref(), Some("a mistake"));
    let other = task(&kept, "interfaces");
    assert_eq!((other.counters.starts, other.counters.panics), (1, 0));
    // It said nothing of the source, which was there.
    assert_eq!(state(&kept, "rules.file"), Some(("closed", 0)));
    kept.stop().await;
    assert!(kept.tasks().tasks.is_empty());
}

#[tokio::test]
async fn a_source_that_fails_is_left_alone_until_somebody_touches_it() {
    let (kept, source) = (Kept::new(breaker(1)), Fragile::new());
    let rules = kept.rules("file", source.clone());
    assert!(rules.load().await.is_ok());
    *source.does.lock().expect("it") = Does::Fail;
    let error = rules.load().await.expect_err("an error");
    assert_eq!(source.asked.load(SeqCst), 1 + 5, "five attempts");
    let said = |error: &RuleSourceError| {
        let cause = std::error::Error::source(error).expect("a cause");
        (error.to_string(), cause.to_string())
    };
    let (place, why) = said(&error);
    assert!(place.contains("a shelf") && why == "it burns", "{error:?}");

    assert_eq!(state(&kept, "rules.file"), Some(("open", 0)));
    let error = rules.load().await.expect_err("an error");
    let (place, why) = said(&error);
    assert!(
        place.contains("a shelf") && why.contains("it burns") && why.contains("later"),
        "{error:?}"
    );
    assert_eq!(source.asked.load(SeqCst), 6, "it is not asked");
    assert_eq!(state(&kept, "rules.file"), Some(("open", 1)));

    source.now(Does::Load);
    rules.changed().await;
    assert_eq!(state(&kept, "rules.file"), Some(("closed", 1)));
    assert!(rules.load().await.is_ok());
}

#[tokio::test]
async fn a_tunnel_that_flaps_is_held_down_until_the_network_is_another_one() {
    let kept = Kept::new(breaker(2));
    let (transport, far) = memory_transport(4, 1420);
    let tunnel = kept.tunnel("uk", Arc::new(transport));
    for _ in 0..2 {
        far.set_state(TransportState::Up(Arc::default()));
        assert!(matches!(tunnel.state().get(), TransportState::Up(_)));
        far.down(DownCause::NoAnswer);
        assert!(matches!(tunnel.state().get(), TransportState::Down(_)));
    }
    far.set_state(TransportState::Up(Arc::default()));
    let held = TransportState::Down(DownCause::HeldBack);
    assert_eq!(tunnel.state().get(), held);
    assert_eq!(state(&kept, "tunnel.uk"), Some(("open", 1)));
    tunnel.network_changed(NetworkEvent::Changed);
    assert!(matches!(tunnel.state().get(), TransportState::Up(_)));
    assert_eq!(state(&kept, "tunnel.uk"), Some(("closed", 1)));
    // One that is gone is told of no more.
    drop(tunnel);
    assert_eq!(state(&kept, "tunnel.uk"), None);
}

/// A reload makes the new tunnel before the old one goes, and may fail in between: what is in force is
/// what is told of.
#[tokio::test]
async fn a_tunnel_is_told_of_until_it_is_gone() {
    let kept = Kept::new(breaker(1));
    let made = || {
        let (transport, far) = memory_transport(16, 1420);
        (kept.tunnel("a", Arc::new(transport)), far)
    };
    let (old, far) = made();
    far.up(vpn_core::Assigned::default());
    assert!(matches!(old.state().get(), TransportState::Up(_)));
    far.down(DownCause::NoAnswer);
    let _ = old.state();
    let told = || state(&kept, "tunnel.a").map(|(state, _)| state);
    assert_eq!(told(), Some("open"));
    let new = made();
    assert_eq!(told(), Some("open"), "still in force");
    drop(new);
    assert_eq!(told(), Some("open"), "and it stays so");
    let new = made();
    drop(old);
    assert_eq!(told(), Some("closed"));
    drop(new);
    assert_eq!(told(), None);
}
