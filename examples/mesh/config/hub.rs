//! `hub.toml`: a hub's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpn_core::InboundRule;
use vpn_examples::file::{self, FileError};
use vpn_examples::mesh::{self, Address, Place};
use vpn_p2p::mesh::Identity;
use vpn_p2p::mesh::hub::{Admitted, HubConfig, MAX_HOPS, MAX_NEIGHBOURS, Neighbour};

use super::{Inbound, Key, Named};

/// `hub.toml`. Unknown keys are errors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hub {
    /// What people call it. Default `hub`.
    #[serde(default = "name")]
    pub(crate) name: String,
    /// File of the secret key, 0600, made by `mesh keygen`.
    key: PathBuf,
    /// Where it listens: UDP, and TLS over TCP on the same ports.
    #[serde(default = "listen")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Whether it answers by TLS as well, for networks without UDP. Default yes.
    #[serde(default = "yes")]
    pub(crate) tls: bool,
    /// Path of the control socket, 0600. Default `mesh-hub.sock`.
    #[serde(default = "control")]
    pub(crate) control: PathBuf,
    /// Where metrics are told, by HTTP: an address of this host alone. Default nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Most members. Default 1000.
    #[serde(default = "max_members")]
    max_members: usize,
    /// Whether members reach only those that reach all. Default no.
    #[serde(default)]
    pub(crate) isolation: bool,
    /// File of a token that admits any key. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    /// Networks of the mesh: members without addresses of their own may choose one there, and no wider
    /// network behind a member, such as an exit's, leads there. Default none.
    #[serde(default)]
    networks: Vec<IpNet>,
    /// Most hops between two members: 2 is this hub alone, 3 two hubs in a line. Default 3.
    #[serde(default = "max_hops")]
    max_hops: u8,
    /// The hub is a member, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) member: Option<AsMember>,
    /// Keys that are admitted.
    #[serde(default)]
    members: Vec<Listed>,
    /// Other hubs.
    #[serde(default)]
    neighbours: Vec<Other>,
}

fn name() -> String {
    "hub".to_owned()
}

fn listen() -> Vec<SocketAddr> {
    const PORT: u16 = 51_820;
    vec![
        (std::net::Ipv4Addr::UNSPECIFIED, PORT).into(),
        (std::net::Ipv6Addr::UNSPECIFIED, PORT).into(),
    ]
}

const fn yes() -> bool {
    true
}

fn control() -> PathBuf {
    PathBuf::from("mesh-hub.sock")
}

const fn max_members() -> usize {
    1000
}

const fn max_hops() -> u8 {
    3
}

/// `[[neighbours]]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Other {
    /// Its public key.
    key: Key,
    /// `host:port`. Default: it comes to us.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Place>,
}

/// `[member]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AsMember {
    /// Its addresses in the mesh.
    pub(crate) addresses: Vec<IpNet>,
    /// Name of the interface. Default `mesh0`.
    #[serde(default = "vpn_examples::mesh::interface")]
    pub(crate) interface: String,
    /// What members may begin with it. Default pings.
    #[serde(default)]
    inbound: Inbound,
}

/// `[[members]]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listed {
    /// What it is called in reports. Default nothing.
    #[serde(default)]
    name: String,
    /// Its public key.
    key: Key,
    /// Its addresses, and nobody else's. Default any of `networks`.
    #[serde(default)]
    addresses: Vec<Address>,
    /// Networks that may be behind it. Default none.
    #[serde(default)]
    routes: Vec<IpNet>,
    /// With `isolation`: whether it reaches everybody. Default no.
    #[serde(default)]
    reaches_all: bool,
}

impl Hub {
    /// Reads and checks a file. Relative paths in it are relative to its folder.
    pub(crate) fn read(path: &Path) -> Result<Self, FileError> {
        let text = file::text_of(path)?;
        let mut config: Self = file::parse(path, &text)?;
        mesh::beside(path, &mut config.key);
        mesh::beside(path, &mut config.control);
        if let Some(token) = &mut config.token_file {
            mesh::beside(path, token);
        }
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), FileError> {
        let wrong = |key: &str, problem: &str| Err(FileError::config(path, key, problem));
        mesh::check_name(path, "name", &self.name)?;
        mesh::check_socket(path, &self.control)?;
        if self.listen.is_empty() {
            return wrong("listen", "there is no address");
        }
        for v4 in [true, false] {
            let of_family = self.listen.iter().filter(|at| at.is_ipv4() == v4);
            if of_family.count() > 1 {
                return wrong(
                    "listen",
                    "two addresses of one family; there may be one of each family",
                );
            }
        }
        if let Some(member) = &self.member {
            mesh::check_interface(path, "member.interface", &member.interface)?;
            if member.addresses.is_empty() {
                return wrong("member.addresses", "there is none");
            }
        }
        if let Some(problem) = self.metrics.and_then(vpn_examples::metrics::wrong_address) {
            return wrong("metrics", problem);
        }
        if let Err(problem) = self.inbound_rules("") {
            return wrong("member.inbound", &problem);
        }
        for listed in &self.members {
            mesh::check_name(path, "members.name", &listed.name)?;
            if listed.addresses.is_empty() && self.networks.is_empty() {
                let problem =
                    "there is none, and without `networks` there is nowhere to choose one";
                return wrong("members.addresses", problem);
            }
        }
        self.check_neighbours(path)
    }

