//! The suite of [`PeerDirectory`].

use std::net::IpAddr;

use async_trait::async_trait;

use super::clause::{Checked, Clause, Suite, Violation};
use super::drive::{poll_once, within, yields};
use crate::directory::{DirectoryError, PeerDirectory, PeerId, PeerRecord};

const SUITE: Suite = Suite("PeerDirectory");

/// A directory.
#[async_trait]
pub trait DirectoryFixture: Send + Sync {
    /// The directory, with nobody in it.
    fn directory(&self) -> &dyn PeerDirectory;

    /// A record that the directory takes: of a peer, with a sequence number, that claims
    /// `100.64.0.address`. Records are opaque to a directory; by default this one is not signed.
    fn record(&self, peer: u8, sequence: u64, address: u8) -> PeerRecord {
        PeerRecord {
            peer: PeerId([peer; 32]),
            addresses: vec![[100, 64, 0, address].into()],
            sequence,
            expires: u64::MAX,
            body: Default::default(),
            signature: Default::default(),
        }
    }

    /// As [`FarEnd::patience`](super::FarEnd::patience).
    async fn patience(&self) {
        yields(1000).await;
    }
}

/// Checks a directory. `make` makes a fresh one for each clause.
///
/// # Errors
///
/// The first clause that is broken.
pub async fn peer_directory<F: DirectoryFixture>(
    make: impl AsyncFn() -> F,
) -> Result<(), Violation> {
    published(&make().await).await?;
    replaced(&make().await).await?;
    contested(&make().await).await?;
    stale(&make().await).await?;
    for clause in [
        Clause::ChangedWakes,
        Clause::ChangedNotMissed,
        Clause::ChangedCancelSafe,
    ] {
        change(&make().await, clause).await?;
    }
    Ok(())
}

async fn publish<F: DirectoryFixture>(fixture: &F, record: &PeerRecord, clause: Clause) -> Checked {
    match fixture.directory().publish(record.clone()).await {
        Ok(()) => Ok(()),
        Err(error) => SUITE.broken(clause, format!("publishing failed: {error}")),
    }
}

/// What is resolved for a peer, and for an address by one peer at most, is this.
async fn resolves<F: DirectoryFixture>(
    fixture: &F,
    (peer, address): (PeerId, IpAddr),
    wanted: (Option<&PeerRecord>, Option<&PeerRecord>),
    clause: Clause,
) -> Checked {
    let directory = fixture.directory();
    let by_peer = directory.resolve(peer).await;
    let by_address = directory.resolve_address(address).await;
    for (what, found, wanted) in [
        (
            format!("peer {peer}"),
            by_peer.map(Vec::from_iter),
            wanted.0.as_slice(),
        ),
        (
            format!("address {address}"),
            by_address,
            wanted.1.as_slice(),
        ),
    ] {
        let mut found = match found {
            Ok(found) => found,
            Err(error) => return SUITE.broken(clause, format!("{what}: {error}")),
        };
        found.sort_unstable_by_key(|record| record.peer);
        SUITE.check(found.iter().eq(wanted.iter().copied()), clause, || {
            let (found, wanted) = (say(&found), say(wanted.iter().copied()));
            format!("for {what} it has {found}, not {wanted}")
        })?;
    }
    Ok(())
}

fn say<'a>(records: impl IntoIterator<Item = &'a PeerRecord>) -> String {
    let say = |record: &PeerRecord| format!("sequence {} of {}", record.sequence, record.peer);
    let said: Vec<String> = records.into_iter().map(say).collect();
    match said.is_empty() {
        true => "none".to_owned(),
        false => said.join(" and "),
    }
}

fn at(record: &PeerRecord) -> (PeerId, IpAddr) {
    (record.peer, record.addresses[0])
}

async fn published<F: DirectoryFixture>(fixture: &F) -> Checked {
    let (one, two) = (fixture.record(1, 1, 1), fixture.record(2, 1, 2));
    resolves(fixture, at(&one), (None, None), Clause::NobodyIsNone).await?;
    publish(fixture, &one, Clause::Published).await?;
    resolves(
        fixture,
        at(&one),
        (Some(&one), Some(&one)),
        Clause::Published,
    )
    .await?;
    resolves(fixture, at(&two), (None, None), Clause::NobodyIsNone).await?;
    publish(fixture, &two, Clause::Published).await?;
    resolves(
        fixture,
        at(&one),
        (Some(&one), Some(&one)),
        Clause::Published,
    )
    .await?;
    resolves(
        fixture,
        at(&two),
        (Some(&two), Some(&two)),
        Clause::Published,
    )
    .await
}

