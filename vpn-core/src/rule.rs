//! What a rule says, and where rules come from.

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;

use crate::flow::Protocol;
use crate::id::RuleId;

/// Which application a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OwnerMatch {
    /// Every program of this user.
    Uid(u32),
    /// Every process of this executable (canonical path).
    Executable(PathBuf),
}

impl fmt::Display for OwnerMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Executable(path) => write!(f, "exe {}", path.display()),
        }
    }
}

/// Destination ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// From `first` to `last`, both included; `None` if `first > last`.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first <= last {
            Some(Self { first, last })
        } else {
            None
        }
    }

    /// One port.
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// First port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Last port, included.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A protocol a rule can name. `Icmp` covers ICMP and ICMPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RuleProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

impl RuleProtocol {
    /// Whether a packet of `protocol` is meant.
    pub const fn matches(self, protocol: Protocol) -> bool {
        match self {
            Self::Tcp => protocol.0 == Protocol::TCP.0,
            Self::Udp => protocol.0 == Protocol::UDP.0,
            Self::Icmp => protocol.is_icmp(),
        }
    }
}

impl fmt::Display for RuleProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// What a rule matches. Fields that are `None` match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleMatch {
    /// The application.
    pub owner: Option<OwnerMatch>,
    /// The destination.
    pub destination: Option<IpNet>,
    /// The destination port (TCP and UDP only: other protocols have none and do not match).
    pub ports: Option<PortRange>,
    /// The protocol.
    pub protocol: Option<RuleProtocol>,
}

impl RuleMatch {
    /// Whether a flow without regard to its owner is meant.
    pub fn matches_flow(&self, protocol: Protocol, dst: IpAddr, dst_port: u16) -> bool {
        let has_ports = protocol == Protocol::TCP || protocol == Protocol::UDP;
        self.destination.is_none_or(|net| net.contains(&dst))
            && self
                .ports
                .is_none_or(|range| has_ports && range.contains(dst_port))
            && self.protocol.is_none_or(|p| p.matches(protocol))
    }
}

impl fmt::Display for RuleMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.owner.as_ref().map(ToString::to_string));
        parts.extend(self.destination.map(|net| format!("dst {net}")));
        parts.extend(self.ports.map(|p| format!("port {p}")));
        parts.extend(self.protocol.map(|p| format!("proto {p}")));
        if parts.is_empty() {
            f.write_str("any")
        } else {
            f.write_str(&parts.join(" "))
        }
    }
}

/// What happens to a flow that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Action {
    /// Through the tunnel of this name, and nowhere else.
    Tunnel(String),
    /// Past every tunnel, by the uplink.
    Direct,
    /// Nowhere.
    Block,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tunnel(name) => name,
            Self::Direct => "direct",
            Self::Block => "block",
        })
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its identity; a larger one is newer and wins ties.
    pub id: RuleId,
    /// What it matches.
    pub matches: RuleMatch,
    /// What happens then.
    pub action: Action,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.id, self.matches, self.action)
    }
}

/// All rules of a source at one moment. Swapped whole, never edited in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSnapshot {
    /// The rules, in any order; precedence comes from what they say.
    pub rules: Vec<Rule>,
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
        }
    )*};
}
forward!(Arc<T>, Box<T>);
