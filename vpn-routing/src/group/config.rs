//! What a group is told to do, and what is wrong with that.

use std::fmt;
use std::time::Duration;

use vpn_core::TunnelId;

/// How many groups a router may have. Each tunnel's change of state is shown to all of them.
pub const MAX_GROUPS: usize = 256;

/// How many members a group may have: each new flow of a group that spreads load looks at all.
pub const MAX_MEMBERS: usize = 64;

/// How long a member has to be up without a break before flows go back to it, unless set.
pub const FAIL_BACK: Duration = Duration::from_secs(10);

/// By how much a round trip must be shorter for flows to move, unless set: less is jitter.
pub const TOLERANCE: Duration = Duration::from_millis(10);

/// By what a flow is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashBy {
    /// By source and destination address: what one host asks of another goes one way.
    #[default]
    Addresses,
    /// By owner: what one application does goes one way. Flows of which no rule asks the owner are
    /// hashed by addresses.
    Owner,
}

/// How a member is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// The first in the order of members.
    Ordered,
    /// The one with the lowest round trip. Members of which none is known come last, in order.
    Latency {
        /// By how much another one has to be better. [`TOLERANCE`] suits.
        tolerance: Duration,
    },
    /// By the flow's hash, so that shares are in proportion to these weights: one for each member,
    /// at least 1.
    Weighted(Vec<u32>),
    /// By this hash, in equal shares.
    Hash(HashBy),
}

impl Policy {
    /// The name used in status: lower case, stable.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Latency { .. } => "latency",
            Self::Weighted(_) => "weighted",
            Self::Hash(_) => "hash",
        }
    }

    /// Whether round trips matter.
    pub const fn compares(&self) -> bool {
        matches!(self, Self::Latency { .. })
    }

    /// Whether all members in use carry flows, not only one.
    pub const fn spreads(&self) -> bool {
        matches!(self, Self::Weighted(_) | Self::Hash(_))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A group of tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupConfig {
    /// Its name, by which rules know it. No tunnel has the same.
    pub name: String,
    /// Its members, in order of preference: 1 to [`MAX_MEMBERS`].
    pub members: Vec<TunnelId>,
    /// How one is chosen.
    pub policy: Policy,
    /// How long a member has to be up without a break before flows go back to it. Default
    /// [`FAIL_BACK`].
    pub fail_back: Duration,
}

impl GroupConfig {
    /// A group that uses the first of its members that is up.
    pub fn new(name: impl Into<String>, members: impl IntoIterator<Item = TunnelId>) -> Self {
        Self {
            name: name.into(),
            members: members.into_iter().collect(),
            policy: Policy::Ordered,
            fail_back: FAIL_BACK,
        }
    }

    /// Chooses by another policy. Default [`Policy::Ordered`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How long a member has to be up before flows go back to it. Default [`FAIL_BACK`]; zero
    /// goes back at once, with every flap.
    #[must_use]
    pub fn fail_back(mut self, delay: Duration) -> Self {
        self.fail_back = delay;
        self
    }
}

/// Why groups were refused. None of the list is used then; those in force stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// More groups than [`MAX_GROUPS`]. Name fewer.
    #[error("{count} groups are more than {MAX_GROUPS}; name fewer")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Two groups have one name, or a tunnel has it. Rename one.
    #[error("group {group:?}: the name is taken by another group or a tunnel; rename one")]
    NameTaken {
        /// The name.
        group: String,
    },
    /// A group without members, or with more than [`MAX_MEMBERS`]. Name 1 to that many.
    #[error("group {group:?} has {count} members; name 1 to {MAX_MEMBERS}")]
    Members {
        /// The group.
        group: String,
        /// How many it has.
        count: usize,
    },
    /// A member is not there. Add the tunnel first.
    #[error("group {group:?}: there is no {tunnel}; add the tunnel first")]
    NoSuchTunnel {
        /// The group.
        group: String,
        /// The member.
        tunnel: TunnelId,
    },
    /// A member is named twice. Name it once; weights say what share it gets.
    #[error("group {group:?} names {tunnel} twice; name it once")]
    MemberTwice {
        /// The group.
        group: String,
        /// The member.
        tunnel: TunnelId,
    },
    /// Weights are not one for each member, or one is 0. Give each member a weight from 1 up.
    #[error("group {group:?}: give each member one weight, from 1 up")]
    Weights {
        /// The group.
        group: String,
    },
    /// More names than ids were used for groups since the start: ids are not given twice.
    /// Start anew.
    #[error("no id is left for group {group:?}; start anew")]
    NoIdLeft {
        /// The group.
        group: String,
    },
}

impl GroupConfig {
    /// What is wrong with it by itself; `exists` says which tunnels there are.
    pub(crate) fn check(&self, exists: impl Fn(TunnelId) -> bool) -> Result<(), GroupError> {
        let group = || self.name.clone();
        let count = self.members.len();
        if !(1..=MAX_MEMBERS).contains(&count) {
            return Err(GroupError::Members {
                group: group(),
                count,
            });
        }
        for (place, &tunnel) in self.members.iter().enumerate() {
            if !exists(tunnel) {
                return Err(GroupError::NoSuchTunnel {
                    group: group(),
                    tunnel,
                });
            }
            if self.members[..place].contains(&tunnel) {
                return Err(GroupError::MemberTwice {
                    group: group(),
                    tunnel,
                });
            }
        }
        match &self.policy {
            Policy::Weighted(weights) if weights.len() != count || weights.contains(&0) => {
                Err(GroupError::Weights { group: group() })
            }
            _ => Ok(()),
        }
    }
}
