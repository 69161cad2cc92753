//! Puts a policy around a directory or a source of rules.

use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use tokio::time::sleep_until;
use vpn_core::rule::RuleSourceError;
use vpn_core::{
    Authority, DirectoryError, PeerDirectory, PeerId, PeerRecord, RuleSnapshot, RuleSource,
};

use crate::backoff::{Backoff, BackoffConfig, Next};
use crate::call::{CallError, Policy};
use crate::fault::Fault;

/// What an error of a directory says: one that cannot be reached may be in a moment; one that says
/// "stale" or "refused" works.
pub fn directory_fault(error: &DirectoryError) -> Fault {
    match error {
        DirectoryError::Stale { .. } | DirectoryError::Refused(_) => Fault::Answered,
        _ => Fault::Transient,
    }
}

/// What an error of a source of rules says: one that cannot be reached may be in a moment; a rule
/// that makes no sense stays so until somebody corrects it, and the source works.
pub fn rules_fault(error: &RuleSourceError) -> Fault {
    match error {
        RuleSourceError::Invalid { .. } => Fault::Answered,
        _ => Fault::Transient,
    }
}

/// A directory or a source of rules whose calls are made as a policy has it.
///
/// Waiting for changes is no call, and has no limit. A directory that fails while somebody waits is
/// asked again, with growing pauses, and the failure is not told: nobody could do anything else.
#[derive(Debug)]
pub struct Decorated<T, P> {
    inner: T,
    policy: P,
    waiting: Mutex<Waiting>,
}

/// When to wait for changes again.
#[derive(Debug)]
struct Waiting {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl<T, P> Decorated<T, P> {
    /// `inner` behind a policy.
    pub const fn new(inner: T, policy: P) -> Self {
        Self {
            inner,
            policy,
            waiting: Mutex::new(Waiting {
                backoff: Backoff::new(PAUSES, 0),
                not_before: None,
            }),
        }
    }

    /// The policy, for its counters.
    pub const fn policy(&self) -> &P {
        &self.policy
    }

    /// What is behind it.
    pub const fn inner(&self) -> &T {
        &self.inner
    }
}

/// Between two failures to wait for changes: half a second to 30 s.
const PAUSES: BackoffConfig = BackoffConfig {
    base: std::time::Duration::from_millis(500),
    factor: 2,
    cap: std::time::Duration::from_secs(30),
    jitter: crate::backoff::Jitter::Equal,
    max_attempts: None,
    max_elapsed: None,
    stable_after: std::time::Duration::from_secs(60),
};

/// The call's own error, or that there was no call that succeeded, and why.
fn directory_error(error: CallError<DirectoryError>) -> DirectoryError {
    match error {
        CallError::Failed(error) => error,
        other => DirectoryError::Unavailable(Box::new(other)),
    }
}

fn rules_error(error: CallError<RuleSourceError>) -> RuleSourceError {
    match error {
        CallError::Failed(error) => error,
        other => RuleSourceError::Unavailable {
            place: place(&other),
            cause: Box::new(other),
        },
    }
}

/// Where the source's own error says it is.
fn place(error: &CallError<RuleSourceError>) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(RuleSourceError::Unavailable { place, .. }) = this.downcast_ref() {
            return place.clone();
        }
        cause = this.source();
    }
    "a source".to_owned()
}

#[async_trait]
impl<T, P> PeerDirectory for Decorated<T, P>
where
    T: PeerDirectory,
    P: Policy<DirectoryError>,
{
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        let call = self.policy.run(|| self.inner.publish(record.clone()));
        call.await.map_err(directory_error)
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        let call = self.policy.run(|| self.inner.resolve(peer));
        call.await.map_err(directory_error)
    }

    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        let call = self.policy.run(|| self.inner.resolve_address(address));
        call.await.map_err(directory_error)
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        loop {
            let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let not_before = waiting().not_before;
            if let Some(at) = not_before {
                sleep_until(at.into()).await;
            }
            let result = self.inner.changed().await;
            let now = tokio::time::Instant::now().into_std();
            let mut waiting = waiting();
            match result {
                Ok(record) => {
                    waiting.not_before = None;
                    waiting.backoff.succeeded(now);
                    return Ok(record);
                }
                Err(error) if !directory_fault(&error).is_worth_a_retry() => return Err(error),
                Err(error) => match waiting.backoff.failed(now) {
                    Next::At(at) => waiting.not_before = Some(at),
                    Next::GiveUp(_) => return Err(error),
                },
            }
        }
    }

    fn authority(&self) -> Authority {
        self.inner.authority()
    }
}

#[async_trait]
impl<T, P> RuleSource for Decorated<T, P>
where
    T: RuleSource,
    P: Policy<RuleSourceError>,
{
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let call = self.policy.run(|| self.inner.load());
        call.await.map_err(rules_error)
    }

    async fn changed(&self) {
        self.inner.changed().await;
    }

    fn trouble(&self) -> Option<Arc<RuleSourceError>> {
        self.inner.trouble()
    }
}
