//! The clauses of the contracts, by name.

use std::fmt;

macro_rules! clauses {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A clause of a trait's contract; its [`Display`](fmt::Display) is the clause in words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Clause {
            $(#[doc = $text] $(#[$doc])* $name,)*
        }

        impl fmt::Display for Clause {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

clauses! {
    Capabilities = "capabilities are plausible and stay as they are",
    ReceiveAppends = "try_recv appends to the batch and leaves what is in it",
    ReceiveCounts = "try_recv returns how many packets it appended",
    ReceiveInOrder = "packets are received whole, once and in order",
    ReadableWakes = "readable wakes when a packet is there",
    ReadableCancelSafe = "dropping readable loses no packet",
    SendInOrder = "packets are sent whole, once and in order",
    SendCounts = "try_send returns how many packets it sent",
    SendCountsRefused = "a packet that is refused is removed and counted in drops",
    SendSparesOthers = "a refused packet's batch-mates go on",
    SendLeavesRest = "what is not taken stays in the batch, in order",
    WritableWakes = "writable wakes when there is room again",
    CloseWakes = "closing wakes who waits, with the error Closed",
    CloseIdempotent = "closing again does nothing",
    ClosedStaysClosed = "after closing every call returns the error Closed",
    StateFirst = "a new watcher is told the state at once",
    UpAfterProof = "the state is up only after the other end answered",
    UpWhenProven = "the state becomes up once the other end has answered",
    NothingBeforeProof = "nothing is carried before the other end answered",
    ClosedState = "the state is closed after closing, for ever",
    LoadWhole = "load returns all rules and no others",
    LoadRepeats = "load returns the same rules while they do not change",
    LoadFails = "load returns an error, not half of the rules, if it cannot read them",
    LoadRecovers = "load works again when what was wrong is mended",
    ChangedWakes = "changed returns when there is something new",
    ChangedNotMissed = "changed returns at once for what came since the last look",
    ChangedCancelSafe = "dropping changed loses no change",
    Published = "what was published is resolved, by peer and by address",
    NobodyIsNone = "who was never published is none",
    NewerReplaces = "a newer record replaces the older one and its addresses",
    AllClaims = "all who claim an address are returned for it, and nobody who gave it up",
    StaleRefused = "a record that is not newer is refused as stale and changes nothing",
    KnownExactly = "a known owner is exactly the one it is",
    NobodyGuessed = "who cannot be named is unknown, never somebody",
    ResolveReturns = "resolve does not block",
    PendingAnswered = "every pending question is answered",
    PendingAnsweredOnce = "a pending question is answered once",
    ResolvedCancelSafe = "dropping resolved loses no answer",
    EvidenceAgrees = "evidence concludes what resolve answers",
}

/// An implementation broke its contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{suite}: broken: {clause}; {seen}")]
#[non_exhaustive]
pub struct Violation {
    /// The trait.
    pub suite: &'static str,
    /// What its contract says.
    pub clause: Clause,
    /// What was seen instead.
    pub seen: String,
}

/// A check's result.
pub(super) type Checked<T = ()> = Result<T, Violation>;

/// Makes the violations of one suite.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suite(pub(super) &'static str);

impl Suite {
    pub(super) fn broken<T>(self, clause: Clause, seen: impl Into<String>) -> Checked<T> {
        Err(Violation {
            suite: self.0,
            clause,
            seen: seen.into(),
        })
    }

    pub(super) fn check(
        self,
        kept: bool,
        clause: Clause,
        seen: impl FnOnce() -> String,
    ) -> Checked {
        if kept {
            Ok(())
        } else {
            self.broken(clause, seen())
        }
    }
}
