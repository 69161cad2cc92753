//! Who on this machine owns a flow.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::flow::FlowKey;

/// Which program a flow belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User id of the socket.
    pub uid: u32,
    /// Canonical path of the executable that holds the socket; `None` if it was not asked for or
    /// could not be learnt.
    pub executable: Option<Arc<Path>>,
    /// A number that differs between two sockets even when they have the same address and port
    /// one after the other (Linux: the socket's inode). 0 where the platform has none.
    pub socket: u64,
}

impl Owner {
    /// An owner of which only the user is known.
    pub fn user(uid: u32) -> Self {
        Self {
            uid,
            executable: None,
            socket: 0,
        }
    }
}

/// How much of the owner a rule needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerDetail {
    /// The user id: one exact socket query, microseconds.
    #[default]
    Uid,
    /// The executable as well: may have to search processes, up to milliseconds.
    Executable,
}

/// The question: who owns the socket this packet came from?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerQuery {
    /// The flow as the application's socket has it: its own address and port as source.
    pub flow: FlowKey,
    /// How much must be known.
    pub detail: OwnerDetail,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerAnswer {
    /// Exactly this owner.
    Known(Owner),
    /// Being looked up; the answer comes from [`OwnerResolver::resolved`].
    Pending,
    /// Nobody, or more than one candidate. Never "the first of several".
    Unknown,
}

/// Finds the owner of a flow.
///
/// # Contract
///
/// * [`resolve`](Self::resolve) does not block: a bounded kernel query of microseconds is fine,
///   a search over processes is not; that answers [`Pending`](OwnerAnswer::Pending).
/// * Every `Pending` is followed by exactly one answer from [`resolved`](Self::resolved), or by
///   none if the resolver is dropped; askers have a deadline of their own.
/// * Two candidates with different owners are `Unknown`.
/// * `resolved` is cancel-safe: an answer that was not returned is returned next time.
///
/// # Example
///
/// A host that knows its apps by port (say, an Android `VpnService`):
///
/// ```
/// use vpn_core::{Owner, OwnerAnswer, OwnerQuery, OwnerResolver};
///
/// #[derive(Debug)]
/// struct ByPort;
///
/// impl OwnerResolver for ByPort {
///     fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
///         match query.flow.src_port() {
///             1000..2000 => OwnerAnswer::Known(Owner::user(1001)),
///             _ => OwnerAnswer::Unknown,
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait OwnerResolver: Debug + Send + Sync {
    /// Answers at once, or says that the answer will come.
    fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer;

    /// The next answer to a query that was `Pending`. Waits for ever by default.
    async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
        std::future::pending().await
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        impl<T: OwnerResolver + ?Sized> OwnerResolver for $pointer {
            fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
                (**self).resolve(query)
            }
            async fn resolved(&self) -> (OwnerQuery, OwnerAnswer) {
                (**self).resolved().await
            }
        }
    )*};
}
forward!(Arc<T>, Box<T>);

/// Knows nobody: every flow's owner is [`OwnerAnswer::Unknown`].
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOwners;

impl OwnerResolver for NoOwners {
    fn resolve(&self, _: &OwnerQuery) -> OwnerAnswer {
        OwnerAnswer::Unknown
    }
}