async fn replaced<F: DirectoryFixture>(fixture: &F) -> Checked {
    let clause = Clause::NewerReplaces;
    let (old, new) = (fixture.record(1, 1, 1), fixture.record(1, 2, 9));
    publish(fixture, &old, clause).await?;
    publish(fixture, &new, clause).await?;
    resolves(fixture, at(&new), (Some(&new), Some(&new)), clause).await?;
    // The address it had belongs to nobody now.
    resolves(fixture, at(&old), (Some(&new), None), clause).await
}

/// Two peers claim one address; then one of them gives it up.
async fn contested<F: DirectoryFixture>(fixture: &F) -> Checked {
    let clause = Clause::AllClaims;
    let mut both = [fixture.record(1, 7, 1), fixture.record(2, 3, 1)];
    for record in &both {
        publish(fixture, record, clause).await?;
    }
    both.sort_unstable_by_key(|record| record.peer);
    let address = both[0].addresses[0];
    let mut found = match fixture.directory().resolve_address(address).await {
        Ok(found) => found,
        Err(error) => return SUITE.broken(clause, format!("address {address}: {error}")),
    };
    found.sort_unstable_by_key(|record| record.peer);
    SUITE.check(found == both, clause, || {
        let (found, wanted) = (say(&found), say(&both));
        format!("for address {address} it has {found}, not {wanted}")
    })?;
    let (stays, leaves) = (fixture.record(2, 3, 1), fixture.record(1, 8, 9));
    publish(fixture, &leaves, clause).await?;
    resolves(fixture, at(&stays), (Some(&stays), Some(&stays)), clause).await
}

async fn stale<F: DirectoryFixture>(fixture: &F) -> Checked {
    let clause = Clause::StaleRefused;
    let there = fixture.record(1, 5, 1);
    publish(fixture, &there, clause).await?;
    for sequence in [5, 4] {
        let offered = fixture.record(1, sequence, 9);
        let refused = fixture.directory().publish(offered.clone()).await;
        let kept = matches!(refused, Err(DirectoryError::Stale { .. }));
        SUITE.check(kept, clause, || {
            format!("sequence {sequence} after 5 was answered with {refused:?}")
        })?;
        resolves(fixture, at(&there), (Some(&there), Some(&there)), clause).await?;
        resolves(fixture, at(&offered), (Some(&there), None), clause).await?;
    }
    Ok(())
}

/// A record comes, with somebody waiting in the way that the clause is about.
async fn change<F: DirectoryFixture>(fixture: &F, clause: Clause) -> Checked {
    let directory = fixture.directory();
    let record = fixture.record(1, 1, 1);
    let told = match clause {
        Clause::ChangedWakes => {
            let mut waiting = directory.changed();
            let early = poll_once(&mut waiting).await;
            if let Some(early) = early {
                return SUITE.broken(clause, format!("nothing changed, it returned {early:?}"));
            }
            publish(fixture, &record, clause).await?;
            within(fixture.patience(), waiting).await
        }
        Clause::ChangedNotMissed => {
            publish(fixture, &record, clause).await?;
            within(fixture.patience(), directory.changed()).await
        }
        _ => {
            let mut waiting = directory.changed();
            let _ = poll_once(&mut waiting).await;
            publish(fixture, &record, clause).await?;
            // Woken or not: it is dropped before anybody looks.
            drop(waiting);
            let mut waiting = directory.changed();
            match poll_once(&mut waiting).await {
                Some(told) => Some(told),
                // Half-way through.
                None => {
                    drop(waiting);
                    within(fixture.patience(), directory.changed()).await
                }
            }
        }
    };
    match told {
        Some(Ok(told)) if told == record => Ok(()),
        Some(other) => SUITE.broken(clause, format!("it returned {other:?}")),
        None => SUITE.broken(clause, "a record was published, and changed never returned"),
    }
}
