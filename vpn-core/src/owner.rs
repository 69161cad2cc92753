//! Who on this machine owns a flow.

mod evidence;

use std::fmt::{self, Debug};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::flow::FlowKey;

pub use evidence::{
    Conclusion, Doubt, Evidence, Holder, Lookup, SocketEvidence, SocketPart, SocketState,
};

/// Which program a flow belongs to.
///
/// Make one with [`Owner::user`] and fill in what else is known:
/// `Owner { package, ..Owner::user(uid) }`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User id of the socket: of who made it, not of who was handed it.
    pub uid: u32,
    /// Canonical path of the executable that holds the socket; `None` if it was not asked for, or
    /// if it is none of this system's, as that of a container: no rule can name it then.
    pub executable: Option<Arc<Path>>,
    /// Control group of the process that holds the socket, as an absolute path below the root of
    /// the cgroup hierarchy (`/system.slice/nginx.service`); `None` if it was not asked for, and
    /// where there are none.
    pub cgroup: Option<Arc<Path>>,
    /// Name of the installed application (Android: `org.example.browser`); `None` where there are
    /// none. Only the host can tell it.
    pub package: Option<Arc<str>>,
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
            cgroup: None,
            package: None,
            socket: 0,
        }
    }

    /// How much of it is known.
    pub fn detail(&self) -> OwnerDetail {
        let process = self.executable.is_some() || self.cgroup.is_some() || self.package.is_some();
        match process {
            true => OwnerDetail::Process,
            false => OwnerDetail::Uid,
        }
    }

    /// Whether it is the same application; two sockets of one are told apart by
    /// [`socket`](Self::socket) only.
    pub fn same_application(&self, other: &Self) -> bool {
        (self.uid, &self.executable, &self.cgroup, &self.package)
            == (other.uid, &other.executable, &other.cgroup, &other.package)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        if let Some(path) = &self.executable {
            write!(f, " exe {}", path.display())?;
        }
        if let Some(path) = &self.cgroup {
            write!(f, " cgroup {}", path.display())?;
        }
        if let Some(name) = &self.package {
            write!(f, " package {name}")?;
        }
        Ok(())
    }
}

/// How much of the owner a rule needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerDetail {
    /// The user id: one exact socket query, microseconds.
    #[default]
    Uid,
    /// The process as well, that is its executable and its cgroup, or its package: may have to
    /// search processes, up to milliseconds.
    Process,
}

impl fmt::Display for OwnerDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uid => "uid",
            Self::Process => "process",
        })
    }
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

    /// What the answer rests on, for people: which look-up was made, which sockets it found and
    /// what was concluded. Says only the conclusion by default.
    ///
    /// Not for the packet path: it looks again, may search processes, and takes milliseconds then.
    /// Call it where blocking is allowed. It never waits for [`resolved`](Self::resolved), nor
    /// takes an answer from it.
    fn evidence(&self, query: &OwnerQuery) -> Evidence {
        Evidence::not_shown(*query)
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
            fn evidence(&self, query: &OwnerQuery) -> Evidence {
                (**self).evidence(query)
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
