//! The suite of [`OwnerResolver`].

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::clause::{Checked, Clause, Suite, Violation};
use super::drive::{poll_once, within, yields};
use crate::owner::{Conclusion, Owner, OwnerAnswer, OwnerQuery, OwnerResolver};

const SUITE: Suite = Suite("OwnerResolver");

/// A `resolve` that takes longer, each time of [`TRIES`], waits for something: an exact kernel query
/// takes microseconds, one walk over all sockets of a large system some milliseconds.
const RESOLVE_LIMIT: Duration = Duration::from_millis(50);

/// The shortest of so many counts, so that a busy machine is not a violation.
const TRIES: usize = 5;

/// A resolver, and the programs whose flows it is asked about.
#[async_trait]
pub trait OwnerFixture: Send + Sync {
    /// The resolver.
    fn resolver(&self) -> &dyn OwnerResolver;

    /// Questions it can answer, and whom it has to name. Of the owner, the user is compared, and
    /// all else that is given.
    fn known(&self) -> Vec<(OwnerQuery, Owner)>;

    /// Questions that nobody can answer: a port without a socket, one of several users.
    fn unknown(&self) -> Vec<OwnerQuery>;

    /// Lets pending questions be answered. Does nothing by default: they are by themselves.
    async fn answer(&self) {}

    /// As [`FarEnd::patience`](super::FarEnd::patience).
    async fn patience(&self) {
        yields(1000).await;
    }
}

/// Checks a resolver. `make` makes a fresh one for each clause.
///
/// # Errors
///
/// The first clause that is broken.
pub async fn owner_resolver<F: OwnerFixture>(make: impl AsyncFn() -> F) -> Result<(), Violation> {
    returns(&make().await)?;
    answers(&make().await).await?;
    cancel_safe(&make().await).await?;
    evidence(&make().await).await
}

fn returns<F: OwnerFixture>(fixture: &F) -> Checked {
    let queries = fixture.known().into_iter().map(|(query, _)| query);
    for query in queries.chain(fixture.unknown()) {
        let took = |_| {
            let before = Instant::now();
            let _ = fixture.resolver().resolve(&query);
            before.elapsed()
        };
        let shortest = (0..TRIES).map(took).min().unwrap_or_default();
        SUITE.check(shortest < RESOLVE_LIMIT, Clause::ResolveReturns, || {
            format!("it takes {shortest:?} for {}", query.flow)
        })?;
    }
    Ok(())
}

/// The final answer to one question.
async fn answer<F: OwnerFixture>(fixture: &F, query: &OwnerQuery) -> Checked<OwnerAnswer> {
    let resolver = fixture.resolver();
    match resolver.resolve(query) {
        OwnerAnswer::Pending => {}
        answer => return Ok(answer),
    }
    fixture.answer().await;
    let Some((about, answer)) = within(fixture.patience(), resolver.resolved()).await else {
        let seen = format!("no answer came for {}", query.flow);
        return SUITE.broken(Clause::PendingAnswered, seen);
    };
    SUITE.check(
        about == *query && answer != OwnerAnswer::Pending,
        Clause::PendingAnswered,
        || {
            format!(
                "asked about {}, the answer is {answer:?} about {}",
                query.flow, about.flow
            )
        },
    )?;
    fixture.answer().await;
    yields(100).await;
    match poll_once(&mut resolver.resolved()).await {
        Some((about, again)) => SUITE.broken(
            Clause::PendingAnsweredOnce,
            format!(
                "after the answer about {} came {again:?} about {}",
                query.flow, about.flow
            ),
        ),
        None => Ok(answer),
    }
}

async fn answers<F: OwnerFixture>(fixture: &F) -> Checked {
    for (query, wanted) in fixture.known() {
        let answer = answer(fixture, &query).await?;
        let exact = match &answer {
            OwnerAnswer::Known(owner) => is(owner, &wanted),
            _ => false,
        };
        SUITE.check(exact, Clause::KnownExactly, || {
            format!("{} is {wanted}'s, it says {answer:?}", query.flow)
        })?;
    }
    for query in fixture.unknown() {
        let answer = answer(fixture, &query).await?;
        let unknown = answer == OwnerAnswer::Unknown;
        SUITE.check(unknown, Clause::NobodyGuessed, || {
            format!("{} is nobody's, it says {answer:?}", query.flow)
        })?;
    }
    Ok(())
}

/// What is given of `wanted` is so.
fn is(owner: &Owner, wanted: &Owner) -> bool {
    fn fits<T: PartialEq>(owner: &Option<T>, wanted: &Option<T>) -> bool {
        wanted.is_none() || owner == wanted
    }
    owner.uid == wanted.uid
        && fits(&owner.executable, &wanted.executable)
        && fits(&owner.cgroup, &wanted.cgroup)
        && fits(&owner.package, &wanted.package)
        && (wanted.socket == 0 || owner.socket == wanted.socket)
}

async fn cancel_safe<F: OwnerFixture>(fixture: &F) -> Checked {
    let resolver = fixture.resolver();
    for (query, _) in fixture.known() {
        if resolver.resolve(&query) != OwnerAnswer::Pending {
            continue;
        }
        let mut waiting = resolver.resolved();
        let early = poll_once(&mut waiting).await;
        if early.is_none() {
            fixture.answer().await;
            yields(100).await;
            // Woken or not: it is dropped before anybody looks.
            drop(waiting);
            let mut waiting = resolver.resolved();
            let answered = match poll_once(&mut waiting).await {
                Some(answer) => Some(answer),
                // Half-way through.
                None => {
                    drop(waiting);
                    within(fixture.patience(), resolver.resolved()).await
                }
            };
            SUITE.check(answered.is_some(), Clause::ResolvedCancelSafe, || {
                format!("the answer about {} came while it was dropped", query.flow)
            })?;
        }
    }
    Ok(())
}

async fn evidence<F: OwnerFixture>(fixture: &F) -> Checked {
    let queries = fixture.known().into_iter().map(|(query, _)| query);
    for query in queries.chain(fixture.unknown()) {
        let evidence = fixture.resolver().evidence(&query);
        let agrees = match (&evidence.conclusion, answer(fixture, &query).await?) {
            (Conclusion::NotShown | Conclusion::Pending, _) => true,
            (Conclusion::Known(shown), OwnerAnswer::Known(owner)) => *shown == owner,
            (Conclusion::Unknown(_), OwnerAnswer::Unknown) => true,
            _ => false,
        };
        SUITE.check(
            agrees && evidence.query == query,
            Clause::EvidenceAgrees,
            || format!("it answers otherwise than it shows:\n{evidence}"),
        )?;
    }
    Ok(())
}
