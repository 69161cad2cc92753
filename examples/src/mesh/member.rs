//! `mesh.toml`: a member's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpn_core::{InboundRule, PeerId};
use vpn_p2p::mesh::link::LinkConfig;
use vpn_p2p::mesh::member::KnownPeer;
use vpn_p2p::mesh::wire::Token;
use vpn_p2p::mesh::{HubEndpoint, HubId, Identity, MemberConfig, NodeConfig, PeerRules};

use super::{Address, Inbound, Key, Named, Way, numbered};
use crate::file::{self, FileError};

/// Hubs that one member uses.
const MAX_HUBS: usize = 4;

/// Addresses of `candidates`: a record has room for twice as many, and found ones need some.
const MAX_CANDIDATES: usize = vpn_p2p::mesh::record::MAX_CANDIDATES / 2;

/// Smallest MTU: what IPv6 needs (RFC 8200 §5).
const LEAST_MTU: u16 = 1280;

/// Largest MTU: what fits a datagram with everything that is around it.
const MOST_MTU: u16 = vpn_p2p::mesh::node::INNER_MTU;

/// `mesh.toml`. Unknown keys are errors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// What people call this node. Default nothing.
    #[serde(default)]
    pub name: String,
    /// File of the secret key, 0600, made by `mesh keygen`.
    key: PathBuf,
    /// Its addresses in the mesh, each with the network it is in.
    pub addresses: Vec<IpNet>,
    /// Name of the interface. Default `mesh0`.
    #[serde(default = "interface")]
    pub interface: String,
    /// UDP port. Default 0: any.
    #[serde(default)]
    pub listen: u16,
    /// Path of the control socket, 0600. Default `mesh.sock`.
    #[serde(default = "control")]
    pub control: PathBuf,
    /// Where metrics are told, by HTTP: an address of this host alone. Default nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Largest IP packet, 1280 to 1400 bytes. Default 1400.
    #[serde(default = "mtu")]
    pub mtu: u16,
    /// Which ways to peers may be used. Default `allow`.
    #[serde(default)]
    pub policy: Way,
    /// Networks behind this node that it tells others of. Default none.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// What members may begin with machines in `routes`. Default everything.
    #[serde(default = "everything")]
    forward: Inbound,
    /// Where is written what to undo after a crash, 0600; made only with `routes`. Default
    /// `mesh.journal`.
    #[serde(default = "journal")]
    pub journal: PathBuf,
    /// Addresses at which this node is reached besides those that it finds out: a forwarded port, say.
    /// Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<SocketAddr>,
    /// What members may begin with this node. Default pings.
    #[serde(default)]
    inbound: Inbound,
    /// File of the token that a hub wants of who is not on its list. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    /// The hubs, preferred ones first.
    #[serde(default)]
    pub hubs: Vec<Hub>,
    /// Peers that are something special.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// The name of the interface where none is said.
pub fn interface() -> String {
    "mesh0".to_owned()
}

fn control() -> PathBuf {
    PathBuf::from("mesh.sock")
}

fn journal() -> PathBuf {
    PathBuf::from("mesh.journal")
}

const fn everything() -> Inbound {
    Inbound::ANY
}

const fn mtu() -> u16 {
    MOST_MTU
}

/// `[[hubs]]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// Its public key.
    key: Key,
    /// `HOST:PORT`, the port of UDP and of TLS.
    endpoint: Place,
    /// How it is reached. Default: by UDP, and by TLS where UDP is not answered.
    #[serde(default, skip_serializing_if = "Carried::is_auto")]
    carrier: Carried,
}

/// By what a hub is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Carried {
    /// UDP, and TLS where UDP is not answered.
    #[default]
    Auto,
    /// UDP alone.
    Udp,
    /// TLS over TCP alone.
    Tls,
}

impl Carried {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl Hub {
    /// Its public key.
    pub const fn key(&self) -> PeerId {
        self.key.0
    }

    /// Where it is.
    pub const fn endpoint(&self) -> &Place {
        &self.endpoint
    }
}

/// A host by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl TryFrom<String> for Place {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "not HOST:PORT, such as hub.example.org:51820 or [2001:db8::1]:51820";
        let (host, port) = text.rsplit_once(':').ok_or(WRONG)?;
        let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let host = match inner {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            None if !host.is_empty() && !host.contains([':', '[', ']', ' ', '/']) => host,
            _ => return Err(WRONG),
        };
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            _ => Err(WRONG),
        }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// `[[peers]]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its public key.
    key: Key,
    /// What it is called here. Default what it calls itself.
    #[serde(default)]
    pub name: String,
    /// Addresses that are its, whoever else claims them. Default none.
    #[serde(default)]
    addresses: Vec<Address>,
    /// Which ways to it may be used. Default as for all.
    pub policy: Option<Way>,
    /// Networks that may be behind it. Default none.
    #[serde(default)]
    pub routes: Vec<IpNet>,
}

impl Peer {
    /// Its public key.
    pub const fn key(&self) -> PeerId {
        self.key.0
    }

    /// Addresses that are its.
    pub fn addresses(&self) -> Vec<std::net::IpAddr> {
        self.addresses.iter().map(|address| address.0).collect()
    }
}

