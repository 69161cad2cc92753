//! Rule sources, directories and resolvers that are broken in one way each.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use vpn_core::owner::{Conclusion, Doubt};
use vpn_core::rule::{RuleSnapshot, RuleSourceError};
use vpn_core::testing::MemoryDirectory;
use vpn_core::testing::conformance::*;
use vpn_core::{
    DirectoryError, Evidence, Owner, OwnerAnswer, OwnerQuery, OwnerResolver, PeerDirectory, PeerId,
    PeerRecord, Rule, RuleSource,
};

use crate::memory::{FromHost, query};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    LoadsHalf,
    LoadsEmptyOnError,
    ForgetsWhenDropped,
    NeverChanges,
    LosesWhenDropped,
    ForgetsAddresses,
    OneClaim,
    TakesStale,
    KeepsOldAddress,
    Guesses,
    OtherUser,
    Blocks,
    NeverAnswers,
    AnswersTwice,
    LosesAnswer,
    ShowsOtherwise,
}

use Wrong::*;

#[derive(Debug)]
struct Rules {
    inner: FromHost,
    wrong: Wrong,
}

#[async_trait]
impl RuleSource for Rules {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let loaded = self.inner.load().await;
        match (loaded, self.wrong) {
            (Ok(mut snapshot), LoadsHalf) => {
                snapshot.rules.truncate(1);
                Ok(snapshot)
            }
            (Err(_), LoadsEmptyOnError) => Ok(RuleSnapshot::default()),
            (loaded, _) => loaded,
        }
    }
    async fn changed(&self) {
        match self.wrong {
            // What came before is not looked at.
            ForgetsWhenDropped => drop(self.inner.host.subscribe().changed().await),
            NeverChanges => std::future::pending().await,
            _ => self.inner.changed().await,
        }
    }
}

#[async_trait]
impl RuleFixture for Rules {
    fn source(&self) -> &dyn RuleSource {
        self
    }
    async fn set(&self, rules: &[Rule]) -> bool {
        self.inner.set(rules).await
    }
    async fn damage(&self) -> bool {
        self.inner.damage().await
    }
}

#[derive(Debug)]
struct Directory {
    inner: MemoryDirectory,
    all: Mutex<Vec<PeerRecord>>,
    wrong: Wrong,
}

#[async_trait]
impl PeerDirectory for Directory {
    async fn publish(&self, record: PeerRecord) -> Result<(), DirectoryError> {
        self.all.lock().unwrap().push(record.clone());
        match self.inner.publish(record).await {
            Err(DirectoryError::Stale { .. }) if self.wrong == TakesStale => Ok(()),
            result => result,
        }
    }
    async fn resolve(&self, peer: PeerId) -> Result<Option<PeerRecord>, DirectoryError> {
        self.inner.resolve(peer).await
    }
    async fn resolve_address(&self, address: IpAddr) -> Result<Vec<PeerRecord>, DirectoryError> {
        match self.wrong {
            ForgetsAddresses => Ok(Vec::new()),
            OneClaim => {
                let mut claims = self.inner.resolve_address(address).await?;
                claims.sort_unstable_by_key(|record| std::cmp::Reverse(record.sequence));
                claims.truncate(1);
                Ok(claims)
            }
            KeepsOldAddress => {
                let all = self.all.lock().unwrap();
                let claims = all.iter().filter(|r| r.addresses.contains(&address));
                Ok(claims.take(1).cloned().collect())
            }
            _ => self.inner.resolve_address(address).await,
        }
    }
    async fn changed(&self) -> Result<PeerRecord, DirectoryError> {
        match self.wrong {
            NeverChanges => std::future::pending().await,
            LosesWhenDropped => {
                // Holds a record across an await.
                let record = self.inner.changed().await;
                yields(1).await;
                record
            }
            _ => self.inner.changed().await,
        }
    }
}

impl DirectoryFixture for Directory {
    fn directory(&self) -> &dyn PeerDirectory {
        self
    }
}

/// Knows port 1 at once, port 2 after a while, and nobody else.
#[derive(Debug)]
struct Owners {
    wrong: Wrong,
    asked: Mutex<Vec<OwnerQuery>>,
    answers: Mutex<Vec<(OwnerQuery, OwnerAnswer)>>,
}

impl Owners {
    fn new(wrong: Wrong) -> Self {
        Self {
            wrong,
            asked: Mutex::default(),
            answers: Mutex::default(),
        }
    }
}

#[async_trait]
impl OwnerResolver for Owners {
    fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
        match query.flow.src_port() {
            1 if self.wrong == OtherUser => OwnerAnswer::Known(Owner::user(7)),
            1 => OwnerAnswer::Known(Owner::user(1)),
            2 => {
                self.asked.lock().unwrap().push(*query);
                OwnerAnswer::Pending
            }
            _ if self.wrong == Guesses => OwnerAnswer::Known(Owner::user(1)),
            _ => {
                if self.wrong == Blocks {
                    std::thread::sleep(Duration::from_millis(60));
                }
                OwnerAnswer::Unknown
            }
        }
    }
    async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            let mut answers = self.answers.lock().unwrap();
            match answers.is_empty() {
                true => std::task::Poll::Pending,
                false => std::task::Poll::Ready(answers.remove(0)),
            }
        })
        .await
    }
    fn evidence(&self, query: &OwnerQuery) -> Evidence {
        match self.wrong {
            ShowsOtherwise => {
                Evidence::new(*query).concluding(Conclusion::Unknown(Doubt::SeveralUsers))
            }
            _ => Evidence::not_shown(*query),
        }
    }
}

