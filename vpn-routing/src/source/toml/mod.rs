//! Rules in a TOML file that people edit while it is in use.
//!
//! # Noticing changes
//!
//! The folder is watched, not the file: editors put a new file in the old one's place. What is
//! written is read once it was quiet for [`SETTLE`]. A file that is empty is an error and not "no
//! rules": a program that truncates and then writes would otherwise be caught between. Where the
//! system cannot watch, the file is looked at every [`POLL_EVERY`]; where it can, still every
//! [`LOOK_EVERY`], for what a folder does not tell (a link to a file elsewhere, a network file
//! system, another folder in its place).

mod entry;
mod error;
mod parse;
mod read;
#[cfg(test)]
mod tests;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use vpn_core::rule::RuleSourceError;
use vpn_core::{RuleSnapshot, RuleSource};

use super::changes::Changes;
#[cfg(feature = "etcd")]
pub(super) use entry::uid_of;
pub use error::TomlError;
use parse::Others;
use watch::Watch;

/// How long a file that is being written has to be quiet before it is read.
const SETTLE: Duration = Duration::from_millis(5);

/// How often the file is looked at where the system cannot watch its folder.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// How often the file is looked at although its folder is watched.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Largest file, in bytes: a hundred thousand rules of 160 bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Rules in a TOML file.
///
/// ```toml
/// [[rule]]                       # the newest of equals wins: further down is newer
/// user = "alice"
/// domain = ".example.com"
/// to = "uk"
/// on_down = "fr"
///
/// [[inbound]]
/// tunnel = "uk"
/// proto = "tcp"
/// port = 6881
///
/// [[filter]]                     # the first that matches decides
/// direction = "in"
/// remote = "192.0.2.0/24"
/// action = "reject"
/// ```
///
/// | Key of `[[rule]]` | What it is |
/// |---|---|
/// | `uid`, `user`, `exe`, `cgroup`, `package` | whose traffic; at most one of them |
/// | `src`, `iif` | source prefix; input interface of forwarded traffic |
/// | `dst`, `domain` | destination prefix; name the destination was looked up under |
/// | `port`, `proto`, `family` | `443` or `"8000-8999"`; `tcp`, `udp`, `icmp`; `ipv4`, `ipv6` |
/// | `to` | `direct`, `block`, or the name of a tunnel or group; required |
/// | `on_change` | `keep` (default), `reset`, `drop`: what live TCP connections do |
/// | `on_down` | `block` (default), `direct`, or the name of a tunnel or group |
///
/// | Key of `[[inbound]]` | What it is |
/// |---|---|
/// | `tunnel`, `proto` | where it comes from, and `tcp`, `udp` or `icmp` (echo requests); required |
/// | `port`, `to_port` | port or range at the tunnel's address; local port of the first of them |
/// | `remote` | prefix of who may |
/// | `behind` | a network behind this host that the rule is for, in place of the tunnel's own address |
///
/// | Key of `[[filter]]` | What it is |
/// |---|---|
/// | `direction` | `in`, `out` or `both` (default): which way the flow was started |
/// | `tunnel`, `family`, `proto`, `remote`, `port` | which flows |
/// | `icmp`, `fragments` | type, or `"type/code"`; `true` for fragments only |
/// | `action` | `accept`, `drop` or `reject`; required |
///
/// A user is looked up and an executable's path resolved when the file is read; a program that is
/// not there keeps the path it was given.
#[derive(Debug)]
pub struct TomlRules {
    path: PathBuf,
    others: Others,
    changes: Changes,
    /// Which change the last `load` saw.
    loaded: AtomicU64,
    _watch: Watch,
}

impl TomlRules {
    /// A file of rules. It is read by `load`, and watched from now on.
    ///
    /// # Errors
    ///
    /// The file is not there, is no regular file, may be written by everybody, or the thread that
    /// watches it cannot be started.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, TomlError> {
        Self::start(path.into(), Others::Unknown)
    }

    /// The rules in a file that says other things as well, such as a program's configuration: keys
    /// that are not about rules are that program's to judge.
    ///
    /// # Errors
    ///
    /// Like [`open`](Self::open).
    pub fn open_within(path: impl Into<PathBuf>) -> Result<Self, TomlError> {
        Self::start(path.into(), Others::Ignored)
    }

    fn start(path: PathBuf, others: Others) -> Result<Self, TomlError> {
        read::check(&path)?;
        let changes = Changes::new();
        // Its baseline is taken before anything is loaded, so no change falls in between.
        let watch = Watch::start(&path, changes.clone())?;
        Ok(Self {
            path,
            others,
            changes,
            loaded: AtomicU64::new(0),
            _watch: watch,
        })
    }

    /// All rules of a text, for a check before it is written; `path` is what errors call it.
    ///
    /// # Errors
    ///
    /// Like [`list`](Self::list), and a text longer than a file may be.
    pub fn parse(path: &Path, text: &str) -> Result<RuleSnapshot, TomlError> {
        if text.len() as u64 > MAX_BYTES {
            return Err(TomlError::TooLarge { path: path.into() });
        }
        parse::parse(path, text, Others::Unknown)
    }

    /// The same, with users as somebody else knows them.
    #[cfg(feature = "etcd")]
    pub(super) fn parse_with(
        path: &Path,
        text: &str,
        users: parse::Users<'_>,
    ) -> Result<RuleSnapshot, TomlError> {
        parse::parse_with(path, text, Others::Unknown, users)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All rules of the file. Blocks.
    ///
    /// # Errors
    ///
    /// An entry that makes no sense is named with its line, table and key; none of the rules is
    /// returned then.
    pub fn list(&self) -> Result<RuleSnapshot, TomlError> {
        read::read(&self.path, self.others)
    }
}

#[async_trait]
impl RuleSource for TomlRules {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        // Before reading: a change during the read counts as not loaded.
        let seen = self.changes.seen();
        let (path, others) = (self.path.clone(), self.others);
        let read = tokio::task::spawn_blocking(move || read::read(&path, others)).await;
        // A file that makes no sense is read again when it changes: nothing else mends it.
        self.loaded.store(seen, SeqCst);
        let snapshot = read.map_err(|cause| RuleSourceError::Unavailable {
            place: self.path.display().to_string(),
            cause: cause.into(),
        })??;
        Ok(snapshot)
    }

    async fn changed(&self) {
        self.changes.beyond(self.loaded.load(SeqCst)).await;
    }
}
