//! Sources that change, fail, hang and stop, on virtual time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use vpn_core::rule::RuleSourceError;
use vpn_core::{Generation, RuleSource};

use super::*;

/// A source whose every behaviour is set by the test.
#[derive(Debug, Default)]
struct Scripted {
    rules: Mutex<Vec<Rule>>,
    broken: AtomicBool,
    delay: Mutex<Duration>,
    loads: AtomicUsize,
    changed: Notify,
}

impl Scripted {
    fn set(&self, rules: Vec<Rule>) {
        *self.rules.lock().unwrap() = rules;
        self.changed.notify_one();
    }
}

#[async_trait]
impl RuleSource for Scripted {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        self.loads.fetch_add(1, SeqCst);
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        if self.broken.load(SeqCst) {
            return Err(RuleSourceError::Unavailable {
                place: "rules.db".into(),
                cause: "locked".into(),
            });
        }
        let rules = self.rules.lock().unwrap().clone();
        Ok(RuleSnapshot::from(rules))
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}

struct Rig {
    source: Arc<Scripted>,
    cache: RuleCache,
    status: watch::Receiver<FeedStatus>,
    changes: watch::Receiver<Generation>,
    again: Arc<Notify>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Rig {
    async fn start(rules: Vec<Rule>) -> Self {
        let source = Arc::new(Scripted::default());
        *source.rules.lock().unwrap() = rules;
        let cache = RuleCache::new();
        let compile: Compile =
            Arc::new(|snapshot| CompiledRules::compile(snapshot, &tunnels, DEFAULT));
        let feed = RuleFeed::new(source.clone(), cache.clone(), compile);
        let (status, again) = (feed.status(), feed.recompile());
        let (changes, stop) = (cache.changes(), CancellationToken::new());
        let task = tokio::spawn(feed.run(stop.clone()));
        let mut rig = Self {
            source,
            cache,
            status,
            changes,
            again,
            stop,
            task,
        };
        rig.next_generation().await;
        rig
    }

    async fn next_generation(&mut self) -> Generation {
        self.changes.changed().await.unwrap();
        *self.changes.borrow_and_update()
    }

    fn app(&self, id: u32) -> Target {
        let owner = Owner::user(id);
        let key = flow([192, 0, 2, 1], 80);
        self.cache.reader().decide(Some(&owner), &key).1.action
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t4_updates_propagate_to_the_cache() {
    let mut rig = Rig::start(vec![rule(1, uid(1000), "uk")]).await;
    assert_eq!(rig.app(1000), UK);
    let began = tokio::time::Instant::now();
    rig.source.set(vec![rule(2, uid(1000), "fr")]);
    assert_eq!(rig.next_generation().await, Generation(2));
    assert!(began.elapsed() < Duration::from_millis(50));
    assert_eq!(rig.app(1000), FR);
}

#[tokio::test(start_paused = true)]
async fn t5_removing_a_rule_removes_its_entry() {
    let mut rig = Rig::start(vec![rule(1, uid(1), "uk"), rule(2, uid(2), "fr")]).await;
    rig.source.set(vec![rule(2, uid(2), "fr")]);
    rig.next_generation().await;
    assert_eq!(rig.app(1), DEFAULT);
    assert_eq!(rig.app(2), FR);
}

#[tokio::test(start_paused = true)]
async fn a_broken_source_keeps_the_last_good_rules_and_reports() {
    let mut rig = Rig::start(vec![rule(1, uid(1000), "uk")]).await;
    rig.source.broken.store(true, SeqCst);
    rig.source.set(vec![]);
    rig.settle().await;
    assert_eq!(rig.app(1000), UK);
    let error = rig.status.borrow().error.clone().unwrap();
    assert!(
        error.contains("rules.db") && error.contains("locked"),
        "{error}"
    );
    // It is tried again although nothing says that it changed.
    rig.source.broken.store(false, SeqCst);
    rig.next_generation().await;
    rig.settle().await;
    assert_eq!(rig.app(1000), DEFAULT);
    assert_eq!(rig.status.borrow().error, None);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_ten_seconds_delays_no_decision() {
    let mut rig = Rig::start(vec![rule(1, uid(1000), "uk")]).await;
    *rig.source.delay.lock().unwrap() = Duration::from_secs(10);
    rig.source.set(vec![rule(2, uid(1000), "fr")]);
    for _ in 0..90 {
        rig.settle().await;
        // No await in here: the decision cannot wait for anything.
        assert_eq!(rig.app(1000), UK);
    }
    assert_eq!(rig.next_generation().await, Generation(2));
    assert_eq!(rig.app(1000), FR);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_for_ever_is_given_up_and_tried_again() {
    let mut rig = Rig::start(vec![rule(1, uid(1000), "uk")]).await;
    *rig.source.delay.lock().unwrap() = Duration::from_secs(1_000_000);
    rig.source.set(vec![rule(2, uid(1000), "fr")]);
    tokio::time::sleep(LOAD_DEADLINE + Duration::from_millis(100)).await;
    assert!(rig.status.borrow().error.is_some());
    assert_eq!(rig.app(1000), UK);
    *rig.source.delay.lock().unwrap() = Duration::ZERO;
    rig.next_generation().await;
    assert_eq!(rig.app(1000), FR);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_nobody_announced_is_found_by_the_refresh() {
    let mut rig = Rig::start(vec![rule(1, uid(1000), "uk")]).await;
    *rig.source.rules.lock().unwrap() = vec![rule(2, uid(1000), "fr")];
    tokio::time::sleep(REFRESH_EVERY - Duration::from_secs(1)).await;
    assert_eq!(rig.app(1000), UK);
    rig.next_generation().await;
    assert_eq!(rig.app(1000), FR);
}

#[tokio::test(start_paused = true)]
async fn rules_that_stay_the_same_keep_their_generation_unless_recompiled() {
    let mut rig = Rig::start(vec![rule(1, uid(1000), "uk")]).await;
    tokio::time::sleep(REFRESH_EVERY * 3).await;
    assert!(rig.source.loads.load(SeqCst) >= 3);
    assert_eq!(rig.cache.generation(), Generation(1));
    rig.again.notify_one();
    assert_eq!(rig.next_generation().await, Generation(2));
}

/// N-20: what fed the rules was never stopped.
#[tokio::test(start_paused = true)]
async fn stopping_in_the_middle_of_a_load_leaves_nothing() {
    let rig = Rig::start(vec![]).await;
    *rig.source.delay.lock().unwrap() = Duration::from_secs(1_000_000);
    rig.source.set(vec![]);
    rig.settle().await;
    let began = tokio::time::Instant::now();
    rig.stop.cancel();
    rig.task.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    // The feed is gone: nobody but the test holds the source.
    assert_eq!(Arc::strong_count(&rig.source), 1);
}
