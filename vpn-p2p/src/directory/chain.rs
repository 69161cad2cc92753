//! Several directories as one: all are asked at once, each has its time, and the newest valid answer
//! of those that come soon enough counts.
//!
//! The first answer with a valid record opens a short grace: what comes until its end is compared,
//! and the newest is returned. That nobody is there is said only when every directory that answers
//! says so. A record is published to all; one of them is enough.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use vpn_core::{DirectoryError, PeerDirectory, PeerId, PeerRecord};

use super::book::Book;
use super::clock::UnixClock;
use super::records::{RecordError, Terms, Valid};

/// How long others may take after the first valid answer, unless said otherwise: a person does not
/// notice it, and a directory nearby that has a newer record has answered.
pub const GRACE: Duration = Duration::from_millis(50);

/// After a directory failed to tell changes, it is asked again after this.
const PAUSE: Duration = Duration::from_secs(1);

/// One directory of a chain.
#[derive(Clone, Debug)]
pub struct Link {
    /// What people call it.
    pub name: String,
    /// The directory.
    pub directory: Arc<dyn PeerDirectory>,
    /// How long one call may take; beyond, it counts as not answered.
    pub budget: Duration,
}

/// What went wrong with each directory.
#[derive(Debug, thiserror::Error)]
#[error("no directory answered: {}", list(failures))]
pub struct ChainError {
    /// By name.
    pub failures: Vec<(String, DirectoryError)>,
}

fn list(failures: &[(String, DirectoryError)]) -> String {
    let say = |(name, error): &(String, DirectoryError)| match std::error::Error::source(error) {
        Some(cause) => format!("{name}: {error} ({cause})"),
        None => format!("{name}: {error}"),
    };
    failures.iter().map(say).collect::<Vec<_>>().join("; ")
}

/// The budget of a call was used up.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct Late(Duration);

/// The directory's task broke.
#[derive(Debug, thiserror::Error)]
#[error("its task ended")]
struct Ended;

/// Several directories as one. They may disagree, so it is [claims](vpn_core::Authority::Claims) that decide,
/// also where one of them gives addresses away: with that one, use it alone.
#[derive(Debug)]
pub struct ChainDirectory {
    links: Vec<Link>,
    grace: Duration,
    terms: Terms,
    clock: UnixClock,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    /// What was told, so that nothing is told twice by two directories.
    told: Book,
    /// When each directory that failed is asked again.
    not_before: Vec<Option<Instant>>,
}

type Answer<T> = (usize, Result<T, DirectoryError>);

impl ChainDirectory {
    /// These directories, for records on these terms. The order is that of reports only.
    pub fn new(links: Vec<Link>, terms: Terms, clock: UnixClock) -> Self {
        let not_before = vec![None; links.len()];
        Self {
            links,
            grace: GRACE,
            terms,
            clock,
            changes: Mutex::new(Changes {
                told: Book::new(terms),
                not_before,
            }),
        }
    }

    /// How long others may take after the first valid answer ([`GRACE`]). Longer: more often the
    /// newest of all. Shorter: sooner.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Publishes to all, and says what became of it, by name.
    pub async fn publish_each(
        &self,
        record: &PeerRecord,
    ) -> Vec<(String, Result<(), DirectoryError>)> {
        let mut calls = self.call(|directory| {
            let record = record.clone();
            async move { directory.publish(record).await }
        });
        let mut results: Vec<Answer<()>> = Vec::new();
        while let Some(answer) = next(&mut calls).await {
            results.push(answer);
        }
        let mut each: Vec<_> = self
            .links
            .iter()
            .map(|link| (link.name.clone(), None))
            .collect();
        for (at, result) in results {
            each[at].1 = Some(result);
        }
        let ended = || Err(DirectoryError::Unavailable(Box::new(Ended)));
        let each = each.into_iter();
        each.map(|(name, result)| (name, result.unwrap_or_else(ended)))
            .collect()
    }

    /// Starts one call of each directory. They end when the set is dropped.
    fn call<T, F>(&self, call: impl Fn(Arc<dyn PeerDirectory>) -> F) -> JoinSet<Answer<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, DirectoryError>> + Send + 'static,
    {
        let mut calls = JoinSet::new();
        for (at, link) in self.links.iter().enumerate() {
            let (call, budget) = (call(Arc::clone(&link.directory)), link.budget);
            calls.spawn(async move {
                let late = |_| Err(DirectoryError::Unavailable(Box::new(Late(budget))));
                (at, timeout(budget, call).await.unwrap_or_else(late))
            });
        }
        calls
    }

