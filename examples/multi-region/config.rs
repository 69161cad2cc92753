//! The configuration file: read, checked, with every default written here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;

/// Names a rule or `default` uses for something that is not a tunnel.
const RESERVED: [&str; 2] = ["direct", "block"];

/// Longest tunnel name; it appears in tables and metrics.
const MAX_NAME: usize = 32;

/// Most tunnels of one daemon: each has a task, a socket and a queue.
const MAX_TUNNELS: usize = 1024;

/// The virtual resolver: an address of the shared space (RFC 6598), which no host has.
const DEFAULT_RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(100, 127, 255, 53));

/// `multi-region.toml`. Unknown keys are errors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// What happens to traffic no rule matches: `block` (default) or the name of a tunnel.
    #[serde(default = "block")]
    pub(crate) default: String,
    /// `block` (default): after the daemon ends, captured traffic keeps failing closed.
    /// `open`: SIGINT and SIGTERM undo everything.
    #[serde(default)]
    pub(crate) on_exit: OnExit,
    /// SQLite file of the rules; made by `run` if it is missing, 0600.
    pub(crate) rules: PathBuf,
    /// Where is written what to undo after a crash, 0600. Default `multi-region.journal`.
    #[serde(default = "journal")]
    pub(crate) journal: PathBuf,
    #[serde(default)]
    pub(crate) interface: Interface,
    #[serde(default)]
    pub(crate) dns: Dns,
    #[serde(default)]
    pub(crate) control: Control,
    /// The tunnels by name.
    #[serde(default)]
    pub(crate) tunnel: BTreeMap<String, Tunnel>,
}

fn block() -> String {
    "block".to_owned()
}

fn journal() -> PathBuf {
    PathBuf::from("multi-region.journal")
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnExit {
    #[default]
    Block,
    Open,
}

/// `[interface]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Interface {
    /// Name of the interface. Default `vpn0`.
    pub(crate) name: String,
}

impl Default for Interface {
    fn default() -> Self {
        Self {
            name: "vpn0".to_owned(),
        }
    }
}

/// `[dns]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Dns {
    /// How applications are told the virtual resolver. Default `auto`.
    pub(crate) apply: ApplyDns,
    /// The file that names the system's resolvers. Default `/etc/resolv.conf`.
    pub(crate) path: PathBuf,
    /// The virtual resolver. Default 100.127.255.53.
    pub(crate) resolver: IpAddr,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            apply: ApplyDns::Auto,
            path: PathBuf::from("/etc/resolv.conf"),
            resolver: DEFAULT_RESOLVER,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum ApplyDns {
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "resolved")]
    Resolved,
    #[serde(rename = "resolv.conf")]
    ResolvConf,
    #[serde(rename = "none")]
    None,
}

/// `[control]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Control {
    /// Path of the control socket, 0600. Default `multi-region.sock`.
    pub(crate) socket: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("multi-region.sock"),
        }
    }
}

/// `[tunnel.NAME]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tunnel {
    /// The provider's wg-quick file.
    pub(crate) wireguard: PathBuf,
}

fn is_folder(path: &Path) -> bool {
    // A relative path without a folder is in the current one.
    path.as_os_str().is_empty() || path.is_dir()
}

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its folder.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|cause| Error::Read {
            path: path.to_owned(),
            cause,
        })?;
        let mut config = Self::parse(path, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let own = [
            &mut config.rules,
            &mut config.journal,
            &mut config.control.socket,
            &mut config.dns.path,
        ];
        for file in own
            .into_iter()
            .chain(config.tunnel.values_mut().map(|t| &mut t.wireguard))
        {
            *file = folder.join(&file);
        }
        let dns = config.dns.path.parent();
        if config.dns.apply == ApplyDns::ResolvConf && !dns.is_some_and(is_folder) {
            return Err(Error::Config {
                path: path.to_owned(),
                key: "dns.path".to_owned(),
                problem: format!("{} is in no folder", config.dns.path.display()),
            });
        }
        Ok(config)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            let before = text.as_bytes().get(..span.start).unwrap_or_default();
            let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
            let mut message = error.message().replace('\n', " ");
            // "duplicate key" alone does not say which.
            let at = text
                .get(span)
                .and_then(|at| at.lines().next())
                .unwrap_or_default();
            if !at.is_empty() && !message.contains(at) {
                message = format!("{message}: {at}");
            }
            Error::Syntax {
                path: path.to_owned(),
                line,
                message,
            }
        })?;
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
        for name in self.tunnel.keys() {
            let key = format!("tunnel.{name}");
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
        match self.default.as_str() {
            "block" => {}
            "direct" => {
                return wrong(
                    "default".to_owned(),
                    "\"direct\" is not available yet; use \"block\" or a tunnel".to_owned(),
                );
            }
            name if self.tunnel.contains_key(name) => {}
            name => {
                return wrong(
                    "default".to_owned(),
                    format!("\"{name}\" is neither \"block\" nor a tunnel of this file"),
                );
            }
        }
        if let Err(error) = vpn_tun::InterfaceName::new(self.interface.name.as_str()) {
            return wrong("interface.name".to_owned(), error.to_string());
        }
        if self.dns.apply == ApplyDns::Resolved {
            return wrong(
                "dns.apply".to_owned(),
                vpn_tun::DnsError::ResolvedNotAvailable.to_string(),
            );
        }
        if self.dns.resolver.is_loopback() || self.dns.resolver.is_unspecified() {
            return wrong(
                "dns.resolver".to_owned(),
                "a query to this address never reaches the interface".to_owned(),
            );
        }
        Ok(())
    }
}
