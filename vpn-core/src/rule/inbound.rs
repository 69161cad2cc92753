//! Which flows that start behind a tunnel are let in.

use std::fmt;

use ipnet::IpNet;

use super::{PortRange, RuleProtocol};
use crate::id::RuleId;

/// Admits flows that somebody behind a tunnel starts. What none admits is dropped.
///
/// Such a flow is for the tunnel's own address and reaches the device's address on the same port,
/// or on the ports from `to_port` on. Its answers go back through that tunnel, whatever rules say
/// of the program that answers.
///
/// With [`behind`](Self::behind) it is for machines behind this host instead, and keeps its addresses:
/// the system forwards it, and brings their answers back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundRule {
    /// Its identity.
    pub id: RuleId,
    /// The tunnel it comes through.
    pub tunnel: String,
    /// The protocol. `Icmp` admits echo requests.
    pub protocol: RuleProtocol,
    /// The ports at the tunnel's address; `None` is every port. ICMP has none.
    pub ports: Option<PortRange>,
    /// The local port of the first of `ports`, the others follow in order; `None` is the same
    /// port.
    pub to_port: Option<u16>,
    /// Who may; `None` is everybody.
    pub remote: Option<IpNet>,
    /// A network behind this host: the rule admits flows for addresses in it, on the same ports, and
    /// none for the tunnel's own address. `None`: for the tunnel's own address alone. Never admitted
    /// is what comes from that network itself, or is for an address or a subnet of the device. Such
    /// machines may also begin flows: these leave with their own addresses.
    pub behind: Option<IpNet>,
}

impl fmt::Display for InboundRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from {} {}", self.id, self.tunnel, self.protocol)?;
        if let Some(ports) = self.ports {
            write!(f, " port {ports}")?;
        }
        if let Some(remote) = self.remote {
            write!(f, " of {remote}")?;
        }
        if let Some(behind) = self.behind {
            write!(f, " to {behind}")?;
        }
        match self.to_port {
            Some(port) => write!(f, " -> port {port}"),
            None => Ok(()),
        }
    }
}
