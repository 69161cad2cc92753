//! The configuration file: read, checked, with every default written here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use vpn_core::rule::{
    Action, FilterAction, FilterDirection, FilterRule, InboundRule, PortRange, Rule, RuleMatch,
    RuleProtocol,
};
use vpn_core::{PeerId, RuleId, RuleSnapshot};
use vpn_examples::etcd::{EtcdAccess, EtcdKeys};
use vpn_examples::file::{FileError, parse, text_of};
use vpn_p2p::identity::{Identity, peer_from_base64};
use vpn_p2p::libp2p::config::everywhere;
use vpn_p2p::libp2p::multiaddr::Protocol;
use vpn_p2p::libp2p::{
    Admission, Certificate, Libp2pTunnel, Multiaddr, NodeConfig, Own, RelayLimits,
};
use vpn_resilience::RetryConfig;

use crate::error::Error;
use crate::names::{self, Named, Others};
use crate::vpn::Vpn;

/// The tunnel's name in rules.
pub(crate) const TUNNEL: &str = "libp2p";

/// A whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: NodeTable,
    pub(crate) vpn: Vpn,
    /// Who may be a member, where the network has no key.
    #[serde(default)]
    pub(crate) members: Vec<Member>,
}

/// Who the node is, and where others are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NodeTable {
    pub(crate) name: String,
    pub(crate) key: PathBuf,
    pub(crate) listen: Vec<String>,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) announce: Vec<String>,
    pub(crate) relay: bool,
    pub(crate) use_relays: bool,
    pub(crate) known_peers: Option<PathBuf>,
    pub(crate) network: Option<String>,
    pub(crate) network_name: String,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) discovery: Discovery,
    pub(crate) etcd: Vec<String>,
    pub(crate) etcd_prefix: String,
    /// Seconds.
    pub(crate) etcd_lease: u64,
    pub(crate) etcd_ca: Option<PathBuf>,
    pub(crate) etcd_certificate: Option<PathBuf>,
    pub(crate) etcd_key: Option<PathBuf>,
    pub(crate) etcd_server_name: Option<String>,
    pub(crate) etcd_user: Option<String>,
    pub(crate) etcd_password_file: Option<PathBuf>,
    pub(crate) interface: String,
    pub(crate) control: PathBuf,
}

impl Default for NodeTable {
    fn default() -> Self {
        Self {
            name: String::new(),
            key: "node.key".into(),
            listen: everywhere(4001).iter().map(Multiaddr::to_string).collect(),
            bootstrap: Vec::new(),
            announce: Vec::new(),
            relay: false,
            use_relays: true,
            known_peers: None,
            network: None,
            network_name: String::new(),
            certificate: None,
            discovery: Discovery::Dht,
            etcd: vec!["http://127.0.0.1:2379".to_owned()],
            etcd_prefix: "vpn/".to_owned(),
            etcd_lease: 300,
            etcd_ca: None,
            etcd_certificate: None,
            etcd_key: None,
            etcd_server_name: None,
            etcd_user: None,
            etcd_password_file: None,
            interface: "p2p0".to_owned(),
            control: "libp2p-node.sock".into(),
        }
    }
}

impl NodeTable {
    fn etcd_keys(&self) -> EtcdKeys<'_> {
        EtcdKeys {
            prefix: "node.etcd_",
            ca: self.etcd_ca.as_ref(),
            certificate: self.etcd_certificate.as_ref(),
            key: self.etcd_key.as_ref(),
            server_name: self.etcd_server_name.as_deref(),
            user: self.etcd_user.as_deref(),
            password_file: self.etcd_password_file.as_ref(),
        }
    }
}

/// Where members are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Discovery {
    /// With the members themselves.
    Dht,
    /// In etcd (feature `etcd`), which gives addresses as well.
    Etcd,
}

/// A member of the list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub(crate) key: String,
    /// What it may claim; none: any.
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
}

/// What was read and makes sense.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) identity: Identity,
    pub(crate) node: NodeConfig,
    pub(crate) own: Own,
    pub(crate) tunnel: Libp2pTunnel,
    pub(crate) retry: RetryConfig,
    /// How etcd is talked to.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "read and checked"))]
    pub(crate) etcd: EtcdAccess,
    /// Bootstrap nodes whose addresses have to be looked up.
    pub(crate) names: Vec<Named>,
    pub(crate) config: Config,
}

