//! Touches `resolv.conf`, or tells systemd-resolved: which resolver applications ask.
//!
//! The file may be bind-mounted (containers, network namespaces), so it is written in place, never
//! replaced. What was in it is kept, in memory and in the journal, and comes back only if the file
//! still holds what was written: a change by somebody else is told, not overwritten.
//!
//! systemd-resolved is told by its program `resolvectl`, for one interface: what it was told goes with
//! the interface.
//!
//! [`Lookup`] says whether something asks on behalf of applications, so that nobody can tell who
//! wants to know.

mod asker;
mod resolv_conf;
mod resolved;
mod written;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::foreign::ForeignChange;
use crate::journal::{Journal, JournalError, RESOLV_CONF as ENTRY};
use crate::name::InterfaceName;
pub use asker::{HiddenAsker, Lookup};
pub(crate) use resolv_conf::nameservers;
use resolved::Resolved;
use written::{Written, read, target_of, undo, write_in_place};

/// The usual file.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Largest resolv.conf handled, in bytes; a real one has a few hundred.
pub(crate) const MAX_LEN: usize = 64 * 1024;

/// Whose look at the file it is, in the journal.
const OWNER: &str = "dns";

/// How applications are told their resolvers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DnsApply {
    /// [`Resolved`](Self::Resolved) where systemd-resolved is in charge, else
    /// [`ResolvConf`](Self::ResolvConf).
    #[default]
    Auto,
    /// Through systemd-resolved, by its program `resolvectl`; with
    /// [`on_interface`](SystemDns::on_interface). It asks on behalf of every app, so all of them get
    /// the resolver of its own rule.
    Resolved,
    /// By writing the file.
    ResolvConf,
    /// Not at all.
    None,
}

impl FromStr for DnsApply {
    type Err = DnsError;

    /// `auto`, `resolved`, `resolv.conf` or `none`.
    fn from_str(text: &str) -> Result<Self, DnsError> {
        match text {
            "auto" => Ok(Self::Auto),
            "resolved" => Ok(Self::Resolved),
            "resolv.conf" => Ok(Self::ResolvConf),
            "none" => Ok(Self::None),
            _ => Err(DnsError::UnknownKind(text.to_owned())),
        }
    }
}

/// Why resolvers were not set or not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// Not one of the four words.
    #[error("{0:?} is not a way to apply DNS: use auto, resolved, resolv.conf or none")]
    UnknownKind(String),
    /// systemd-resolved is told about interfaces, and none was said.
    #[error("systemd-resolved is told the resolvers of an interface, and none was named")]
    NoInterface,
    /// No such program. Install systemd-resolved, or write `resolv.conf`.
    #[error("the program resolvectl is missing: install systemd-resolved, or use resolv.conf")]
    NoResolvectl,
    /// It could not be run, or did not end.
    #[error("cannot run resolvectl")]
    Resolvectl(#[source] io::Error),
    /// It refused: systemd-resolved does not run, or does not let us.
    #[error("resolvectl refuses: {0}")]
    Refused(String),
    /// The file cannot be read or written.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// What to undo could not be written down; nothing was changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What restoring did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// Nothing had been written.
    Nothing,
    /// The former content is back, byte by byte.
    Restored,
    /// Somebody else wrote the file meanwhile; it is left as they wrote it.
    ChangedByOthers,
}

/// Sets and restores the resolvers of applications.
#[derive(Debug)]
pub struct SystemDns {
    apply: DnsApply,
    path: PathBuf,
    interface: Option<InterfaceName>,
    journal: Option<Journal>,
    /// The way, once it was chosen: it does not follow what we write ourselves.
    chosen: Option<DnsApply>,
    written: Option<Written>,
    resolved: Option<Resolved>,
}

impl SystemDns {
    /// A way to apply, and the file ([`RESOLV_CONF`] usually). Nothing is touched yet.
    pub fn new(apply: DnsApply, path: impl Into<PathBuf>) -> Self {
        Self {
            apply,
            path: path.into(),
            interface: None,
            journal: None,
            chosen: None,
            written: None,
            resolved: None,
        }
    }

    /// The interface whose resolvers systemd-resolved is told.
    #[must_use]
    pub fn on_interface(mut self, interface: InterfaceName) -> Self {
        self.interface = Some(interface);
        self
    }

    /// Writes the former content to a journal before the file is changed.
    #[must_use]
    pub fn with_journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Tells applications these resolvers; none restores. Lines other than `nameserver` stay. What
    /// somebody else wrote since the last call is left alone, and told by [`look`](Self::look).
    ///
    /// # Errors
    ///
    /// [`DnsError`]. A file that was written halfway is restored by [`restore`](Self::restore).
    pub async fn apply(&mut self, servers: &BTreeSet<IpAddr>) -> Result<(), DnsError> {
        let kind = match self.chosen {
            Some(kind) => kind,
            None => *self.chosen.insert(self.kind()),
        };
        match kind {
            DnsApply::None => Ok(()),
            _ if servers.is_empty() => self.restore().await.map(drop),
            DnsApply::Resolved => self.tell_resolved(servers).await,
            DnsApply::Auto | DnsApply::ResolvConf => self.write(servers),
        }
    }

