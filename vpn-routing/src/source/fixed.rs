//! Holds rules in memory; they change when the program sets others.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use async_trait::async_trait;
use tokio::sync::watch;
use vpn_core::rule::RuleSourceError;
use vpn_core::{Rule, RuleSnapshot, RuleSource};

/// Rules that this program sets.
#[derive(Debug)]
pub struct StaticRules {
    /// The rules, and how often they were set.
    rules: watch::Sender<(RuleSnapshot, u64)>,
    /// Which of them the last `load` returned.
    loaded: AtomicU64,
}

impl StaticRules {
    /// A source that starts with these rules.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let rules: Vec<Rule> = rules.into_iter().collect();
        Self {
            rules: watch::Sender::new((RuleSnapshot::from(rules), 0)),
            loaded: AtomicU64::new(0),
        }
    }

    /// Replaces all rules.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        let rules: Vec<Rule> = rules.into_iter().collect();
        self.rules.send_modify(|(snapshot, version)| {
            *snapshot = RuleSnapshot::from(rules);
            *version += 1;
        });
    }

    /// The rules now.
    pub fn get(&self) -> RuleSnapshot {
        self.rules.borrow().0.clone()
    }
}

#[async_trait]
impl RuleSource for StaticRules {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let (snapshot, version) = self.rules.borrow().clone();
        self.loaded.store(version, SeqCst);
        Ok(snapshot)
    }

    async fn changed(&self) {
        let loaded = self.loaded.load(SeqCst);
        let newer = |(_, version): &(RuleSnapshot, u64)| *version != loaded;
        // Fails only if the sender is gone, and `self` holds it.
        let _ = self.rules.subscribe().wait_for(newer).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vpn_core::{Action, RuleId, RuleMatch};

    /// N-20: the first load and a change ran for who is last.
    #[tokio::test(start_paused = true)]
    async fn a_change_between_load_and_changed_is_not_lost() {
        let source = StaticRules::new([]);
        assert!(source.load().await.unwrap().rules.is_empty());
        let quiet = tokio::time::timeout(Duration::from_secs(1), source.changed());
        assert!(quiet.await.is_err());
        source.set([Rule::new(RuleId(1), RuleMatch::default(), Action::Block)]);
        source.changed().await;
        // Not loaded yet, so still changed.
        source.changed().await;
        assert_eq!(source.load().await.unwrap().rules.len(), 1);
    }
}