impl Ready {
    /// These are the node's addresses, whatever the file says.
    pub(crate) fn has(&mut self, leased: &[IpAddr]) {
        self.own.addresses = self.within(leased);
        self.tunnel.addresses = self.own.addresses.clone();
    }

    /// Whether the node lives with these addresses.
    pub(crate) fn lives_with(&self, leased: &[IpAddr]) -> bool {
        self.own.addresses == self.within(leased)
    }

    fn within(&self, leased: &[IpAddr]) -> Vec<IpNet> {
        let vpn = &self.config.vpn;
        leased.iter().filter_map(|a| vpn.within(*a)).collect()
    }

    /// Looks up the bootstrap nodes that have names. That none is found is an error if nobody else is there
    /// to begin with.
    pub(crate) async fn look_up(&mut self) -> Result<(), String> {
        let known = self.node.known_peers.as_ref();
        // Who was met once may be gone: no reason not to look for others.
        let others = match known.is_some_and(|file| file.exists()) {
            _ if !self.node.bootstrap.is_empty() => Others::Said,
            true => Others::Met,
            false => Others::None,
        };
        // What is inside the network is not asked there.
        let may_ask = |at: &Multiaddr| {
            let inside = node_is_inside(at, &self.node.inside);
            if inside {
                tracing::warn!(%at, "a bootstrap node is not in the network that it leads to");
            }
            !inside
        };
        let found = names::look_up(&self.names, self.retry, others, may_ask).await?;
        self.node.bootstrap.extend(found);
        Ok(())
    }
}

/// Whether an endpoint of etcd is on another host, as far as it says.
fn is_beyond(endpoint: &str) -> bool {
    let at = endpoint.split_once("://").map_or(endpoint, |(_, at)| at);
    let host = at.rsplit_once(':').map_or(at, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    host != "localhost" && !host.parse().is_ok_and(is_loopback)
}

/// Whether somebody is said to be at an address that only the network itself leads to.
fn node_is_inside(at: &Multiaddr, inside: &[IpNet]) -> bool {
    let ip = match at.iter().next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return false,
    };
    inside.iter().any(|net| net.contains(&ip))
}

impl Config {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Ready, Error> {
        Self::of(path, &text_of(path)?)
    }

    /// Reads a text; paths in it are relative to the file's folder.
    pub(crate) fn of(path: &Path, text: &str) -> Result<Ready, Error> {
        let config: Self = parse(path, text)?;
        let wrong = |key: &str, problem: String| FileError::config(path, key, problem);
        config
            .vpn
            .check(config.node.discovery)
            .map_err(|(key, problem)| wrong(&format!("vpn.{key}"), problem))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let table = &config.node;
        let identity = Identity::read(folder.join(&table.key))?;
        let addresses = |key: &str, texts: &[String]| {
            let read = texts.iter().map(|text| {
                text.parse::<Multiaddr>()
                    .map_err(|error| wrong(key, format!("{text}: {error}")))
            });
            read.collect::<Result<Vec<_>, _>>()
        };
        let admission = config
            .admission(identity.id())
            .map_err(|(key, problem)| wrong(key, problem))?;
        let mut node = NodeConfig::new(admission);
        node.listen = addresses("node.listen", &table.listen)?;
        let bootstrap = addresses("node.bootstrap", &table.bootstrap)?;
        let (bootstrap, names) =
            names::split(bootstrap).map_err(|problem| wrong("node.bootstrap", problem))?;
        // As if each were somewhere: the rest of it has to be right as well.
        node.bootstrap.clone_from(&bootstrap);
        node.bootstrap.extend(names.iter().map(Named::anywhere));
        node.announce = addresses("node.announce", &table.announce)?;
        node.relay = table.relay.then(RelayLimits::default);
        node.network.clone_from(&table.network_name);
        node.use_relays = table.use_relays;
        node.known_peers = table.known_peers.as_ref().map(|file| folder.join(file));
        node.inside = config.vpn.networks();
        node.validate()
            .map_err(|error| wrong("node", error.to_string()))?;
        node.bootstrap = bootstrap;
        let etcd = match table.discovery {
            Discovery::Dht => EtcdAccess::default(),
            Discovery::Etcd => {
                let beyond = table.etcd.iter().find(|at| is_beyond(at));
                if let (Some(beyond), None) = (beyond, &table.etcd_ca) {
                    let problem = format!(
                        "missing; {beyond} is not this host, and who is in between would have the password"
                    );
                    match table.etcd_user {
                        Some(_) => return Err(wrong("node.etcd_ca", problem).into()),
                        None => tracing::warn!(
                            "node.etcd_ca is missing: who is between here and {beyond} gives addresses away"
                        ),
                    }
                }
                table.etcd_keys().read(path)?
            }
        };
        let certificate =
            match &table.certificate {
                Some(file) => {
                    let file = folder.join(file);
                    let read = Certificate::from_base64(&text_of(&file)?);
                    Some(read.map_err(|error| {
                        FileError::config(&file, "certificate", error.to_string())
                    })?)
                }
                None => None,
            };
        let own = Own {
            name: table.name.clone(),
            addresses: config.vpn.address().into_iter().collect(),
            certificate,
        };
        let mut tunnel = Libp2pTunnel::new(own.addresses.clone());
        tunnel.networks = config.vpn.networks();
        tunnel.mtu = config.vpn.mtu;
        tunnel.dispatch.pool = config.vpn.pool();
        tunnel
            .dispatch
            .pool
            .validate()
            .map_err(|error| wrong("vpn", error.to_string()))?;
        Ok(Ready {
            identity,
            node,
            own,
            tunnel,
            retry: config.vpn.retry(),
            etcd,
            names,
            config,
        })
    }

