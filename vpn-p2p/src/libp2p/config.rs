//! Decides what a node may use, and refuses what makes no sense.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::admission::Admission;
use super::screen::ip_of;

/// Bounds of what a node relays for others. Both ends are members, and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Members that may be reached through it at the same time. Default 1024.
    pub max_reservations: usize,
    /// Pairs that are relayed at the same time. Default 512.
    pub max_circuits: usize,
    /// Of these, for one member. Default 64.
    pub max_circuits_per_peer: usize,
    /// After how long a circuit is cut. Default 4 h: libp2p's 2 minutes are for finding each other, a
    /// VPN stays on it where holes cannot be punched. The ends make another one.
    pub max_circuit_duration: Duration,
    /// After how many bytes a circuit is cut. Default 64 GiB; libp2p's are 128 KiB.
    pub max_circuit_bytes: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            max_reservations: 1024,
            max_circuits: 512,
            max_circuits_per_peer: 64,
            max_circuit_duration: Duration::from_secs(4 * 60 * 60),
            max_circuit_bytes: 64 << 30,
        }
    }
}

/// Where a node listens, whom it knows, what it does for others.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where it listens. Default: QUIC and TCP, both families, ports of the system's choice. Of
    /// families that are not there nothing comes.
    pub listen: Vec<Multiaddr>,
    /// Nodes by which others are found, each with `/p2p/…` at its end.
    pub bootstrap: Vec<Multiaddr>,
    /// Addresses it says it has, beside those it listens on: of a port that is forwarded. A relay
    /// gives its members these alone, or what it listens on if there are none.
    pub announce: Vec<Multiaddr>,
    /// What it relays for others. Default: nothing.
    pub relay: Option<RelayLimits>,
    /// Whether it can be reached through the bootstrap nodes' relays. Default: yes.
    pub use_relays: bool,
    /// Who may be a member.
    pub admission: Admission,
    /// Name of the network, the same at all members: a record of one network is not believed in
    /// another, whoever is a member of both. Default: none.
    pub network: String,
    /// The networks of the VPN itself: nothing in them is dialled or told to others.
    pub inside: Vec<IpNet>,
    /// A file in which members' addresses are kept, so that a node that is started again needs no
    /// bootstrap node. Default: none.
    pub known_peers: Option<PathBuf>,
    /// Connections at the same time, 16 at least. Default 1024.
    pub max_connections: u32,
    /// Records of others that it keeps for the network. Default 65,536, about 60 MB when full.
    pub max_records: usize,
    /// After how long without streams a connection is closed. Default 60 s.
    pub idle_timeout: Duration,
    /// Whether loopback addresses are told to others: for tests on one machine. Default: no.
    pub loopback: bool,
}

impl NodeConfig {
    /// A node of this network with the defaults.
    pub fn new(admission: Admission) -> Self {
        Self {
            listen: everywhere(0),
            bootstrap: Vec::new(),
            announce: Vec::new(),
            relay: None,
            use_relays: true,
            admission,
            network: String::new(),
            inside: Vec::new(),
            known_peers: None,
            max_connections: 1024,
            max_records: 65_536,
            idle_timeout: Duration::from_secs(60),
            loopback: false,
        }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn validate(&self) -> Result<(), NodeError> {
        for address in &self.bootstrap {
            if !matches!(address.iter().last(), Some(Protocol::P2p(_))) {
                return Err(NodeError::Unnamed(address.clone()));
            }
        }
        for address in self.bootstrap.iter().chain(&self.announce) {
            let ip = ip_of(address).ok_or_else(|| NodeError::NotAnAddress(address.clone()))?;
            if let Some(net) = self.inside.iter().find(|net| net.contains(&ip)) {
                let (address, net) = (address.clone(), *net);
                return Err(NodeError::Inside { address, net });
            }
        }
        if self.max_connections < 16 {
            return Err(NodeError::Connections(self.max_connections));
        }
        Ok(())
    }
}

/// QUIC and TCP on every address of both families, on this port (0: any).
pub fn everywhere(port: u16) -> Vec<Multiaddr> {
    let ips = [
        Protocol::Ip4(std::net::Ipv4Addr::UNSPECIFIED),
        Protocol::Ip6(std::net::Ipv6Addr::UNSPECIFIED),
    ];
    let both = ips.into_iter().flat_map(|ip| {
        let from = Multiaddr::empty().with(ip);
        let quic = from
            .clone()
            .with(Protocol::Udp(port))
            .with(Protocol::QuicV1);
        [quic, from.with(Protocol::Tcp(port))]
    });
    both.collect()
}

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// It needs a tokio runtime for its tasks. Call it inside one.
    #[error("a node must be started inside a tokio runtime")]
    NoRuntime,
    /// A bootstrap node without its name: who answers could be anybody.
    #[error("{0}: a bootstrap node's address ends with /p2p/ and its name")]
    Unnamed(Multiaddr),
    /// An address that does not begin with an IP address.
    #[error("{0}: it has to begin with /ip4/ or /ip6/")]
    NotAnAddress(Multiaddr),
    /// An address inside the VPN: the way to it would lead through itself.
    #[error("{address} is inside the VPN's own network {net}")]
    Inside {
        /// The address.
        address: Multiaddr,
        /// The network it is in.
        net: IpNet,
    },
    /// Fewer connections than finding others takes.
    #[error("max_connections is {0}: 16 at least")]
    Connections(u32),
    /// libp2p does not take the key.
    #[error("libp2p does not take this key")]
    Key,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// None of the addresses can be listened on.
    #[error("cannot listen on {address}: {problem}")]
    Listen {
        /// The first of them.
        address: Multiaddr,
        /// What libp2p says.
        problem: String,
    },
    /// The file of known peers is there and cannot be read.
    #[error("{path}: cannot read the known peers", path = path.display())]
    Known {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bootstrap: &str) -> NodeConfig {
        let mut config = NodeConfig::new(Admission::list([]));
        config.inside = vec!["10.7.0.0/16".parse().unwrap()];
        config.bootstrap = vec![bootstrap.parse().unwrap()];
        config
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let name = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        let at = |ip: &str| format!("/ip4/{ip}/udp/1/quic-v1/p2p/{name}");
        assert!(config(&at("192.0.2.1")).validate().is_ok());
        let error = |config: NodeConfig| config.validate().unwrap_err();
        assert!(matches!(
            error(config(&at("10.7.1.1"))),
            NodeError::Inside { .. }
        ));
        let unnamed = config("/ip4/192.0.2.1/udp/1/quic-v1");
        assert!(matches!(error(unnamed), NodeError::Unnamed(_)));
        let by_name = config(&format!("/dns4/example.org/udp/1/quic-v1/p2p/{name}"));
        assert!(matches!(error(by_name), NodeError::NotAnAddress(_)));
        let mut few = config(&at("192.0.2.1"));
        few.max_connections = 15;
        assert!(matches!(error(few), NodeError::Connections(15)));
    }
}
