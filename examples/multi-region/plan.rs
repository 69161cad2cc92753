//! Everything a configuration names, loaded and checked before anything is touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use vpn_core::{Action, DropReason, Rule, RuleSource, TunnelId};
use vpn_p2p::wg_quick::WgQuick;
use vpn_routing::rules::Target;
use vpn_routing::source::SqliteRules;

use crate::config::Config;
use crate::error::Error;

/// A configuration with its files.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// The providers' files, by tunnel.
    pub(crate) tunnels: BTreeMap<String, WgQuick>,
    pub(crate) rules: Arc<SqliteRules>,
    /// The rules as they are now.
    pub(crate) current: Vec<Rule>,
}

impl Loaded {
    /// Reads everything. A rule that cannot be put in force is an error here; later, at run time,
    /// it blocks its app and is reported.
    pub(crate) async fn read(path: &Path) -> Result<Self, Error> {
        let config = Config::read(path)?;
        let mut tunnels = BTreeMap::new();
        for (name, tunnel) in &config.tunnel {
            let file = WgQuick::read(&tunnel.wireguard)
                .map_err(|cause| Error::WireGuard { tunnel: name.clone(), cause })?;
            tunnels.insert(name.clone(), file);
        }
        let rules = Arc::new(SqliteRules::open(&config.rules)?);
        let current = rules.load().await?.rules;
        for rule in &current {
            let problem = match &rule.action {
                Action::Tunnel(name) if !tunnels.contains_key(name) => {
                    format!("{rule}: there is no tunnel \"{name}\" in {}", path.display())
                }
                Action::Direct => format!(
                    "{rule}: \"direct\" is not available yet; use a tunnel or \"block\""
                ),
                _ => continue,
            };
            return Err(Error::Rule { path: config.rules.clone(), problem });
        }
        Ok(Self { config, tunnels, rules, current })
    }

    /// Tunnels get their ids in the order of their names.
    pub(crate) fn id_of(&self, name: &str) -> Option<TunnelId> {
        self.tunnels.keys().position(|n| n == name).map(|i| TunnelId::new(i as u16))
    }

    /// What decides flows that no rule matches.
    pub(crate) fn default_target(&self) -> Target {
        let block = Target::Block(DropReason::BlockedByDefault);
        self.id_of(&self.config.default).map_or(block, Target::Tunnel)
    }
}
