//! Values of the configuration that are checked as they are read.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use vpn_core::rule::{InboundRule, PortRange, RuleProtocol};
use vpn_core::{PeerId, RuleId};
use vpn_p2p::mesh::Policy;
use vpn_p2p::mesh::identity::{peer_from_base64, peer_to_base64};

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub PeerId);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        peer_from_base64(&text).map(Self).map_err(D::Error::custom)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&peer_to_base64(self.0))
    }
}

/// An address, with or without the length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Address(pub IpAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let address = text
            .parse::<IpAddr>()
            .or_else(|_| text.parse::<IpNet>().map(|net| net.addr()));
        let problem = || D::Error::custom("not an address, such as 10.77.0.2");
        address.map(Self).map_err(|_| problem())
    }
}

/// Which ways to peers may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Direct or relayed.
    #[default]
    Allow,
    /// Direct or not at all.
    DirectOnly,
    /// Never direct.
    RelayOnly,
    /// Not at all.
    Deny,
}

impl From<Way> for Policy {
    fn from(way: Way) -> Self {
        match way {
            Way::Allow => Self::Allow,
            Way::DirectOnly => Self::DirectOnly,
            Way::RelayOnly => Self::RelayOnly,
            Way::Deny => Self::Deny,
        }
    }
}

/// What members may begin with this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "none of \"any\", \"block\" and no list such as [\"tcp:22\", \"udp:7-9\"]"
)]
pub enum Inbound {
    /// Everything, or nothing.
    Word(Word),
    /// These, and pings.
    List(Vec<Port>),
}

/// A word for what members may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Everything.
    #[serde(alias = "allow")]
    Any,
    /// Nothing.
    Block,
}

impl Default for Inbound {
    /// They may ping.
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// A protocol, and which ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    protocol: RuleProtocol,
    ports: Option<PortRange>,
}

impl FromStr for Port {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "not tcp, udp, icmp, tcp:PORT or tcp:FIRST-LAST";
        let (protocol, ports) = match text.split_once(':') {
            Some((protocol, ports)) => (protocol, Some(ports)),
            None => (text, None),
        };
        let protocol = match (protocol, ports) {
            ("tcp", _) => RuleProtocol::Tcp,
            ("udp", _) => RuleProtocol::Udp,
            ("icmp", None) => RuleProtocol::Icmp,
            _ => return Err(WRONG),
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            PortRange::new(first.parse().ok()?, last.parse().ok()?)
        };
        let ports = ports.map(|text| range(text).ok_or(WRONG)).transpose()?;
        Ok(Self { protocol, ports })
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let protocol = self.protocol.to_string();
        to.serialize_str(&match self.ports {
            Some(ports) => format!("{protocol}:{ports}"),
            None => protocol,
        })
    }
}

impl Inbound {
    /// As rules of the router, for what comes through this tunnel. Echo requests are let in unless
    /// everything is blocked.
    pub fn rules(&self, tunnel: &str) -> Vec<InboundRule> {
        let all = |protocol| Port {
            protocol,
            ports: None,
        };
        let mut ports = match self {
            Self::Word(Word::Block) => return Vec::new(),
            Self::Word(Word::Any) => vec![all(RuleProtocol::Tcp), all(RuleProtocol::Udp)],
            Self::List(ports) => ports.clone(),
        };
        ports.push(all(RuleProtocol::Icmp));
        let rule = |(port, id): (Port, u32)| InboundRule {
            id: RuleId::of_file(id),
            tunnel: tunnel.to_owned(),
            protocol: port.protocol,
            ports: port.ports,
            to_port: None,
            remote: None,
        };
        ports.into_iter().zip(1..).map(rule).collect()
    }
}
