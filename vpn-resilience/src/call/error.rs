//! Why a call failed: by itself, or because a policy says so.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use crate::backoff::GiveUp;
use crate::breaker::Refused;
use crate::bulkhead::Shed;
use crate::fault::{Classify, Fault};
use crate::rate::Limited;

/// Why a call failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError<E> {
    /// It was made, and failed.
    Failed(E),
    /// It was made, and took too long.
    TimedOut {
        /// The limit it had.
        limit: Duration,
    },
    /// It was made several times, and failed each time.
    GaveUp {
        /// Why it is not tried again, and how many attempts were made.
        reason: GiveUp,
        /// How the last of them failed.
        last: Box<CallError<E>>,
    },
    /// It was not made: a breaker is open. Ask again when it says so.
    Open(Refused),
    /// It was not made: the rate is limited. Ask again when it says so, or less often.
    Limited(Limited),
    /// It was not made: too much is going on.
    Shed(Shed),
    /// It was told to stop.
    Stopped {
        /// Attempts that had begun.
        attempts: u32,
    },
}

impl<E> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(_) => f.write_str("the call failed"),
            Self::TimedOut { limit } => write!(f, "no answer within {limit:?}"),
            Self::GaveUp { reason, .. } => reason.fmt(f),
            Self::Open(refused) => refused.fmt(f),
            Self::Limited(limited) => limited.fmt(f),
            Self::Shed(shed) => shed.fmt(f),
            Self::Stopped { attempts } => write!(f, "stopped after {attempts} attempts had begun"),
        }
    }
}

impl<E: Error + 'static> Error for CallError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            Self::GaveUp { last, .. } => Some(&**last),
            _ => None,
        }
    }
}

impl<E> CallError<E> {
    /// What it says about the other end; `None` if that was not asked.
    pub fn fault(&self, classify: &impl Classify<E>) -> Option<Fault> {
        match self {
            Self::Failed(error) => Some(classify.classify(error)),
            Self::TimedOut { .. } => Some(Fault::Transient),
            Self::GaveUp { last, .. } => last.fault(classify),
            Self::Open(_) | Self::Limited(_) | Self::Shed(_) | Self::Stopped { .. } => None,
        }
    }

    /// What it says to a retry around it. What was tried again inside is not tried again outside,
    /// and an open breaker will not have closed in a moment; room and tokens come soon.
    pub(super) fn to_retry(&self, classify: &impl Classify<E>) -> Fault {
        match self {
            Self::Failed(error) => classify.classify(error),
            Self::TimedOut { .. } | Self::Limited(_) | Self::Shed(_) => Fault::Transient,
            Self::GaveUp { .. } | Self::Open(_) | Self::Stopped { .. } => Fault::Permanent,
        }
    }

    /// The earliest moment at which another call can be made, if that is known.
    pub const fn retry_at(&self) -> Option<Instant> {
        match self {
            Self::Open(refused) => Some(refused.retry_at),
            Self::Limited(limited) => Some(limited.retry_at),
            _ => None,
        }
    }

    /// The call's own error, if it was made and failed.
    pub fn into_failure(self) -> Result<E, Self> {
        match self {
            Self::Failed(error) => Ok(error),
            Self::GaveUp { reason, last } => match last.into_failure() {
                Ok(error) => Ok(error),
                Err(last) => Err(Self::GaveUp {
                    reason,
                    last: Box::new(last),
                }),
            },
            other => Err(other),
        }
    }
}
