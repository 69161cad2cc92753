//! `[etcd]`: rules in etcd, for many hosts at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vpn_core::{Bypass, PortRange, Protocol, Way};
use vpn_examples::etcd::{EtcdAccess, EtcdKeys};
use vpn_examples::file::FileError;

/// Most members of one etcd that are worth naming.
const MAX_ENDPOINTS: usize = 16;

/// `[etcd]`. Paths are relative to the configuration's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Etcd {
    /// Where etcd is, `ADDRESS:PORT`, at least one. No names: they would be looked up through tunnels
    /// that only rules lead to.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// What the keys of rules begin with. Default `vpn-rules/`.
    #[serde(default = "prefix")]
    pub(crate) prefix: String,
    /// The authority that signed etcd's certificate, in PEM. Required beyond this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    /// Our certificate, in PEM, where etcd asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    /// The name in etcd's certificate. Default: the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    /// The user at etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// A file with its password, for nobody else to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password_file: Option<PathBuf>,
}

fn prefix() -> String {
    "vpn-rules/".to_owned()
}

impl Etcd {
    /// Which key makes no sense, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !(1..=MAX_ENDPOINTS).contains(&self.endpoints.len()) {
            return Some(("endpoints", format!("1 to {MAX_ENDPOINTS} are needed")));
        }
        if !self.prefix.ends_with('/') {
            let problem = format!("\"{}\" does not end with a slash", self.prefix);
            return Some(("prefix", problem));
        }
        let beyond = self.endpoints.iter().find(|at| !at.ip().is_loopback());
        if let (Some(beyond), None) = (beyond, &self.ca) {
            let problem = format!(
                "missing; {beyond} is not this host, and without TLS whoever is in between decides \
                 what leaves by which tunnel"
            );
            return Some(("ca", problem));
        }
        if !cfg!(feature = "etcd") {
            let problem = "this program was built without the feature etcd".to_owned();
            return Some(("endpoints", problem));
        }
        None
    }

    /// Reads what its keys name; `config` is the configuration's path.
    pub(crate) fn access(&self, config: &Path) -> Result<EtcdAccess, FileError> {
        let keys = EtcdKeys {
            prefix: "etcd.",
            ca: self.ca.as_ref(),
            certificate: self.certificate.as_ref(),
            key: self.key.as_ref(),
            server_name: self.server_name.as_deref(),
            user: self.user.as_deref(),
            password_file: self.password_file.as_ref(),
        };
        keys.read(config)
    }

    /// What goes around the capture: the daemon's own way to etcd, for without rules nothing else leaves.
    pub(crate) fn ways(&self) -> Vec<Bypass> {
        let own = nix::unistd::geteuid().as_raw();
        let beyond = self.endpoints.iter().filter(|at| !at.ip().is_loopback());
        let way = |at: &SocketAddr| {
            Bypass::new(Way::Main)
                .uids(own..=own)
                .destination(at.ip().into())
                .protocol(Protocol::TCP)
                .ports(PortRange::single(at.port()))
        };
        beyond.map(way).collect()
    }
}
