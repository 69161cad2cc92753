//! The configuration file: read, checked, with every default written here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use vpn_core::rule::{
    Action, FilterAction, FilterDirection, FilterRule, InboundRule, PortRange, Rule, RuleMatch,
    RuleProtocol,
};
use vpn_core::{PeerId, RuleId, RuleSnapshot};
use vpn_examples::file::{FileError, parse, text_of};
use vpn_p2p::identity::{Identity, peer_from_base64};
use vpn_p2p::libp2p::config::everywhere;
use vpn_p2p::libp2p::{
    Admission, Certificate, Libp2pTunnel, Multiaddr, NodeConfig, Own, RelayLimits,
};
use vpn_p2p::streams::config::MAX_STREAMS;
use vpn_p2p::streams::{Overflow, PoolConfig};
use vpn_resilience::{BackoffConfig, BreakerConfig, RetryConfig};

use crate::error::Error;

/// The tunnel's name in rules.
pub(crate) const TUNNEL: &str = "libp2p";

/// Longest time that makes sense anywhere: a year, in seconds.
const MAX_SECONDS: u64 = 365 * 24 * 60 * 60;

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
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) discovery: Discovery,
    pub(crate) etcd: Vec<String>,
    pub(crate) etcd_prefix: String,
    /// Seconds.
    pub(crate) etcd_lease: u64,
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
            certificate: None,
            discovery: Discovery::Dht,
            etcd: vec!["http://127.0.0.1:2379".to_owned()],
            etcd_prefix: "vpn/".to_owned(),
            etcd_lease: 300,
            interface: "p2p0".to_owned(),
            control: "libp2p-node.sock".into(),
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

/// Which virtual address a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum VirtualIp {
    /// One of the subnet, leased from etcd.
    Auto,
    /// This one.
    Fixed(IpAddr),
}

impl TryFrom<String> for VirtualIp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let address = text
            .parse()
            .map_err(|_| format!("virtual_ip: {text:?} is no address, and not \"auto\""));
        address.map(Self::Fixed)
    }
}

/// The keys of document 004, with its names and defaults. Times are in seconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Vpn {
    pub(crate) enable: bool,
    pub(crate) mtu: u16,
    pub(crate) virtual_ip: Option<VirtualIp>,
    pub(crate) subnet: IpNet,
    pub(crate) routes: Vec<IpNet>,
    pub(crate) unallowed_ports: Vec<u16>,
    pub(crate) max_streams_per_peer: usize,
    pub(crate) stream_idle_timeout: u64,
    pub(crate) cleanup_interval: u64,
    pub(crate) packet_buffer_size: usize,
    pub(crate) circuit_breaker_failure_threshold: u32,
    pub(crate) circuit_breaker_reset_timeout: u64,
    pub(crate) circuit_breaker_success_threshold: u32,
    pub(crate) retry_max_attempts: u32,
    pub(crate) retry_initial_interval: u64,
    pub(crate) retry_max_interval: u64,
}

impl Default for Vpn {
    fn default() -> Self {
        Self {
            enable: true,
            mtu: 1400,
            virtual_ip: None,
            subnet: IpNet::V4(ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8)),
            routes: Vec::new(),
            unallowed_ports: Vec::new(),
            max_streams_per_peer: 10,
            stream_idle_timeout: 300,
            cleanup_interval: 60,
            packet_buffer_size: 100,
            circuit_breaker_failure_threshold: 5,
            circuit_breaker_reset_timeout: 60,
            circuit_breaker_success_threshold: 2,
            retry_max_attempts: 5,
            retry_initial_interval: 1,
            retry_max_interval: 30,
        }
    }
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
    pub(crate) config: Config,
}

