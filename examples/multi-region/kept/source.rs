//! Where rules are written, behind a breaker and a retry.
//!
//! What they say together: an attempt that fails is made again soon, for a file that is being replaced
//! and a database that is busy are there in a moment. A source that stays broken is no longer asked,
//! until the breaker's time has come or somebody touched it: others beside it wait for its answers no
//! more.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use vpn_core::metrics::Snapshot;
use vpn_core::rule::RuleSourceError;
use vpn_core::{RuleSnapshot, RuleSource};
use vpn_resilience::RetryConfig;
use vpn_resilience::call::{Around, CallError, WithBreaker, WithRetry};
use vpn_resilience::decorate::{Decorated, rules_fault};

use super::{Kept, lock};

/// First pause, and longest one: sources are files of this host, and others wait beside them.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// All attempts together: less than a layer has ([`LAYER_DEADLINE`](vpn_routing::source::LAYER_DEADLINE)),
/// so that what hangs has failed before it is given up.
const AT_MOST: Duration = Duration::from_secs(9);

type Fault = fn(&RuleSourceError) -> vpn_resilience::Fault;

/// A source behind its policies.
#[derive(Debug)]
pub(super) struct Source {
    calls: Decorated<Arc<dyn RuleSource>, Around<WithBreaker<Fault>, WithRetry<Fault>>>,
    /// Where it is and what it said last, for while it is not asked.
    last: Mutex<Option<(String, String)>>,
}

/// It is not asked again yet.
#[derive(Debug, thiserror::Error)]
#[error("{said} (failed too often, and is asked again later)")]
struct NotAsked {
    said: String,
}

impl Kept {
    /// A source of rules behind breaker and retry, which are told of under this name from now on.
    pub(crate) fn rules(
        &self,
        name: &'static str,
        source: Arc<dyn RuleSource>,
    ) -> Arc<dyn RuleSource> {
        let retry = RetryConfig {
            initial_interval: PAUSES.0,
            max_interval: PAUSES.1,
            attempt_timeout: None,
            max_elapsed: Some(AT_MOST),
            ..RetryConfig::default()
        };
        let retry = WithRetry::new(retry, 0, rules_fault as Fault).until(self.0.stop.clone());
        let policy = WithBreaker::new(self.0.breaker, rules_fault as Fault).around(retry);
        let source = Arc::new(Source {
            calls: Decorated::new(source, policy),
            last: Mutex::default(),
        });
        lock(&self.0.sources).insert(name, Arc::clone(&source));
        source
    }
}

impl Source {
    pub(super) fn measure(&self, name: &str, into: &mut Snapshot) {
        let policy = self.calls.policy();
        policy.outside().status().measure(name, into);
        policy.inside().counters().measure(name, into);
    }

    /// While it is not asked, what it said last is what is wrong with it.
    fn told(&self, error: RuleSourceError) -> RuleSourceError {
        let RuleSourceError::Unavailable { place, cause } = error else {
            return error;
        };
        let mut last = lock(&self.last);
        let open = matches!(
            cause.downcast_ref::<CallError<RuleSourceError>>(),
            Some(CallError::Open(_))
        );
        if open && let Some((place, said)) = last.clone() {
            let cause = NotAsked { said }.into();
            return RuleSourceError::Unavailable { place, cause };
        }
        let cause = last_of(cause);
        *last = Some((place.clone(), said(&*cause)));
        RuleSourceError::Unavailable { place, cause }
    }
}

/// What the source itself said, where it was tried several times.
fn last_of(cause: Box<dyn Error + Send + Sync>) -> Box<dyn Error + Send + Sync> {
    match cause.downcast::<CallError<RuleSourceError>>() {
        Ok(call) => match call.into_failure() {
            Ok(RuleSourceError::Unavailable { cause, .. }) => cause,
            Ok(error) => error.into(),
            Err(call) => call.into(),
        },
        Err(cause) => cause,
    }
}

/// It with all causes.
fn said(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}

#[async_trait]
impl RuleSource for Source {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let loaded = self.calls.load().await;
        if loaded.is_ok() {
            *lock(&self.last) = None;
        }
        loaded.map_err(|error| self.told(error))
    }

    /// Who touched it may have mended it: it is asked at once.
    async fn changed(&self) {
        self.calls.changed().await;
        self.calls.policy().outside().reset();
    }

    fn trouble(&self) -> Option<Arc<RuleSourceError>> {
        self.calls.trouble()
    }
}