    async fn tell_resolved(&mut self, servers: &BTreeSet<IpAddr>) -> Result<(), DnsError> {
        let resolved = match &mut self.resolved {
            Some(resolved) => resolved,
            none => {
                let interface = self.interface.clone().ok_or(DnsError::NoInterface)?;
                tracing::warn!(
                    "systemd-resolved asks on behalf of every app: all of them get the resolver \
                     of the rule for its own user"
                );
                none.insert(Resolved::new(interface, self.journal.clone()))
            }
        };
        resolved.tell(servers).await
    }

    fn write(&mut self, servers: &BTreeSet<IpAddr>) -> Result<(), DnsError> {
        let target = target_of(&self.path);
        let now = read(&target)?;
        let former = match self.written.take() {
            Some(written) if written.target == target && written.is_ours(now.as_deref()) => {
                written.former
            }
            // Theirs by now; what is ours of it is undone in the end.
            Some(written) => {
                self.written = Some(written);
                return Ok(());
            }
            // What a killed run wrote is not the former content; what it noted is.
            None => match self.noted() {
                Some(noted) if noted.target == target && noted.is_ours(now.as_deref()) => {
                    noted.former
                }
                _ => now.clone(),
            },
        };
        let content = resolv_conf::with_servers(former.as_deref().unwrap_or_default(), servers);
        let written = Written {
            target,
            former,
            content,
        };
        if let Some(journal) = &self.journal {
            journal.set(ENTRY, written.to_entry())?;
        }
        // Noted first: a write that fails halfway is restored too.
        let written = self.written.insert(written);
        if now.as_ref() == Some(&written.content) {
            return Ok(());
        }
        write_in_place(&written.target, &written.content)
    }

    /// As [`apply`](Self::apply), when the network below is another one: whoever brought it up wrote
    /// its resolvers into the file, and they are the former content from now on.
    ///
    /// # Errors
    ///
    /// [`DnsError`].
    pub async fn follow(&mut self, servers: &BTreeSet<IpAddr>) -> Result<(), DnsError> {
        if let Some(written) = &self.written
            && !written.is_in_force(&self.path)?
        {
            // Theirs, or gone; what is ours behind a link that leads elsewhere now is undone.
            self.restore().await?;
        }
        self.apply(servers).await
    }

    /// Looks whether somebody else told applications other resolvers. The journal is told as well, if
    /// there is one. With systemd-resolved a program is asked: not every second.
    ///
    /// # Errors
    ///
    /// [`DnsError`] if the file cannot be read or the program not be run.
    pub async fn look(&self) -> Result<Vec<ForeignChange>, DnsError> {
        let mut found = Vec::new();
        if let Some(written) = &self.written
            && !written.is_in_force(&self.path)?
        {
            found.push(ForeignChange::ResolvConf(self.path.clone()));
        }
        if let Some(resolved) = &self.resolved {
            found.extend(resolved.look().await?);
        }
        if let Some(journal) = &self.journal {
            journal.noticed(OWNER, found.clone());
        }
        Ok(found)
    }

    /// Brings the former content back, if the file still holds what was written. Idempotent.
    ///
    /// # Errors
    ///
    /// [`DnsError`]; nothing is forgotten, so call it again.
    pub async fn restore(&mut self) -> Result<Restored, DnsError> {
        if let Some(resolved) = &mut self.resolved {
            let outcome = resolved.revert().await?;
            self.resolved = None;
            return Ok(outcome);
        }
        let Some(written) = &self.written else {
            return Ok(Restored::Nothing);
        };
        let outcome = undo(written)?;
        if let Some(journal) = &self.journal {
            journal.remove(ENTRY)?;
            journal.noticed(OWNER, Vec::new());
        }
        self.written = None;
        Ok(outcome)
    }

    /// Restores what a killed run wrote into a file, as its journal says. What it told
    /// systemd-resolved went with its interface.
    ///
    /// # Errors
    ///
    /// [`DnsError::Io`] and [`DnsError::Journal`]; the journal keeps its entry.
    pub fn recover(journal: &Journal) -> Result<Restored, DnsError> {
        recover_file(journal).map(|outcome| outcome.map_or(Restored::Nothing, |(_, done)| done))
    }

    fn kind(&self) -> DnsApply {
        match self.apply {
            DnsApply::Auto if resolved_in_charge(&self.path) => DnsApply::Resolved,
            DnsApply::Auto => DnsApply::ResolvConf,
            kind => kind,
        }
    }

    fn noted(&self) -> Option<Written> {
        Written::from_entry(&self.journal.as_ref()?.get(ENTRY)?)
    }
}

/// As [`SystemDns::recover`], with the file that it is about.
pub(crate) fn recover_file(journal: &Journal) -> Result<Option<(PathBuf, Restored)>, DnsError> {
    let Some(entry) = journal.get(ENTRY) else {
        return Ok(None);
    };
    let Some(written) = Written::from_entry(&entry) else {
        return Err(journal.unreadable(ENTRY).into());
    };
    let outcome = undo(&written)?;
    journal.remove(ENTRY)?;
    Ok(Some((written.target, outcome)))
}

/// Reverts what systemd-resolved was told of interfaces that are still there: their names.
pub(crate) async fn recover_resolved(
    journal: &Journal,
) -> Result<Vec<(String, Restored)>, DnsError> {
    resolved::recover(journal).await
}

fn resolved_in_charge(path: &Path) -> bool {
    let stub = IpAddr::from([127, 0, 0, 53]);
    Path::new("/run/systemd/resolve").exists()
        && read(path)
            .ok()
            .flatten()
            .is_some_and(|content| nameservers(&content).contains(&stub))
}

#[cfg(test)]
mod tests;
