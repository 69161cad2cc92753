//! What happens to a flow that a rule matches.

use std::fmt;

/// What happens to a flow that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Action {
    /// Through the tunnel of this name, and nowhere else. If there is no such tunnel, but a group
    /// of this name, it is that group: what people write does not tell one from the other.
    Tunnel(String),
    /// Through whichever tunnel of this group is chosen, and nowhere else.
    Group(String),
    /// Past every tunnel, by the uplink.
    Direct,
    /// Nowhere.
    Block,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tunnel(name) | Self::Group(name) => name,
            Self::Direct => "direct",
            Self::Block => "block",
        })
    }
}

/// What live flows do when the rule, the rules or the choice of a group now name another tunnel.
///
/// Flows that are blocked now end at once, whatever is said here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OnChange {
    /// A live TCP connection keeps its tunnel, since it cannot survive a change of address;
    /// everything else moves with its next packet.
    #[default]
    Keep,
    /// A live TCP connection is reset, so that its app connects anew at once; everything else
    /// moves with its next packet.
    Reset,
    /// A live TCP connection goes nowhere, until its app gives up; everything else moves with its
    /// next packet.
    Drop,
}

impl fmt::Display for OnChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Reset => "reset",
            Self::Drop => "drop",
        })
    }
}

/// What happens to a rule's flows while its tunnel is down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OnDown {
    /// They go nowhere.
    #[default]
    Block,
    /// Through the tunnel or group of this name. If that is down as well, they go nowhere.
    Fallback(String),
    /// Past every tunnel, by the uplink.
    Direct,
}

impl fmt::Display for OnDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block => f.write_str("block"),
            Self::Fallback(name) => write!(f, "fall back to {name}"),
            Self::Direct => f.write_str("direct"),
        }
    }
}