    fn admission(&self, own: PeerId) -> Result<Admission, (&'static str, String)> {
        if let Some(network) = &self.node.network {
            if !self.members.is_empty() {
                let problem = "a network has a key, or a list of members; not both".to_owned();
                return Err(("members", problem));
            }
            if self.node.certificate.is_none() {
                let problem =
                    "node.network needs it; make one with: libp2p-node certify".to_owned();
                return Err(("node.certificate", problem));
            }
            let key = peer_from_base64(network).map_err(|e| ("node.network", e.to_string()))?;
            return Ok(Admission::Network(key));
        }
        let mut listed = std::collections::BTreeMap::from([(own, Vec::new())]);
        for member in &self.members {
            let key = peer_from_base64(&member.key)
                .map_err(|error| ("members.key", format!("{}: {error}", member.key)))?;
            listed.insert(key, member.addresses.clone());
        }
        Ok(Admission::Listed(listed))
    }

    /// What goes into the tunnel, what comes out of it, and what may do neither.
    pub(crate) fn rules(&self) -> RuleSnapshot {
        let to_tunnel = |(net, id): (IpNet, u32)| {
            let matches = RuleMatch {
                destination: Some(net),
                ..RuleMatch::default()
            };
            Rule::new(
                RuleId::of_file(id),
                matches,
                Action::Tunnel(TUNNEL.to_owned()),
            )
        };
        let inbound = |(protocol, id): (RuleProtocol, u32)| InboundRule {
            id: RuleId::of_file(id),
            tunnel: TUNNEL.to_owned(),
            protocol,
            ports: None,
            to_port: None,
            remote: None,
            behind: None,
        };
        let both = [RuleProtocol::Tcp, RuleProtocol::Udp];
        let ports = self.vpn.unallowed_ports.iter();
        let forbidden = ports.flat_map(|port| both.map(|protocol| (*port, protocol)));
        let drop = |((port, protocol), id): ((u16, RuleProtocol), u32)| FilterRule {
            id: RuleId::of_file(id),
            direction: FilterDirection::Both,
            tunnel: None,
            family: None,
            protocol: Some(protocol),
            remote: None,
            ports: Some(PortRange::single(port)),
            icmp: None,
            fragments: false,
            action: FilterAction::Drop,
        };
        let all = [RuleProtocol::Icmp, RuleProtocol::Tcp, RuleProtocol::Udp];
        RuleSnapshot {
            rules: self
                .vpn
                .networks()
                .into_iter()
                .zip(1..)
                .map(to_tunnel)
                .collect(),
            inbound: all.into_iter().zip(1..).map(inbound).collect(),
            filters: forbidden.zip(1..).map(drop).collect(),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
pub(crate) mod tests;
