//! Several sources as one: say, a configuration file and the rules that were added since.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, select_all};
use tokio::time::timeout;
use vpn_core::rule::RuleSourceError;
use vpn_core::{RuleSnapshot, RuleSource};

/// How long one layer may take to load before its last good rules stand in for it: a third of
/// what a feed gives the whole source.
pub const LAYER_DEADLINE: Duration = Duration::from_secs(10);

/// The rules of all layers together.
///
/// Which rule wins does not depend on the layer but on what rules say, and between equals on
/// their ids: an added rule beats one of a file (see [`RuleId`](vpn_core::RuleId)). Layers must not
/// use the same ids, so at most one of them is a file, and one counts its rules itself. Filter
/// rules apply in the order of layers.
///
/// A layer that cannot be loaded keeps its last good rules, the others go on, and what is wrong
/// is told by [`trouble`](RuleSource::trouble). Before the first load of each layer there is
/// nothing to keep: until then the load fails, and what was in force stays.
#[derive(Debug)]
pub struct Layered {
    layers: Vec<Layer>,
    trouble: Mutex<Option<Arc<RuleSourceError>>>,
}

#[derive(Debug)]
struct Layer {
    source: Arc<dyn RuleSource>,
    good: Mutex<Option<RuleSnapshot>>,
}

/// Why a layer's last good rules stand in for it.
#[derive(Debug, thiserror::Error)]
#[error("it did not answer in {} s", LAYER_DEADLINE.as_secs())]
struct Late;

impl Layered {
    /// One source of these layers.
    pub fn new(layers: impl IntoIterator<Item = Arc<dyn RuleSource>>) -> Self {
        let layer = |source| Layer {
            source,
            good: Mutex::new(None),
        };
        Self {
            layers: layers.into_iter().map(layer).collect(),
            trouble: Mutex::new(None),
        }
    }
}

impl Layer {
    /// Its rules, and what is wrong if they are the last good ones.
    async fn load(&self) -> (Option<RuleSnapshot>, Option<RuleSourceError>) {
        let loaded = timeout(LAYER_DEADLINE, self.source.load()).await;
        let loaded = loaded.unwrap_or_else(|_| {
            Err(RuleSourceError::Unavailable {
                place: "one of several sources".into(),
                cause: Late.into(),
            })
        });
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(snapshot) => {
                *good = Some(snapshot.clone());
                (Some(snapshot), None)
            }
            Err(error) => (good.clone(), Some(error)),
        }
    }
}

#[async_trait]
impl RuleSource for Layered {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let loaded = join_all(self.layers.iter().map(Layer::load)).await;
        let mut all = RuleSnapshot::default();
        let mut trouble = None;
        let mut missing = false;
        for (snapshot, error) in loaded {
            missing |= snapshot.is_none();
            if let Some(snapshot) = snapshot {
                all.rules.extend(snapshot.rules);
                all.inbound.extend(snapshot.inbound);
                all.filters.extend(snapshot.filters);
            }
            // The first that has a problem is told; the next one when it is mended.
            trouble = trouble.or(error);
        }
        if missing && let Some(error) = trouble {
            return Err(error);
        }
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *told = trouble.map(Arc::new);
        Ok(all)
    }

    async fn changed(&self) {
        let changed = self.layers.iter().map(|layer| layer.source.changed());
        let changed: Vec<_> = changed.collect();
        if changed.is_empty() {
            std::future::pending::<()>().await;
        }
        // Each is cancel-safe: what the others saw is not lost.
        select_all(changed).await;
    }

    fn trouble(&self) -> Option<Arc<RuleSourceError>> {
        let own = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let of_layers = || self.layers.iter().find_map(|layer| layer.source.trouble());
        own.clone().or_else(of_layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::StaticRules;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use vpn_core::{Action, Rule, RuleId, RuleMatch};

    /// Rules that can be broken, or made to hang.
    #[derive(Debug)]
    struct Fragile {
        rules: StaticRules,
        broken: AtomicBool,
        hangs: AtomicBool,
    }

    impl Fragile {
        fn new(rules: impl IntoIterator<Item = Rule>) -> Arc<Self> {
            Arc::new(Self {
                rules: StaticRules::new(rules),
                broken: AtomicBool::new(false),
                hangs: AtomicBool::new(false),
            })
        }
    }

    #[async_trait]
    impl RuleSource for Fragile {
        async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
            if self.hangs.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.broken.load(SeqCst) {
                return Err(RuleSourceError::Invalid {
                    place: "the file".into(),
                    entry: "line 1".into(),
                    problem: "no rule".into(),
                });
            }
            self.rules.load().await
        }

        async fn changed(&self) {
            self.rules.changed().await;
        }
    }

    fn rule(id: RuleId) -> Rule {
        Rule::new(id, RuleMatch::default(), Action::Block)
    }

    fn ids(snapshot: &RuleSnapshot) -> Vec<RuleId> {
        snapshot.rules.iter().map(|rule| rule.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_fails_keeps_its_rules_while_others_change() {
        let (file, added) = (RuleId::of_file(1), RuleId(1));
        let (below, above) = (Fragile::new([rule(file)]), Fragile::new([]));
        let layers: [Arc<dyn RuleSource>; 2] = [below.clone(), above.clone()];
        let layered = Layered::new(layers);
        assert_eq!(ids(&layered.load().await.unwrap()), [file]);
        assert!(layered.trouble().is_none());

        below.broken.store(true, SeqCst);
        above.rules.set([rule(added)]);
        layered.changed().await;
        assert_eq!(ids(&layered.load().await.unwrap()), [file, added]);
        let told = layered.trouble().unwrap().to_string();
        assert_eq!(told, "the file: line 1: no rule");

        below.broken.store(false, SeqCst);
        below.hangs.store(true, SeqCst);
        assert_eq!(ids(&layered.load().await.unwrap()), [file, added]);
        assert!(layered.trouble().is_some());

        below.hangs.store(false, SeqCst);
        below.rules.set([]);
        layered.changed().await;
        assert_eq!(ids(&layered.load().await.unwrap()), [added]);
        assert!(layered.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_first_rules_of_every_layer_there_are_none() {
        let (below, above) = (Fragile::new([]), Fragile::new([]));
        above.broken.store(true, SeqCst);
        let layers: [Arc<dyn RuleSource>; 2] = [below, above.clone()];
        let layered = Layered::new(layers);
        assert!(layered.load().await.is_err());
        above.broken.store(false, SeqCst);
        assert!(layered.load().await.is_ok());
    }

    #[test]
    fn an_added_rule_is_newer_than_one_of_a_file() {
        assert!(RuleId(1) > RuleId::of_file(9));
    }
}
