//! The configuration file: read, checked, with every default written here.

mod answers;
mod bounds;
mod breaker;
mod dns;
mod etcd;
mod group;
mod host;
mod tunnel;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use vpn_examples::file;
pub(crate) use vpn_examples::file::regular;
use vpn_routing::RouterConfig;
use vpn_routing::group::MAX_GROUPS;

use crate::error::Error;
use crate::provider::INTERFACES;
use answers::Answers;
use bounds::{Hold, Limits, Timeouts};
use breaker::Breaker;
pub(crate) use dns::{ApplyDns, Dns};
pub(crate) use etcd::Etcd;
pub(crate) use group::Group;
pub(crate) use host::{Control, Direct, Interface, Offload, OnExit};
pub(crate) use tunnel::Tunnel;

/// Names a rule or `default` uses for something that is not a tunnel.
const RESERVED: [&str; 2] = ["direct", "block"];

/// Longest tunnel name; it appears in tables and metrics.
const MAX_NAME: usize = 32;

/// Most tunnels of one daemon: each has a task, a socket and a queue.
const MAX_TUNNELS: usize = 1024;

/// Longest path of a socket: what `sockaddr_un` has room for, without the final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// `multi-region.toml`. Unknown keys are errors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// What happens to traffic no rule matches: `block` (default), the name of a tunnel or group.
    #[serde(default = "block")]
    pub(crate) default: String,
    /// Whether there is a way past the tunnels: `auto` (default) if a rule or the default of the
    /// start asks for it, `always`, or `never`.
    #[serde(default)]
    pub(crate) direct: Direct,
    /// Whether the packet filter drops what the capture cannot stop. Default no.
    #[serde(default)]
    pub(crate) lockdown: bool,
    /// `block` (default): after the daemon ends, captured traffic keeps failing closed.
    /// `open`: SIGINT and SIGTERM undo everything.
    #[serde(default)]
    pub(crate) on_exit: OnExit,
    /// SQLite file of further rules; made by `run` if it is missing, 0600.
    #[serde(
        default,
        deserialize_with = "database",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) rules: Option<PathBuf>,
    /// Further rules in etcd (feature `etcd`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etcd: Option<Etcd>,
    /// Where is written what to undo after a crash, 0600. Default `multi-region.journal`.
    #[serde(default = "journal")]
    pub(crate) journal: PathBuf,
    /// Where metrics are told, by HTTP: an address of this host alone. Default nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    #[serde(default)]
    pub(crate) interface: Interface,
    #[serde(default)]
    pub(crate) dns: Dns,
    #[serde(default)]
    pub(crate) control: Control,
    #[serde(default)]
    answers: Answers,
    #[serde(default)]
    timeouts: Timeouts,
    #[serde(default)]
    hold: Hold,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    pub(crate) breaker: Breaker,
    /// The tunnels by name.
    #[serde(default)]
    pub(crate) tunnel: BTreeMap<String, Tunnel>,
    /// The groups by name.
    #[serde(default)]
    pub(crate) group: BTreeMap<String, Group>,
    /// A mesh beside the tunnels; it is the tunnel of this name from here on.
    #[serde(default, skip_serializing)]
    mesh: Option<Mesh>,
    /// Whether there are rules here: `TomlRules` reads them.
    #[serde(default, skip_serializing)]
    rule: Option<IgnoredAny>,
    #[serde(default, skip_serializing)]
    inbound: Option<IgnoredAny>,
    #[serde(default, skip_serializing)]
    filter: Option<IgnoredAny>,
}

fn block() -> String {
    "block".to_owned()
}

fn database<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "not a string, the path of a database; a table of rules is [[rule]]"
    )]
    enum Database {
        At(PathBuf),
    }
    let Database::At(path) = Database::deserialize(from)?;
    Ok(Some(path))
}

fn journal() -> PathBuf {
    PathBuf::from("multi-region.journal")
}

/// `[mesh]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mesh {
    /// The member's file, as `mesh init` makes it.
    config: PathBuf,
}

/// The tunnel that `[mesh]` makes.
const MESH: &str = "mesh";

