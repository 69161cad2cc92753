//! The suite of [`RuleSource`].

use async_trait::async_trait;

use super::clause::{Checked, Clause, Suite, Violation};
use super::drive::{poll_once, within, yields};
use crate::id::RuleId;
use crate::rule::{Action, OwnerMatch, Rule, RuleMatch, RuleSource};

const SUITE: Suite = Suite("RuleSource");

/// A rule source, and whoever edits its rules.
#[async_trait]
pub trait RuleFixture: Send + Sync {
    /// The source.
    fn source(&self) -> &dyn RuleSource;

    /// Makes these the rules of the source, all of them. `false` if it has the rules it was made
    /// with for ever; those have to be [`some_rules`](Self::some_rules)`(1)` then.
    async fn set(&self, rules: &[Rule]) -> bool;

    /// Makes the source unreadable, until the next [`set`](Self::set). `false` if that cannot be.
    async fn damage(&self) -> bool {
        false
    }

    /// Rules that the source can hold, different for each `seed`.
    fn some_rules(&self, seed: u32) -> Vec<Rule> {
        (1..=3)
            .map(|n| {
                let matches = RuleMatch {
                    owner: Some(OwnerMatch::Uid(seed * 10 + n)),
                    ..RuleMatch::default()
                };
                Rule::new(
                    RuleId(u64::from(n)),
                    matches,
                    Action::Tunnel("uk".to_owned()),
                )
            })
            .collect()
    }

    /// As [`FarEnd::patience`](super::FarEnd::patience).
    async fn patience(&self) {
        yields(1000).await;
    }
}

/// Checks a rule source. `make` makes a fresh one for each clause.
///
/// # Errors
///
/// The first clause that is broken.
pub async fn rule_source<F: RuleFixture>(make: impl AsyncFn() -> F) -> Result<(), Violation> {
    // One at a time: each is gone before the next is made.
    if !loads_again(&make().await).await? {
        return Ok(());
    }
    for clause in [
        Clause::ChangedWakes,
        Clause::ChangedNotMissed,
        Clause::ChangedCancelSafe,
    ] {
        change(&make().await, clause).await?;
    }
    damaged(&make().await).await
}

/// Whether the rules can be changed.
async fn loads_again<F: RuleFixture>(fixture: &F) -> Checked<bool> {
    let rules = fixture.some_rules(1);
    let changes = fixture.set(&rules).await;
    loads(fixture, &rules, Clause::LoadWhole).await?;
    loads(fixture, &rules, Clause::LoadRepeats).await?;
    Ok(changes)
}

/// Compares without regard to order, which says nothing.
async fn loads<F: RuleFixture>(fixture: &F, wanted: &[Rule], clause: Clause) -> Checked {
    let loaded = within(fixture.patience(), fixture.source().load()).await;
    let sorted = |rules: &[Rule]| {
        let mut rules: Vec<Rule> = rules.to_vec();
        rules.sort_by_key(|rule| rule.id);
        rules
    };
    match loaded {
        Some(Ok(snapshot)) => {
            let kept = sorted(&snapshot.rules) == sorted(wanted);
            let list = |rules: &[Rule]| {
                let texts: Vec<String> = rules.iter().map(ToString::to_string).collect();
                texts.join("; ")
            };
            SUITE.check(kept, clause, || {
                let (there, loaded) = (list(wanted), list(&snapshot.rules));
                format!("there are [{there}], loaded were [{loaded}]")
            })
        }
        Some(Err(error)) => SUITE.broken(clause, format!("load failed: {error}")),
        None => SUITE.broken(clause, "load never returned"),
    }
}

/// The rules change, with somebody waiting in the way that the clause is about.
async fn change<F: RuleFixture>(fixture: &F, clause: Clause) -> Checked {
    let source = fixture.source();
    let first = fixture.some_rules(1);
    fixture.set(&first).await;
    loads(fixture, &first, Clause::LoadWhole).await?;
    // What the source reports of its beginning is no change.
    let spurious = async {
        for _ in 0..8 {
            if poll_once(&mut source.changed()).await.is_none() {
                return;
            }
            let _ = source.load().await;
        }
    };
    spurious.await;
    let second = fixture.some_rules(2);
    let returned = match clause {
        Clause::ChangedWakes => {
            let mut waiting = source.changed();
            if poll_once(&mut waiting).await.is_some() {
                // Spuriously; whoever waits again has to be woken all the same.
                waiting = source.changed();
            }
            fixture.set(&second).await;
            within(fixture.patience(), waiting).await
        }
        Clause::ChangedNotMissed => {
            fixture.set(&second).await;
            within(fixture.patience(), source.changed()).await
        }
        _ => {
            let mut waiting = source.changed();
            let _ = poll_once(&mut waiting).await;
            fixture.set(&second).await;
            // Woken or not: it is dropped before anybody looks.
            drop(waiting);
            let mut waiting = source.changed();
            match poll_once(&mut waiting).await {
                Some(()) => Some(()),
                // Half-way through.
                None => {
                    drop(waiting);
                    within(fixture.patience(), source.changed()).await
                }
            }
        }
    };
    SUITE.check(returned.is_some(), clause, || {
        "the rules changed, and changed never returned".to_owned()
    })?;
    loads(fixture, &second, Clause::LoadWhole).await
}

async fn damaged<F: RuleFixture>(fixture: &F) -> Checked {
    fixture.set(&fixture.some_rules(1)).await;
    if !fixture.damage().await {
        return Ok(());
    }
    match within(fixture.patience(), fixture.source().load()).await {
        Some(Err(_)) => {}
        Some(Ok(snapshot)) => {
            let seen = format!("it cannot be read, and {} rules came", snapshot.rules.len());
            return SUITE.broken(Clause::LoadFails, seen);
        }
        None => return SUITE.broken(Clause::LoadFails, "load never returned"),
    }
    let mended = fixture.some_rules(3);
    fixture.set(&mended).await;
    loads(fixture, &mended, Clause::LoadRecovers).await
}