    fn check_neighbours(&self, path: &Path) -> Result<(), FileError> {
        let wrong = |key: &str, problem: String| Err(FileError::config(path, key, &problem));
        if !(2..=MAX_HOPS).contains(&self.max_hops) {
            return wrong("max_hops", format!("it is 2 to {MAX_HOPS}"));
        }
        if self.neighbours.len() > MAX_NEIGHBOURS {
            return wrong("neighbours", format!("{MAX_NEIGHBOURS} are the most"));
        }
        for (at, other) in self.neighbours.iter().enumerate() {
            let twice = self.neighbours[..at]
                .iter()
                .any(|it| it.key.0 == other.key.0);
            if twice || self.members.iter().any(|it| it.key.0 == other.key.0) {
                let problem = "one is listed twice, or is a member as well";
                return wrong("neighbours.key", problem.to_owned());
            }
        }
        Ok(())
    }

    /// What is different in `next` that a running hub cannot take over: the key's name.
    pub(crate) fn needs_restart(&self, next: &Self) -> Option<String> {
        const TAKEN_OVER: [&str; 5] = [
            "members",
            "token_file",
            "networks",
            "max_members",
            "isolation",
        ];
        let keys = |hub: &Self| match serde_json::to_value(hub) {
            Ok(serde_json::Value::Object(keys)) => keys,
            _ => serde_json::Map::new(),
        };
        // Rules that name a member have its addresses, as they were.
        if self.inbound_rules("").ok() != next.inbound_rules("").ok() {
            return Some("member.inbound".to_owned());
        }
        let (ours, theirs) = (keys(self), keys(next));
        let names = ours.keys().chain(theirs.keys());
        let mut names = names.filter(|name| !TAKEN_OVER.contains(&name.as_str()));
        names
            .find(|name| ours.get(*name) != theirs.get(*name))
            .cloned()
    }

    /// What members may begin with the hub's own address, as rules for this tunnel.
    pub(crate) fn inbound_rules(&self, tunnel: &str) -> Result<Vec<InboundRule>, String> {
        let named = |listed: &Listed| Named {
            name: listed.name.clone(),
            key: listed.key.0,
            addresses: listed.addresses.iter().map(|address| address.0).collect(),
        };
        let members: Vec<Named> = self.members.iter().map(named).collect();
        let own = match &self.member {
            Some(member) => member.inbound.rules(tunnel, &members, None)?,
            None => Vec::new(),
        };
        Ok(mesh::numbered(own))
    }

    /// The secret key.
    pub(crate) fn identity(&self, path: &Path) -> Result<Identity, FileError> {
        mesh::identity(path, &self.key)
    }

    /// What the hub is told.
    pub(crate) fn hub(&self, path: &Path, identity: &Identity) -> Result<HubConfig, FileError> {
        let listed = self.members.iter().map(|listed| {
            let addresses = listed.addresses.iter().map(|address| address.0).collect();
            let mut admitted = Admitted::new(listed.key.0, addresses);
            admitted.name.clone_from(&listed.name);
            admitted.routes.clone_from(&listed.routes);
            admitted.reaches_all = listed.reaches_all;
            admitted
        });
        // Its own address is reached by all members, also where they do not reach each other.
        let own = self.member.as_ref().map(|member| {
            let addresses = member.addresses.iter().map(IpNet::addr).collect();
            let mut admitted = Admitted::new(identity.id(), addresses);
            admitted.name.clone_from(&self.name);
            admitted.reaches_all = true;
            admitted
        });
        let neighbours = self.neighbours.iter().map(|other| Neighbour {
            host: (other.endpoint.as_ref()).map(|place| (place.host.clone(), place.port)),
            ..Neighbour::new(other.key.0)
        });
        Ok(HubConfig {
            name: self.name.clone(),
            members: listed.chain(own).collect(),
            token: mesh::token(path, self.token_file.as_deref())?,
            networks: self.networks.clone(),
            max_members: self.max_members,
            max_hops: self.max_hops,
            neighbours: neighbours.collect(),
            isolation: self.isolation,
            ..HubConfig::default()
        })
    }
}