fn is_folder(path: &Path) -> bool {
    // A relative path without a folder is in the current one.
    path.as_os_str().is_empty() || path.is_dir()
}

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its folder.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = file::text_of(path)?;
        let mut config = Self::parse(path, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let own = [
            &mut config.journal,
            &mut config.control.socket,
            &mut config.dns.path,
        ];
        for file in own.into_iter().chain(&mut config.rules) {
            *file = folder.join(&file);
        }
        for tunnel in config.tunnel.values_mut() {
            tunnel.relative_to(folder);
        }
        let wrong = |key: &str, problem| {
            Err(Error::Config {
                path: path.to_owned(),
                key: key.to_owned(),
                problem,
            })
        };
        if config.control.socket.as_os_str().len() > MAX_SOCKET_PATH {
            let problem = format!("longer than {MAX_SOCKET_PATH} bytes, which is all a socket may");
            return wrong("control.socket", problem);
        }
        let mut made = vec![
            ("journal", &config.journal),
            ("control.socket", &config.control.socket),
        ];
        made.extend(config.rules.iter().map(|rules| ("rules", rules)));
        if config.dns.apply == ApplyDns::ResolvConf {
            made.push(("dns.path", &config.dns.path));
        }
        for (key, file) in made {
            if !file.parent().is_some_and(is_folder) {
                return wrong(key, format!("{} is in no folder", file.display()));
            }
        }
        Ok(config)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let mut config: Self = file::parse(path, text)?;
        if let Some(mesh) = config.mesh.take() {
            let tunnel = Tunnel::of_mesh(mesh.config);
            if config.tunnel.insert(MESH.to_owned(), tunnel).is_some() {
                return Err(Error::Config {
                    path: path.to_owned(),
                    key: "mesh".to_owned(),
                    problem: "a tunnel has this name; choose another for it".to_owned(),
                });
            }
        }
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), Error> {
        let wrong = |key: String, problem: String| {
            Err(Error::Config {
                path: path.to_owned(),
                key,
                problem,
            })
        };
        if self.tunnel.len() > MAX_TUNNELS {
            return wrong(
                "tunnel".to_owned(),
                format!("more than {MAX_TUNNELS} tunnels"),
            );
        }
        let tunnels = self.tunnel.keys().map(|name| ("tunnel", name));
        for (kind, name) in tunnels.chain(self.group.keys().map(|name| ("group", name))) {
            let key = format!("{kind}.{name}");
            if RESERVED.contains(&name.as_str()) {
                return wrong(
                    key,
                    "this name means something else; choose another".to_owned(),
                );
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
                return wrong(
                    key,
                    format!("a name has 1 to {MAX_NAME} letters, digits, '-' and '_'"),
                );
            }
        }
        if self.group.len() > MAX_GROUPS {
            return wrong("group".to_owned(), format!("more than {MAX_GROUPS} groups"));
        }
        for (name, tunnel) in &self.tunnel {
            if let Some((key, problem)) = tunnel.problem() {
                return wrong(format!("tunnel.{name}.{key}"), problem);
            }
        }
        // Each takes it for itself, and would give it back under the other.
        let mut taken = BTreeMap::from([(self.interface.name.as_str(), "interface.name")]);
        for (name, tunnel) in &self.tunnel {
            if let Some(interface) = &tunnel.interface
                && interface.starts_with(INTERFACES)
            {
                let problem =
                    format!("\"{INTERFACES}\" begins the names of interfaces that are made here");
                return wrong(format!("tunnel.{name}.interface"), problem);
            }
            if let Some(interface) = &tunnel.interface
                && let Some(by) = taken.insert(interface, name)
            {
                let problem = format!("\"{interface}\" is taken by {by}");
                return wrong(format!("tunnel.{name}.interface"), problem);
            }
        }
        for (name, group) in &self.group {
            if self.tunnel.contains_key(name) {
                let problem = "a tunnel has this name; choose another".to_owned();
                return wrong(format!("group.{name}"), problem);
            }
            if let Some((key, problem)) = group.problem(|name| self.tunnel.contains_key(name)) {
                return wrong(format!("group.{name}.{key}"), problem);
            }
        }
        if let Some((key, problem)) = bounds::contradiction(&self.hold, &self.limits) {
            return wrong(key.to_owned(), problem);
        }
        let tables = [&self.rule, &self.inbound, &self.filter];
        let has_source = self.rules.is_some() || self.etcd.is_some();
        if !has_source && tables.iter().all(|table| table.is_none()) {
            let problem = "missing; name a database, or write [[rule]] tables here";
            return wrong("rules".to_owned(), problem.to_owned());
        }
        if let Some((key, problem)) = self.etcd.as_ref().and_then(Etcd::problem) {
            return wrong(format!("etcd.{key}"), problem);
        }
        if let Some(problem) = self.metrics.and_then(vpn_examples::metrics::wrong_address) {
            return wrong("metrics".to_owned(), problem.to_owned());
        }
        match self.default.as_str() {
            "block" => {}
            "direct" if self.direct == Direct::Never => {
                return wrong(
                    "default".to_owned(),
                    "\"direct\" is not available: the key direct says never".to_owned(),
                );
            }
            "direct" => {}
            name if self.tunnel.contains_key(name) || self.group.contains_key(name) => {}
            name => {
                return wrong(
                    "default".to_owned(),
                    format!(
                        "\"{name}\" is not \"block\", not \"direct\" and no tunnel or group of this file"
                    ),
                );
            }
        }
        if let Some(mtu) = self.interface.mtu
            && mtu.0 > self.limits.largest_packet()
        {
            return wrong(
                "interface.mtu".to_owned(),
                format!(
                    "larger than limits.largest_packet, which is {}",
                    self.limits.largest_packet()
                ),
            );
        }
        if let Err(error) = vpn_tun::InterfaceName::new(self.interface.name.as_str()) {
            return wrong("interface.name".to_owned(), error.to_string());
        }
        match self.dns.problem() {
            Some((key, problem)) => wrong(format!("dns.{key}"), problem),
            None => Ok(()),
        }
    }

    /// Most bytes of a packet.
    pub(crate) const fn largest_packet(&self) -> usize {
        self.limits.largest_packet()
    }

    /// The settings of the router.
    pub(crate) fn router(&self) -> RouterConfig {
        let mut router = RouterConfig {
            resolvers: vec![self.dns.resolver],
            dns: self.dns.limits(),
            ..RouterConfig::default()
        };
        let tunnels = self.tunnel.len();
        bounds::apply(
            &self.timeouts,
            &self.hold,
            &self.limits,
            tunnels,
            &mut router,
        );
        router.answers = self.answers.for_router();
        router.interface_mtu = self.interface.mtu.map(|mtu| mtu.0 as u16);
        router
    }

    /// Every key with its value as it is in force, defaults included: `dns.apply` = `"auto"`.
    pub(crate) fn keys(&self) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        // Fails for a path that is not UTF-8 only; TOML has none.
        if let Ok(toml::Value::Table(table)) = toml::Value::try_from(self) {
            flatten("", &table, &mut keys);
        }
        keys
    }
}

fn flatten(prefix: &str, table: &toml::Table, keys: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            toml::Value::Table(inner) => flatten(&format!("{key}."), inner, keys),
            other => drop(keys.insert(key, other.to_string())),
        }
    }
}
