//! Feeds the cache from where rules are written, and has them compiled anew when interfaces changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use vpn_core::RuleSource;
use vpn_resilience::supervise::SupervisorError;
use vpn_routing::rules::{Compile, FeedStatus, RuleCache, RuleFeed};

use super::Kept;

/// How often the addresses of interfaces are looked at.
const INTERFACES_EVERY: Duration = Duration::from_secs(2);

/// The rules' feed, which runs.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    pub(crate) status: watch::Receiver<FeedStatus>,
    /// Has rules loaded and compiled anew.
    pub(crate) recompile: Arc<Notify>,
}

impl Kept {
    /// Starts it. `moved` says whether interfaces have other addresses than when it was asked last: rules
    /// that name an interface mean the prefixes it has now.
    pub(crate) fn feed(
        &self,
        source: Arc<dyn RuleSource>,
        cache: RuleCache,
        compile: Compile,
        moved: impl Fn() -> bool + Clone + Send + Sync + 'static,
    ) -> Result<Feed, SupervisorError> {
        let feed = RuleFeed::new(source, cache, compile);
        let (status, recompile) = (feed.status(), feed.recompile());
        let again = Arc::clone(&recompile);
        // What is in force stays while it is not fed.
        self.service("rules", move |stop| feed.clone().run(stop))?;
        self.service("interfaces", move |stop| {
            let (moved, again) = (moved.clone(), Arc::clone(&again));
            async move {
                let look = async {
                    loop {
                        tokio::time::sleep(INTERFACES_EVERY).await;
                        if moved() {
                            again.notify_one();
                        }
                    }
                };
                stop.run_until_cancelled(look).await;
            }
        })?;
        Ok(Feed { status, recompile })
    }
}