impl Member {
    /// Reads and checks a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = file::text_of(path)?;
        let mut config: Self = file::parse(path, &text)?;
        super::beside(path, &mut config.key);
        super::beside(path, &mut config.control);
        super::beside(path, &mut config.journal);
        if let Some(token) = &mut config.token_file {
            super::beside(path, token);
        }
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), FileError> {
        let wrong = |key: &str, problem: String| Err(FileError::config(path, key, problem));
        super::check_name(path, "name", &self.name)?;
        super::check_interface(path, "interface", &self.interface)?;
        super::check_socket(path, &self.control)?;
        if self.addresses.is_empty() {
            return wrong("addresses", "there is none".into());
        }
        if !(LEAST_MTU..=MOST_MTU).contains(&self.mtu) {
            return wrong("mtu", format!("not between {LEAST_MTU} and {MOST_MTU}"));
        }
        if self.hubs.is_empty() {
            return wrong("hubs", "there is none; write a [[hubs]] table".into());
        }
        if self.hubs.len() > MAX_HUBS {
            return wrong("hubs", format!("more than {MAX_HUBS}"));
        }
        for (at, hub) in self.hubs.iter().enumerate() {
            if self.hubs[..at].iter().any(|other| other.key == hub.key) {
                return wrong("hubs", format!("two have the key {}", text_of(hub.key)));
            }
        }
        for (at, peer) in self.peers.iter().enumerate() {
            super::check_name(path, "peers.name", &peer.name)?;
            if self.peers[..at].iter().any(|other| other.key == peer.key) {
                return wrong("peers", format!("two have the key {}", text_of(peer.key)));
            }
        }
        self.check_candidates(path)?;
        if let Some(problem) = self.metrics.and_then(crate::metrics::wrong_address) {
            return wrong("metrics", problem.into());
        }
        if let Err(problem) = self.inbound.rules("", &self.named(), None) {
            return wrong("inbound", problem);
        }
        if let Err(problem) = self.forward.rules("", &self.named(), Some(&self.routes)) {
            return wrong("forward", problem);
        }
        let own = |net: &&IpNet| self.addresses.iter().any(|own| own.contains(*net));
        if let Some(net) = self.routes.iter().find(own) {
            let problem = format!("{net} is in a network of `addresses`, whose members are there");
            return wrong("routes", problem);
        }
        Ok(())
    }

    fn check_candidates(&self, path: &Path) -> Result<(), FileError> {
        let wrong = |problem: String| Err(FileError::config(path, "candidates", problem));
        if self.candidates.len() > MAX_CANDIDATES {
            return wrong(format!("more than {MAX_CANDIDATES}"));
        }
        if !self.candidates.is_empty() && self.listen == 0 {
            return wrong("with `listen = 0` the port is another one each time".into());
        }
        for at in &self.candidates {
            let inside = self.addresses.iter().any(|net| net.contains(&at.ip()));
            let ip = at.ip();
            if at.port() == 0 || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
                return wrong(format!("{at}: nobody reaches this node there"));
            }
            if inside {
                return wrong(format!("{at}: that is inside of the mesh"));
            }
        }
        Ok(())
    }

    /// The peers of this file, as rules may name them.
    fn named(&self) -> Vec<Named> {
        let named = |peer: &Peer| Named {
            name: peer.name.clone(),
            key: peer.key(),
            addresses: peer.addresses(),
        };
        self.peers.iter().map(named).collect()
    }

    /// What members may begin with this node and with machines in `routes`, as rules for this tunnel.
    ///
    /// # Errors
    ///
    /// What is wrong with an entry; never of a configuration that was [read](Self::read).
    pub fn inbound_rules(&self, tunnel: &str) -> Result<Vec<InboundRule>, String> {
        let peers = self.named();
        let own = self.inbound.rules(tunnel, &peers, None)?;
        let behind = self.forward.rules(tunnel, &peers, Some(&self.routes))?;
        Ok(numbered(own.into_iter().chain(behind)))
    }

    /// The networks behind this node to which something is forwarded.
    pub fn forwarded(&self) -> &[IpNet] {
        match self.forward {
            Inbound::Word(super::Word::Block) => &[],
            _ => &self.routes,
        }
    }

    /// The secret key.
    ///
    /// # Errors
    ///
    /// [`FileError::Config`].
    pub fn identity(&self, path: &Path) -> Result<Identity, FileError> {
        super::identity(path, &self.key)
    }

    /// What a node is told.
    ///
    /// # Errors
    ///
    /// [`FileError::Config`], if the token cannot be read.
    pub fn node(&self, path: &Path) -> Result<NodeConfig, FileError> {
        let token = self.token(path)?;
        let hubs = self.hubs.iter().zip(0..).map(|(hub, id)| {
            let mut link = LinkConfig::new(hub.key(), HubId(id));
            link.token.clone_from(&token);
            link.udp = hub.carrier != Carried::Tls;
            link.tls = hub.carrier != Carried::Udp;
            link
        });
        let peers = self.peers.iter().map(|peer| KnownPeer {
            peer: peer.key(),
            addresses: peer.addresses(),
            rules: PeerRules {
                policy: peer.policy.unwrap_or(self.policy).into(),
                routes: peer.routes.clone(),
            },
        });
        let member = MemberConfig {
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            routes: self.routes.clone(),
            hubs: hubs.collect(),
            peers: peers.collect(),
            default_rules: PeerRules {
                policy: self.policy.into(),
                routes: Vec::new(),
            },
            ..MemberConfig::default()
        };
        let places = self.hubs.iter().map(|hub| HubEndpoint {
            host: hub.endpoint().host.clone(),
            port: hub.endpoint().port,
        });
        let mut node = NodeConfig::new(member, places.collect());
        node.port = self.listen;
        node.mtu = self.mtu;
        node.candidates.clone_from(&self.candidates);
        Ok(node)
    }

    /// The token, if one is named.
    fn token(&self, path: &Path) -> Result<Option<Token>, FileError> {
        super::token(path, self.token_file.as_deref())
    }
}

fn text_of(key: Key) -> String {
    vpn_p2p::mesh::identity::peer_to_base64(key.0)
}
