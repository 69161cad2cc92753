//! Everything a configuration names, loaded and checked before anything is touched.

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vpn_core::{GroupId, RuleSnapshot, RuleSource, TunnelId};
use vpn_examples::etcd::EtcdAccess;
use vpn_routing::group::GroupConfig;
use vpn_routing::rules::RuleError;
use vpn_routing::source::{Layered, SqliteRules, TomlRules};

use crate::config::{Config, Direct};
use crate::direct;
use crate::error::Error;
use crate::host;
use crate::kept::Kept;
use crate::policy::Known;
use crate::provider::Provider;

/// How long the start waits for etcd: its rules may ask for a way past the tunnels, which is opened later
/// otherwise. With the first try of tunnels it is less than `ready` may take.
const ETCD_FIRST: Duration = Duration::from_secs(2);

/// A configuration with the files of its providers.
#[derive(Debug)]
pub(crate) struct Loaded {
    path: PathBuf,
    pub(crate) config: Config,
    /// The providers' files, by tunnel, with what the configuration says instead.
    pub(crate) tunnels: BTreeMap<String, Provider>,
    /// Hashes of the files' texts, by key (`tunnel.uk.wireguard`), to tell whether they change.
    pub(crate) prints: BTreeMap<String, u64>,
    /// How etcd is talked to.
    etcd: EtcdAccess,
}

impl Loaded {
    /// Reads all but the rules.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let config = Config::read(path)?;
        let (mut tunnels, mut prints) = (BTreeMap::new(), BTreeMap::new());
        for (name, tunnel) in &config.tunnel {
            let provider = Provider::read(name, tunnel)?;
            // The interface gets the MTU of the widest, and what it yields has to fit a buffer.
            let largest = config.largest_packet();
            if let Some(mtu) = provider.mtu().filter(|mtu| usize::from(*mtu) > largest) {
                return Err(Error::Config {
                    path: path.to_owned(),
                    key: format!("tunnel.{name}.mtu"),
                    problem: format!(
                        "{mtu} is larger than limits.largest_packet, which is {largest}"
                    ),
                });
            }
            tunnels.insert(name.clone(), provider);
            for (key, file) in tunnel.files() {
                prints.insert(format!("tunnel.{name}.{key}"), print_of(file));
            }
        }
        let etcd = config.etcd.as_ref().map(|etcd| etcd.access(path));
        Ok(Self {
            path: path.to_owned(),
            config,
            tunnels,
            prints,
            etcd: etcd.transpose()?.unwrap_or_default(),
        })
    }

    /// Who asks for a way past the tunnels, if anybody: the default, a rule, or the configuration.
    pub(crate) fn direct_asked_by<'a>(
        &self,
        rules: impl IntoIterator<Item = &'a RuleSnapshot>,
    ) -> Option<String> {
        match self.config.direct {
            Direct::Never => None,
            _ if self.config.default == direct::NAME => Some("the default".to_owned()),
            Direct::Always => Some("the key direct".to_owned()),
            Direct::Auto => rules.into_iter().find_map(direct::asked_by),
        }
    }

    /// Opens the rules: those of the configuration, below them a database, which is made if it is
    /// missing, and etcd. A rule of a file that cannot be put in force is an error here; later, at run
    /// time, it blocks its app and is reported.
    /// With them comes who asks for a way past the tunnels.
    pub(crate) async fn open_rules(
        &self,
        kept: &Kept,
    ) -> Result<(Arc<dyn RuleSource>, Option<String>), Error> {
        let file = TomlRules::open_within(&self.path)?;
        let mut rules = vec![file.load().await?];
        self.accept(&self.path, &rules[0])?;
        let mut layers: Vec<Arc<dyn RuleSource>> = vec![kept.rules("file", Arc::new(file))];
        if let Some(path) = &self.config.rules {
            let database = SqliteRules::open(path)?;
            let added = database.load().await?;
            self.accept(path, &added)?;
            rules.push(added);
            layers.push(kept.rules("database", Arc::new(database)));
        }
        if let Some(etcd) = &self.config.etcd {
            let source = crate::etcd::follow(&self.path, etcd, &self.etcd)?;
            // Not judged: what is wrong with one rule there is no reason for many hosts not to start.
            match tokio::time::timeout(ETCD_FIRST, source.load()).await {
                Ok(Ok(there)) => rules.push(there),
                Ok(Err(error)) => {
                    let error = vpn_examples::chain(&error);
                    tracing::warn!(
                        error,
                        "until rules in etcd can be read, everything is blocked"
                    );
                }
                Err(_) => tracing::warn!("until etcd was there once, everything is blocked"),
            }
            // It comes back by itself, and answers from memory: there is nothing to retry.
            layers.push(source);
        }
        let direct = self.direct_asked_by(&rules);
        Ok((Arc::new(Layered::new(layers)), direct))
    }

    /// The rules as they are now, by where they are written; a database that is not there yet has
    /// none.
    pub(crate) fn current_rules(&self) -> Result<Vec<(PathBuf, RuleSnapshot)>, Error> {
        let mut rules = vec![(
            self.path.clone(),
            TomlRules::open_within(&self.path)?.list()?,
        )];
        if let Some(path) = &self.config.rules {
            let missing = std::fs::symlink_metadata(path)
                .is_err_and(|error| error.kind() == ErrorKind::NotFound);
            let there = match missing {
                true => Vec::new(),
                false => SqliteRules::open(path)?.list()?,
            };
            rules.push((path.clone(), there.into()));
        }
        for (path, rules) in &rules {
            self.accept(path, rules)?;
        }
        Ok(rules)
    }

    fn accept(&self, path: &Path, rules: &RuleSnapshot) -> Result<(), Error> {
        // An interface may come later, with its first container, say.
        let wait = |problem: &RuleError| matches!(problem, RuleError::NoSuchInterface { .. });
        let problems = self.known().problems(rules);
        let Some(problem) = problems.into_iter().find(|problem| !wait(problem)) else {
            return Ok(());
        };
        let rule = rules
            .rules
            .iter()
            .find(|rule| problem.rule() == Some(rule.id));
        Err(Error::Rule {
            path: path.to_owned(),
            problem: match rule {
                // Its id is said already.
                Some(rule) => format!(
                    "{rule}: {}",
                    problem
                        .to_string()
                        .trim_start_matches(&format!("{}: ", rule.id))
                ),
                None => problem.to_string(),
            },
        })
    }

    /// What names stand for: tunnels and groups get their ids in the order of their names.
    pub(crate) fn known(&self) -> Known {
        let tunnels = self.tunnels.keys().cloned();
        let groups = self.config.group.keys().cloned();
        Known {
            tunnels: tunnels.zip((0..).map(TunnelId::new)).collect(),
            groups: groups.zip((0..).map(GroupId::new)).collect(),
            // As if there were: whether there is shows when it is opened.
            direct: (self.config.direct != Direct::Never).then_some(TunnelId::new(u16::MAX)),
            on_demand: self.config.direct == Direct::Auto,
            default: self.config.default.clone(),
            interfaces: host::interfaces(),
        }
    }

    /// The groups for the router, in the order of their names.
    pub(crate) fn groups(&self, tunnels: &BTreeMap<String, TunnelId>) -> Vec<GroupConfig> {
        let groups = self.config.group.iter();
        groups
            .map(|(name, group)| group.for_router(name, |member| tunnels.get(member).copied()))
            .collect()
    }
}

fn print_of(path: &Path) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    // It was read a moment ago; one that is gone since then differs.
    std::fs::read(path).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