impl Ready {
    /// These are the node's addresses, whatever the file says.
    pub(crate) fn has(&mut self, leased: &[IpAddr]) {
        let vpn = &self.config.vpn;
        self.own.addresses = leased.iter().filter_map(|a| vpn.within(*a)).collect();
        self.tunnel.addresses = self.own.addresses.clone();
    }
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
        node.bootstrap = addresses("node.bootstrap", &table.bootstrap)?;
        node.announce = addresses("node.announce", &table.announce)?;
        node.relay = table.relay.then(RelayLimits::default);
        node.use_relays = table.use_relays;
        node.known_peers = table.known_peers.as_ref().map(|file| folder.join(file));
        node.inside = config.vpn.networks();
        node.validate()
            .map_err(|error| wrong("node", error.to_string()))?;
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

type Problem = (&'static str, String);

impl Vpn {
    /// Whether it makes sense; else which key does not, and why.
    fn check(&self, discovery: Discovery) -> Result<(), Problem> {
        let least = if self.subnet.addr().is_ipv6() {
            1280
        } else {
            576
        };
        if self.mtu < least {
            return Err((
                "mtu",
                format!("{} is less than {least}, which every host takes", self.mtu),
            ));
        }
        self.check_addresses(discovery)?;
        if let Some(port) = self.unallowed_ports.iter().find(|port| **port == 0) {
            return Err(("unallowed_ports", format!("{port} is no port: 1 to 65535")));
        }
        if !(1..=MAX_STREAMS).contains(&self.max_streams_per_peer) {
            let problem = format!("{}: 1 to {MAX_STREAMS}", self.max_streams_per_peer);
            return Err(("max_streams_per_peer", problem));
        }
        if !(1..=65_536).contains(&self.packet_buffer_size) {
            let problem = format!("{} packets: 1 to 65536", self.packet_buffer_size);
            return Err(("packet_buffer_size", problem));
        }
        for (key, seconds) in [
            ("stream_idle_timeout", self.stream_idle_timeout),
            ("cleanup_interval", self.cleanup_interval),
            (
                "circuit_breaker_reset_timeout",
                self.circuit_breaker_reset_timeout,
            ),
            ("retry_initial_interval", self.retry_initial_interval),
            ("retry_max_interval", self.retry_max_interval),
        ] {
            if !(1..=MAX_SECONDS).contains(&seconds) {
                return Err((key, format!("{seconds} seconds: 1 to {MAX_SECONDS}")));
            }
        }
        for (key, count) in [
            (
                "circuit_breaker_failure_threshold",
                self.circuit_breaker_failure_threshold,
            ),
            (
                "circuit_breaker_success_threshold",
                self.circuit_breaker_success_threshold,
            ),
            ("retry_max_attempts", self.retry_max_attempts),
        ] {
            if !(1..=1000).contains(&count) {
                return Err((key, format!("{count}: 1 to 1000")));
            }
        }
        if self.retry_max_interval < self.retry_initial_interval {
            let problem = format!(
                "{} is below retry_initial_interval, which is {}",
                self.retry_max_interval, self.retry_initial_interval
            );
            return Err(("retry_max_interval", problem));
        }
        Ok(())
    }

    fn check_addresses(&self, discovery: Discovery) -> Result<(), Problem> {
        if self.subnet.trunc() != self.subnet {
            let problem = format!(
                "{} has bits beside its length; {} is meant?",
                self.subnet,
                self.subnet.trunc()
            );
            return Err(("subnet", problem));
        }
        for route in &self.routes {
            if route.addr().is_ipv4() != self.subnet.addr().is_ipv4() {
                let problem = format!("{route} is not of the family of {}", self.subnet);
                return Err(("routes", problem));
            }
        }
        let address = match (self.virtual_ip, discovery) {
            (Some(VirtualIp::Fixed(address)), _) => address,
            (_, Discovery::Etcd) => return Ok(()),
            (Some(VirtualIp::Auto), Discovery::Dht) => {
                let problem = "\"auto\" is leased from etcd, so node.discovery has to be \"etcd\"";
                return Err(("virtual_ip", problem.to_owned()));
            }
            (None, Discovery::Dht) if self.enable => {
                return Err(("virtual_ip", "missing; or set enable = false".to_owned()));
            }
            (None, Discovery::Dht) => return Ok(()),
        };
        if !self.subnet.contains(&address) {
            let problem = format!("{address} is outside its subnet {}", self.subnet);
            return Err(("virtual_ip", problem));
        }
        let is_short = self.subnet.max_prefix_len() - self.subnet.prefix_len() > 1;
        let ends = [self.subnet.network(), self.subnet.broadcast()];
        if is_short && self.subnet.addr().is_ipv4() && ends.contains(&address) {
            let problem = format!(
                "{address} is the first or last address of {}, no host's",
                self.subnet
            );
            return Err(("virtual_ip", problem));
        }
        Ok(())
    }

    /// The own address, with its network.
    fn address(&self) -> Option<IpNet> {
        match self.virtual_ip {
            Some(VirtualIp::Fixed(address)) if self.enable => self.within(address),
            _ => None,
        }
    }

    fn within(&self, address: IpAddr) -> Option<IpNet> {
        IpNet::new(address, self.subnet.prefix_len()).ok()
    }

    /// What etcd may give an address of: a fixed one is taken there too, so that nobody else gets it.
    pub(crate) fn leased_from(&self) -> Option<IpNet> {
        match self.virtual_ip {
            _ if !self.enable => None,
            Some(VirtualIp::Fixed(address)) => Some(address.into()),
            _ => Some(self.subnet),
        }
    }

    /// Where members are: the subnet, and what else leads to the tunnel.
    pub(crate) fn networks(&self) -> Vec<IpNet> {
        let mut all = vec![self.subnet];
        all.extend(self.routes.iter().map(IpNet::trunc));
        all.sort();
        all.dedup();
        all
    }

    fn pool(&self) -> PoolConfig {
        let seconds = Duration::from_secs;
        PoolConfig {
            max_streams_per_peer: self.max_streams_per_peer,
            stream_idle_timeout: seconds(self.stream_idle_timeout),
            cleanup_interval: seconds(self.cleanup_interval),
            packet_buffer_size: self.packet_buffer_size,
            overflow: Overflow::DropNew,
            breaker: BreakerConfig {
                failure_threshold: self.circuit_breaker_failure_threshold,
                reset_after: seconds(self.circuit_breaker_reset_timeout),
                success_threshold: self.circuit_breaker_success_threshold,
                ..BreakerConfig::default()
            },
            backoff: BackoffConfig {
                base: seconds(self.retry_initial_interval),
                cap: seconds(self.retry_max_interval),
                ..BackoffConfig::default()
            },
            ..PoolConfig::default()
        }
    }

    fn retry(&self) -> RetryConfig {
        RetryConfig {
            max_attempts: self.retry_max_attempts,
            initial_interval: Duration::from_secs(self.retry_initial_interval),
            max_interval: Duration::from_secs(self.retry_max_interval),
            ..RetryConfig::default()
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
