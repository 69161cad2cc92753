//! What members may begin with a node, and with machines behind it: words, ports, and who may.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use vpn_core::rule::{InboundRule, PortRange, RuleProtocol};
use vpn_core::{PeerId, RuleId};
use vpn_p2p::mesh::identity::peer_from_base64;

/// What members may begin with this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "none of \"any\", \"block\" and no list such as [\"tcp:22\", \"udp:7-9\"]; \
                 a table of it has proto, and may have peer, port and to_port"
)]
pub enum Inbound {
    /// Everything, or nothing.
    Word(Word),
    /// These, and pings if none of them is about pings.
    List(Vec<Entry>),
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

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// For every member.
    Port(Port),
    /// As a table: `[[inbound]]`.
    Table(Rule),
}

/// `[[inbound]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Who may: name or key of a `[[peers]]` with addresses, an address or a network. Default every
    /// member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    /// `tcp`, `udp` or `icmp`.
    proto: Protocol,
    /// Port or range; default every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<Range>,
    /// The local port of the first of them; default the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

impl From<Protocol> for RuleProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Icmp => Self::Icmp,
        }
    }
}

/// A number, or `"FIRST-LAST"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Range {
    One(u16),
    Several(String),
}

impl Range {
    fn read(&self) -> Option<PortRange> {
        match self {
            Self::One(port) => Some(PortRange::single(*port)),
            Self::Several(text) => range(text),
        }
    }
}

/// `22`, or `22-25`.
fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    PortRange::new(first.parse().ok()?, last.parse().ok()?)
}

impl Default for Inbound {
    /// They may ping.
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Inbound {
    /// Everything.
    pub const ANY: Self = Self::Word(Word::Any);
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

/// Somebody that a rule may name: what people call it, its key, and its addresses.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name; may be empty.
    pub name: String,
    /// Its key.
    pub key: PeerId,
    /// Its addresses, which nobody else can have.
    pub addresses: Vec<IpAddr>,
}

impl Inbound {
    /// As rules of the router, for what comes through this tunnel: to the node itself, or to the
    /// networks `behind` it. Echo requests are let in unless everything is blocked, or entries say
    /// who may send them.
    ///
    /// # Errors
    ///
    /// What is wrong with an entry.
    pub fn rules(
        &self,
        tunnel: &str,
        peers: &[Named],
        behind: Option<&[IpNet]>,
    ) -> Result<Vec<InboundRule>, String> {
        let mut rules = Vec::new();
        let blank = |protocol, ports| InboundRule {
            // Given below.
            id: RuleId::of_file(0),
            tunnel: tunnel.to_owned(),
            protocol,
            ports,
            to_port: None,
            remote: None,
            behind: None,
        };
        match self {
            Self::Word(Word::Block) => return Ok(rules),
            Self::Word(Word::Any) => {
                rules.push(blank(RuleProtocol::Tcp, None));
                rules.push(blank(RuleProtocol::Udp, None));
            }
            Self::List(entries) => {
                for entry in entries {
                    match entry {
                        Entry::Port(port) => rules.push(blank(port.protocol, port.ports)),
                        Entry::Table(rule) => {
                            let (ports, remotes) = rule.read(peers, behind.is_some())?;
                            rules.extend(remotes.into_iter().map(|remote| InboundRule {
                                to_port: rule.to_port,
                                remote,
                                ..blank(rule.proto.into(), ports)
                            }));
                        }
                    }
                }
            }
        }
        if rules.iter().all(|rule| rule.protocol != RuleProtocol::Icmp) {
            rules.push(blank(RuleProtocol::Icmp, None));
        }
        Ok(match behind {
            None => rules,
            Some(networks) => {
                let to = |net: &IpNet| {
                    let behind = Some(net.trunc());
                    let rules = rules.iter().cloned();
                    rules.map(move |rule| InboundRule { behind, ..rule })
                };
                networks.iter().flat_map(to).collect()
            }
        })
    }
}

impl Rule {
    /// Its ports, and who may: `None` is everybody.
    #[allow(clippy::type_complexity, reason = "two parts of one rule")]
    fn read(
        &self,
        peers: &[Named],
        keeps_ports: bool,
    ) -> Result<(Option<PortRange>, Vec<Option<IpNet>>), String> {
        let ports = match &self.port {
            None => None,
            Some(port) => Some(port.read().ok_or("port: not 80 or \"80-90\"")?),
        };
        if self.proto == Protocol::Icmp && (ports.is_some() || self.to_port.is_some()) {
            return Err("port: icmp has none".to_owned());
        }
        if let Some(first) = self.to_port {
            let ports = ports.ok_or("to_port: needs port, which of them it is for")?;
            if keeps_ports {
                return Err("to_port: machines behind this node have their own ports".to_owned());
            }
            let count = ports.last() - ports.first();
            (first.checked_add(count)).ok_or("to_port: the last one would be above 65535")?;
        }
        let remotes = match &self.peer {
            None => vec![None],
            Some(peer) => who(peer, peers)?.into_iter().map(Some).collect(),
        };
        Ok((ports, remotes))
    }
}

/// The addresses that are meant.
fn who(text: &str, peers: &[Named]) -> Result<Vec<IpNet>, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(vec![address.into()]);
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(vec![net.trunc()]);
    }
    let key = peer_from_base64(text).ok();
    let found = peers
        .iter()
        .find(|peer| Some(peer.key) == key || !peer.name.is_empty() && peer.name == text);
    match found {
        None => Err(format!(
            "peer: no peer of this file has the name or key \"{text}\", and it is no address"
        )),
        Some(peer) if peer.addresses.is_empty() => Err(format!(
            "peer: \"{text}\" has no addresses in this file, by which its packets would be known"
        )),
        Some(peer) => Ok(peer.addresses.iter().map(|ip| IpNet::from(*ip)).collect()),
    }
}

/// Numbers the rules of a node: the first that admits a flow decides.
pub fn numbered(rules: impl IntoIterator<Item = InboundRule>) -> Vec<InboundRule> {
    let number = |(rule, id)| InboundRule {
        id: RuleId::of_file(id),
        ..rule
    };
    rules.into_iter().zip(1..).map(number).collect()
}