    /// All valid records that came in time, by the rule above.
    async fn ask(
        &self,
        mut calls: JoinSet<Answer<Vec<PeerRecord>>>,
    ) -> Result<Vec<PeerRecord>, DirectoryError> {
        let mut found: Vec<PeerRecord> = Vec::new();
        let (mut answered, mut failures) = (false, Vec::new());
        let mut until: Option<Instant> = None;
        loop {
            let answer = match until {
                None => next(&mut calls).await,
                Some(until) => tokio::select! {
                    biased;
                    answer = next(&mut calls) => answer,
                    () = sleep_until(until) => None,
                },
            };
            let Some((at, answer)) = answer else {
                break;
            };
            match answer {
                Ok(records) => {
                    answered = true;
                    let now = self.clock.now();
                    for record in records {
                        match Valid::check(record, &self.terms, now) {
                            Ok(valid) => keep_newest(&mut found, valid.into_record()),
                            Err(error) => {
                                let name = &self.links[at].name;
                                tracing::debug!(%name, %error, "a record is not believed");
                            }
                        }
                    }
                    if until.is_none() && !found.is_empty() {
                        until = Some(Instant::now() + self.grace);
                    }
                }
                Err(error) => {
                    let name = self.links[at].name.clone();
                    tracing::debug!(%name, %error, "a directory did not answer");
                    failures.push((name, error));
                }
            }
        }
        match answered {
            true => Ok(found),
            false => Err(DirectoryError::Unavailable(Box::new(ChainError {
                failures,
            }))),
        }
    }

    /// The next record that any directory tells, or its failure.
    async fn any_change(&self) -> Answer<PeerRecord> {
        let lock = || self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        type Waiting<'a> =
            Pin<Box<dyn Future<Output = Result<PeerRecord, DirectoryError>> + Send + 'a>>;
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        for (link, not_before) in self.links.iter().zip(lock().not_before.clone()) {
            waiting.push(Box::pin(async move {
                if let Some(at) = not_before {
                    sleep_until(at).await;
                }
                link.directory.changed().await
            }));
        }
        // The others are dropped with what they wait for, which loses nothing.
        poll_fn(|cx| {
            for (at, waiting) in waiting.iter_mut().enumerate() {
                if let Poll::Ready(result) = waiting.as_mut().poll(cx) {
                    return Poll::Ready((at, result));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The next call that ends; one whose task broke is no answer.
async fn next<T: 'static>(calls: &mut JoinSet<Answer<T>>) -> Option<Answer<T>> {
    loop {
        match calls.join_next().await? {
            Ok(answer) => return Some(answer),
            Err(error) => tracing::warn!(%error, "a directory's task ended"),
        }
    }
}

/// Of each peer the newest.
fn keep_newest(found: &mut Vec<PeerRecord>, record: PeerRecord) {
    match found.iter_mut().find(|known| known.peer == record.peer) {
        Some(known) if known.sequence < record.sequence => *known = record,
        Some(_) => {}
        None => found.push(record),
    }
}

#[async_trait]
impl PeerDirectory for ChainDirectory {
    /// To all at once. That one takes it is enough, but one that has a newer record wins: its number
    /// has to be exceeded.
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        let offered = record.sequence;
        let (mut taken, mut stale, mut refused) = (false, None, None);
        let mut failures = Vec::new();
        for (name, result) in self.publish_each(&record).await {
            match result {
                Ok(()) => taken = true,
                Err(DirectoryError::Stale { have, .. }) => stale = stale.max(Some(have)),
                Err(DirectoryError::Refused(cause)) => refused = Some(cause),
                Err(error) => {
                    tracing::warn!(%name, %error, "a directory did not take the record");
                    failures.push((name, error));
                }
            }
        }
        match (stale, taken, refused) {
            // The same number: it was published there before, and another directory wants it still.
            (Some(have), true, _) if have == offered => Ok(()),
            (Some(have), ..) => Err(DirectoryError::Stale { have, offered }),
            (None, true, _) => Ok(()),
            // A file, say, beside one that cannot be reached: the latter may take it later.
            (None, false, Some(cause)) if failures.is_empty() => {
                Err(DirectoryError::Refused(cause))
            }
            (None, false, _) => {
                let error = ChainError { failures };
                Err(DirectoryError::Unavailable(Box::new(error)))
            }
        }
    }

    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        let calls = self.call(move |directory| async move {
            let record = directory.resolve(peer).await?;
            // Of somebody else: no answer to this question.
            Ok(record.into_iter().filter(|r| r.peer == peer).collect())
        });
        Ok(self.ask(calls).await?.pop())
    }

    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        // Not filtered by address yet: a newer record that gave it up replaces an older one.
        let calls =
            self.call(move |directory| async move { directory.resolve_address(address).await });
        let mut found = self.ask(calls).await?;
        found.retain(|record| record.addresses.contains(&address));
        Ok(found)
    }

    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        loop {
            let (at, result) = self.any_change().await;
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(record) => {
                    changes.not_before[at] = None;
                    match changes.told.insert(record.clone(), self.clock.now()) {
                        Ok(_) => return Ok(record),
                        Err(RecordError::Old { .. }) => {}
                        Err(error) => {
                            let name = &self.links[at].name;
                            tracing::debug!(%name, %error, "a change is not believed");
                        }
                    }
                }
                Err(error) => {
                    let name = &self.links[at].name;
                    tracing::debug!(%name, %error, "a directory does not tell changes");
                    changes.not_before[at] = Some(Instant::now() + PAUSE);
                }
            }
        }
    }
}
