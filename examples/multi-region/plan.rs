//! Everything a configuration names, loaded and checked before anything is touched.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vpn_core::{Action, DropReason, Rule, RuleSource, TunnelId};
use vpn_p2p::wg_quick::WgQuick;
use vpn_routing::rules::Target;
use vpn_routing::source::SqliteRules;

use crate::config::Config;
use crate::error::Error;

/// A configuration with the files of its providers.
#[derive(Debug)]
pub(crate) struct Loaded {
    path: PathBuf,
    pub(crate) config: Config,
    /// The providers' files, by tunnel.
    pub(crate) tunnels: BTreeMap<String, WgQuick>,
}

impl Loaded {
    /// Reads all but the rules.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let config = Config::read(path)?;
        let mut tunnels = BTreeMap::new();
        for (name, tunnel) in &config.tunnel {
            let file = WgQuick::read(&tunnel.wireguard).map_err(|cause| Error::WireGuard {
                tunnel: name.clone(),
                cause,
            })?;
            tunnels.insert(name.clone(), file);
        }
        Ok(Self {
            path: path.to_owned(),
            config,
            tunnels,
        })
    }

    /// Opens the rules, or makes their file. A rule that cannot be put in force is an error here;
    /// later, at run time, it blocks its app and is reported.
    pub(crate) async fn open_rules(&self) -> Result<Arc<SqliteRules>, Error> {
        let rules = Arc::new(SqliteRules::open(&self.config.rules)?);
        self.accept(&rules.load().await?.rules)?;
        Ok(rules)
    }

    /// The rules as they are now; none if there is no file yet.
    pub(crate) fn current_rules(&self) -> Result<Vec<Rule>, Error> {
        let path = &self.config.rules;
        if std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            return Ok(Vec::new());
        }
        let rules = SqliteRules::open(path)?.list()?;
        self.accept(&rules)?;
        Ok(rules)
    }

    fn accept(&self, rules: &[Rule]) -> Result<(), Error> {
        for rule in rules {
            let problem = match &rule.action {
                Action::Tunnel(name) if !self.tunnels.contains_key(name) => {
                    format!(
                        "{rule}: there is no tunnel \"{name}\" in {}",
                        self.path.display()
                    )
                }
                Action::Direct => {
                    format!("{rule}: \"direct\" is not available yet; use a tunnel or \"block\"")
                }
                _ => continue,
            };
            return Err(Error::Rule {
                path: self.config.rules.clone(),
                problem,
            });
        }
        Ok(())
    }

    /// Tunnels get their ids in the order of their names.
    pub(crate) fn id_of(&self, name: &str) -> Option<TunnelId> {
        self.tunnels
            .keys()
            .position(|n| n == name)
            .map(|i| TunnelId::new(i as u16))
    }

    /// What decides flows that no rule matches.
    pub(crate) fn default_target(&self) -> Target {
        let block = Target::Block(DropReason::BlockedByDefault);
        self.id_of(&self.config.default)
            .map_or(block, Target::Tunnel)
    }
}
