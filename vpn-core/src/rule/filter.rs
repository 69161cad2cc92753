//! What may not pass, although its rule gives it a tunnel.

use std::fmt;

use ipnet::IpNet;

use super::{PortRange, RuleProtocol};
use crate::flow::Family;
use crate::id::RuleId;

/// Which way a flow was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FilterDirection {
    /// From behind a tunnel.
    Inbound,
    /// From this host.
    Outbound,
    /// Either.
    #[default]
    Both,
}

/// What becomes of what a filter rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterAction {
    /// It passes; later filter rules are not asked.
    Accept,
    /// It goes nowhere, and its sender is not told.
    Drop,
    /// It goes nowhere, and its sender is told: RST for TCP, ICMP "administratively prohibited"
    /// for the rest.
    Reject,
}

/// An ICMP or ICMPv6 message by its type, and its code if that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code; `None` is every code.
    pub code: Option<u8>,
}

/// One rule of the packet filter. The first that matches decides; what none matches passes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilterRule {
    /// Its identity; filter rules apply in the order they are listed in.
    pub id: RuleId,
    /// Which way the flow was started.
    pub direction: FilterDirection,
    /// The tunnel, or the group whose member it is; `None` is every tunnel.
    pub tunnel: Option<String>,
    /// The address family.
    pub family: Option<Family>,
    /// The protocol.
    pub protocol: Option<RuleProtocol>,
    /// The far end: the destination of what starts here, the source of what starts there.
    pub remote: Option<IpNet>,
    /// The destination port of the flow's first packet.
    pub ports: Option<PortRange>,
    /// The ICMP message.
    pub icmp: Option<IcmpMatch>,
    /// Fragments only.
    pub fragments: bool,
    /// What becomes of it.
    pub action: FilterAction,
}

impl fmt::Display for FilterRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            FilterDirection::Inbound => Some("in"),
            FilterDirection::Outbound => Some("out"),
            FilterDirection::Both => None,
        };
        let mut parts = Vec::new();
        parts.extend(direction.map(str::to_owned));
        parts.extend(self.tunnel.as_ref().map(|name| format!("tunnel {name}")));
        parts.extend(self.family.map(|family| family.to_string()));
        parts.extend(self.protocol.map(|p| format!("proto {p}")));
        parts.extend(self.remote.map(|net| format!("remote {net}")));
        parts.extend(self.ports.map(|p| format!("port {p}")));
        parts.extend(self.icmp.map(|icmp| match icmp.code {
            Some(code) => format!("icmp {}/{code}", icmp.kind),
            None => format!("icmp {}", icmp.kind),
        }));
        parts.extend(self.fragments.then(|| "fragments".to_owned()));
        if parts.is_empty() {
            parts.push("any".to_owned());
        }
        let action = match self.action {
            FilterAction::Accept => "accept",
            FilterAction::Drop => "drop",
            FilterAction::Reject => "reject",
        };
        write!(f, "{}: {} -> {action}", self.id, parts.join(" "))
    }
}