#[async_trait]
impl OwnerFixture for Owners {
    fn resolver(&self) -> &dyn OwnerResolver {
        self
    }
    fn known(&self) -> Vec<(OwnerQuery, Owner)> {
        let user = Owner::user;
        vec![(query(1), user(1)), (query(2), user(2))]
    }
    fn unknown(&self) -> Vec<OwnerQuery> {
        vec![query(3)]
    }
    async fn answer(&self) {
        let times = match self.wrong {
            NeverAnswers => 0,
            AnswersTwice => 2,
            _ => 1,
        };
        let known = OwnerAnswer::Known(Owner::user(2));
        let mut asked = self.asked.lock().unwrap();
        // Asked several times before: the newest counts.
        let newest = asked.pop();
        asked.clear();
        if let Some(query) = newest {
            let mut answers = self.answers.lock().unwrap();
            answers.extend(std::iter::repeat_n((query, known.clone()), times));
        }
    }
}

/// As the one above, but takes an answer before it can be returned.
#[derive(Debug)]
struct Losing(Owners, Mutex<bool>);

#[async_trait]
impl OwnerResolver for Losing {
    fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
        self.0.resolve(query)
    }
    async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
        // Whoever waits first has all that comes.
        let first = !std::mem::replace(&mut *self.1.lock().unwrap(), true);
        if !first {
            std::future::pending::<()>().await;
        }
        self.0.resolved().await
    }
}

#[async_trait]
impl OwnerFixture for Losing {
    fn resolver(&self) -> &dyn OwnerResolver {
        self
    }
    fn known(&self) -> Vec<(OwnerQuery, Owner)> {
        vec![(query(2), Owner::user(2))]
    }
    fn unknown(&self) -> Vec<OwnerQuery> {
        Vec::new()
    }
    async fn answer(&self) {
        self.0.answer().await;
    }
}

fn told(wrong: Wrong, result: Result<(), Violation>, clause: Clause, seen: &str) {
    let violation = result.unwrap_err();
    assert_eq!(violation.clause, clause, "{wrong:?}: {violation}");
    assert!(
        violation.to_string().contains(seen),
        "{wrong:?}: {violation}"
    );
}

#[tokio::test]
async fn a_broken_rule_source_is_told_its_clause() {
    for (wrong, clause, seen) in [
        (LoadsHalf, Clause::LoadWhole, "there are [rule#1: uid 11"),
        (LoadsEmptyOnError, Clause::LoadFails, "and 0 rules came"),
        (
            ForgetsWhenDropped,
            Clause::ChangedNotMissed,
            "changed never returned",
        ),
        (NeverChanges, Clause::ChangedWakes, "changed never returned"),
    ] {
        let make = async || Rules {
            inner: FromHost::new(),
            wrong,
        };
        told(wrong, rule_source(make).await, clause, seen);
    }
}

#[tokio::test]
async fn a_broken_directory_is_told_its_clause() {
    for (wrong, clause, seen) in [
        (
            ForgetsAddresses,
            Clause::Published,
            "for address 100.64.0.1 it has none",
        ),
        (
            TakesStale,
            Clause::StaleRefused,
            "sequence 5 after 5 was answered with Ok",
        ),
        (KeepsOldAddress, Clause::NewerReplaces, "has sequence 1"),
        (
            OneClaim,
            Clause::AllClaims,
            "has sequence 7 of 0101010101010101, not sequence 7 of 0101010101010101 and",
        ),
        (NeverChanges, Clause::ChangedWakes, "changed never returned"),
        (
            LosesWhenDropped,
            Clause::ChangedCancelSafe,
            "changed never returned",
        ),
    ] {
        let make = async || Directory {
            inner: MemoryDirectory::new(),
            all: Mutex::default(),
            wrong,
        };
        told(wrong, peer_directory(make).await, clause, seen);
    }
}

#[tokio::test]
async fn a_broken_resolver_is_told_its_clause() {
    for (wrong, clause, seen) in [
        (Guesses, Clause::NobodyGuessed, "it says Known"),
        (OtherUser, Clause::KnownExactly, "is uid 1's"),
        (Blocks, Clause::ResolveReturns, "it takes"),
        (NeverAnswers, Clause::PendingAnswered, "no answer came"),
        (
            AnswersTwice,
            Clause::PendingAnsweredOnce,
            "after the answer",
        ),
        (
            ShowsOtherwise,
            Clause::EvidenceAgrees,
            "sockets of several users",
        ),
    ] {
        let make = async || Owners::new(wrong);
        told(wrong, owner_resolver(make).await, clause, seen);
    }
    let make = async || Losing(Owners::new(LosesAnswer), Mutex::new(false));
    let result = owner_resolver(make).await;
    told(
        LosesAnswer,
        result,
        Clause::ResolvedCancelSafe,
        "while it was dropped",
    );
}
