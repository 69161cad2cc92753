//! Which flows a rule is for.

use std::fmt;
use std::path::PathBuf;

use ipnet::IpNet;

use super::{PortRange, RuleProtocol};
use crate::domain::DomainPattern;
use crate::flow::{Family, FlowKey, Protocol};

/// Which application a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OwnerMatch {
    /// Every program of this user.
    Uid(u32),
    /// Every process of this executable (canonical path).
    Executable(PathBuf),
    /// Every process of this control group or one below it: its path in the hierarchy, such as
    /// `/user.slice/user-1000.slice` (Linux, cgroup v2).
    Cgroup(PathBuf),
    /// Every process of this package, by the name the platform gives it (Android).
    Package(String),
}

impl fmt::Display for OwnerMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Executable(path) => write!(f, "exe {}", path.display()),
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Package(name) => write!(f, "package {name}"),
        }
    }
}

/// What a rule matches. Fields that are `None` match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleMatch {
    /// The application.
    pub owner: Option<OwnerMatch>,
    /// The source address. A rule with a source and without an owner also decides traffic that no
    /// socket of this host sends: that of containers and of the local network.
    pub source: Option<IpNet>,
    /// The interface that forwarded traffic came in by, as one of the prefixes that interface has
    /// when rules are compiled: a packet does not say where it came from before.
    pub interface: Option<String>,
    /// The destination.
    pub destination: Option<IpNet>,
    /// The name the destination was looked up under, as far as the query was seen.
    pub domain: Option<DomainPattern>,
    /// The address family.
    pub family: Option<Family>,
    /// The destination port (TCP and UDP only: other protocols have none and do not match).
    pub ports: Option<PortRange>,
    /// The protocol.
    pub protocol: Option<RuleProtocol>,
}

impl RuleMatch {
    /// Whether a flow is meant, as far as its own headers tell: without regard to owner, input
    /// interface and domain.
    pub fn matches_flow(&self, flow: &FlowKey) -> bool {
        let protocol = flow.protocol();
        let has_ports = protocol == Protocol::TCP || protocol == Protocol::UDP;
        let dst_port = flow.dst_port();
        self.destination.is_none_or(|net| net.contains(&flow.dst()))
            && self.source.is_none_or(|net| net.contains(&flow.src()))
            && self.family.is_none_or(|family| family == flow.family())
            && self
                .ports
                .is_none_or(|range| has_ports && range.contains(dst_port))
            && self.protocol.is_none_or(|p| p.matches(protocol))
    }
}

/// Why a match matches nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Contradiction {
    /// It names ports and a protocol without ports. Leave one out.
    #[error("ICMP has no ports")]
    PortsOfIcmp,
    /// Source and destination are of different families. Name two of one family.
    #[error("source and destination are of different address families")]
    Prefixes,
    /// The source is not of the family that is named. Leave one out.
    #[error("the source is of the other address family")]
    SourceFamily,
    /// The destination is not of the family that is named. Leave one out.
    #[error("the destination is of the other address family")]
    DestinationFamily,
}

impl Contradiction {
    /// The field to change, by its name on the command line and in files.
    pub const fn field(self) -> &'static str {
        match self {
            Self::PortsOfIcmp => "port",
            Self::SourceFamily => "src",
            Self::Prefixes | Self::DestinationFamily => "dst",
        }
    }
}

impl RuleMatch {
    /// Whether two fields exclude each other, so that nothing can match.
    pub fn contradiction(&self) -> Option<Contradiction> {
        let family = |net: Option<IpNet>| net.map(|net| Family::of(net.addr()));
        let (source, destination) = (family(self.source), family(self.destination));
        let differ = |a: Option<Family>, b: Option<Family>| a.is_some() && b.is_some() && a != b;
        if self.ports.is_some() && self.protocol == Some(RuleProtocol::Icmp) {
            Some(Contradiction::PortsOfIcmp)
        } else if differ(self.family, source) {
            Some(Contradiction::SourceFamily)
        } else if differ(self.family, destination) {
            Some(Contradiction::DestinationFamily)
        } else if differ(source, destination) {
            Some(Contradiction::Prefixes)
        } else {
            None
        }
    }
}

impl fmt::Display for RuleMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.owner.as_ref().map(ToString::to_string));
        parts.extend(self.source.map(|net| format!("src {net}")));
        parts.extend(self.interface.as_ref().map(|name| format!("iif {name}")));
        parts.extend(self.destination.map(|net| format!("dst {net}")));
        parts.extend(self.domain.as_ref().map(|d| format!("domain {d}")));
        parts.extend(self.family.map(|family| family.to_string()));
        parts.extend(self.ports.map(|p| format!("port {p}")));
        parts.extend(self.protocol.map(|p| format!("proto {p}")));
        if parts.is_empty() {
            f.write_str("any")
        } else {
            f.write_str(&parts.join(" "))
        }
    }
}
