//! Where rules come from: whole snapshots, and the trait that yields them.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::{FilterRule, InboundRule, Rule};

/// All rules of a source at one moment. Swapped whole, never edited in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSnapshot {
    /// The rules, in any order; precedence comes from what they say.
    pub rules: Vec<Rule>,
    /// What may start behind a tunnel.
    pub inbound: Vec<InboundRule>,
    /// The packet filter, in order.
    pub filters: Vec<FilterRule>,
}

impl From<Vec<Rule>> for RuleSnapshot {
    fn from(rules: Vec<Rule>) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }
}

/// Why rules could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuleSourceError {
    /// The source cannot be reached. The last good rules stay in force; try again later.
    #[error("rules of {place} cannot be read; the last good ones stay in force")]
    Unavailable {
        /// File, table or address.
        place: String,
        /// What the source said.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A rule in the source makes no sense. Correct the entry that is named.
    #[error("{place}: {entry}: {problem}")]
    Invalid {
        /// File, table or address.
        place: String,
        /// Row or line.
        entry: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

/// Yields whole rule snapshots.
///
/// # Contract
///
/// * [`load`](Self::load) returns all rules, or an error; the caller keeps the last good
///   snapshot on an error. It may take long: it is never awaited on the packet path.
/// * [`changed`](Self::changed) returns when the rules may differ from those of the last `load`.
///   It is cancel-safe: dropping it loses no change. Spurious wake-ups are allowed.
/// * Both may be called from one task at a time.
///
/// # Example
///
/// Rules that never change (for changing ones see [`crate::manual::own_rule_source`]):
///
/// ```
/// use async_trait::async_trait;
/// use vpn_core::rule::{RuleSnapshot, RuleSource, RuleSourceError};
///
/// #[derive(Debug)]
/// struct Fixed(RuleSnapshot);
///
/// #[async_trait]
/// impl RuleSource for Fixed {
///     async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
///         Ok(self.0.clone())
///     }
///     async fn changed(&self) {
///         std::future::pending().await
///     }
/// }
/// ```
#[async_trait]
pub trait RuleSource: Debug + Send + Sync {
    /// Reads all rules.
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError>;

    /// Waits until the rules may have changed.
    async fn changed(&self);

    /// What was wrong with a part of the source, although the last `load` brought rules: those of
    /// that part are the last good ones. Default: a source has no parts.
    fn trouble(&self) -> Option<Arc<RuleSourceError>> {
        None
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        impl<T: RuleSource + ?Sized> RuleSource for $pointer {
            async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
                (**self).load().await
            }
            async fn changed(&self) {
                (**self).changed().await
            }
            fn trouble(&self) -> Option<Arc<RuleSourceError>> {
                (**self).trouble()
            }
        }
    )*};
}
forward!(Arc<T>, Box<T>);
