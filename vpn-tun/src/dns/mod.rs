//! Touches `resolv.conf`: tells applications which resolver to ask.
//!
//! The file may be bind-mounted (containers, network namespaces), so it is written in place, never
//! replaced. What was in it is kept, in memory and in the journal, and comes back only if the file
//! still holds what was written: a change by somebody else is reported, not overwritten.
//!
//! [`Lookup`] says whether something asks on behalf of applications, so that nobody can tell who
//! wants to know.

mod asker;
mod resolv_conf;
mod written;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::journal::{Journal, JournalError};
pub use asker::{HiddenAsker, Lookup};
pub(crate) use resolv_conf::nameservers;
use written::{Written, read, undo, write_in_place};

/// The usual file.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Largest resolv.conf handled, in bytes; a real one has a few hundred.
pub(crate) const MAX_LEN: usize = 64 * 1024;

/// Journal entry: path, former content and written content, in hexadecimal.
const ENTRY: &str = "resolv_conf";

/// How applications are told their resolvers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DnsApply {
    /// [`Resolved`](Self::Resolved) where systemd-resolved is in charge, else
    /// [`ResolvConf`](Self::ResolvConf).
    #[default]
    Auto,
    /// Through systemd-resolved. Refused for now: [`DnsError::ResolvedNotAvailable`].
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
    /// systemd-resolved asks on behalf of every app, so DNS per app is impossible through it.
    #[error(
        "systemd-resolved is not supported: it asks on behalf of every app; use none, or resolv.conf with the stub switched off"
    )]
    ResolvedNotAvailable,
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
    journal: Option<Journal>,
    written: Option<Written>,
}

impl SystemDns {
    /// A way to apply, and the file ([`RESOLV_CONF`] usually). Nothing is touched yet.
    pub fn new(apply: DnsApply, path: impl Into<PathBuf>) -> Self {
        Self {
            apply,
            path: path.into(),
            journal: None,
            written: None,
        }
    }

    /// Writes the former content to a journal before the file is changed.
    #[must_use]
    pub fn with_journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Tells applications these resolvers; none restores. Lines other than `nameserver` stay.
    ///
    /// # Errors
    ///
    /// [`DnsError`]. A file that was written halfway is restored by [`restore`](Self::restore).
    pub fn apply(&mut self, servers: &BTreeSet<IpAddr>) -> Result<(), DnsError> {
        match self.kind() {
            DnsApply::None => return Ok(()),
            DnsApply::Resolved => return Err(DnsError::ResolvedNotAvailable),
            DnsApply::Auto | DnsApply::ResolvConf => {}
        }
        if servers.is_empty() {
            return self.restore().map(drop);
        }
        let now = read(&self.path)?;
        // What a killed run wrote is not the former content; what it noted is.
        let noted = self.written.take().or_else(|| self.noted());
        let former = match noted {
            Some(written) if written.is_ours(now.as_deref()) => written.former,
            _ => now,
        };
        let content = resolv_conf::with_servers(former.as_deref().unwrap_or_default(), servers);
        let written = Written { former, content };
        if let Some(journal) = &self.journal {
            journal.set(ENTRY, written.to_entry(&self.path))?;
        }
        // Noted first: a write that fails halfway is restored too.
        let content = written.content.clone();
        self.written = Some(written);
        write_in_place(&self.path, &content)
    }

    /// Brings the former content back, if the file still holds what was written. Idempotent.
    ///
    /// # Errors
    ///
    /// [`DnsError::Io`] and [`DnsError::Journal`]; nothing is forgotten, so call it again.
    pub fn restore(&mut self) -> Result<Restored, DnsError> {
        let Some(written) = self.written.clone() else {
            return Ok(Restored::Nothing);
        };
        let outcome = undo(&self.path, &written)?;
        if let Some(journal) = &self.journal {
            journal.remove(ENTRY)?;
        }
        self.written = None;
        Ok(outcome)
    }

    /// Restores what a killed run wrote, as its journal says.
    ///
    /// # Errors
    ///
    /// [`DnsError::Io`] and [`DnsError::Journal`]; the journal keeps its entry.
    pub fn recover(journal: &Journal) -> Result<Restored, DnsError> {
        let Some(entry) = journal.get(ENTRY) else {
            return Ok(Restored::Nothing);
        };
        let Some((path, written)) = Written::from_entry(&entry) else {
            return Err(journal.unreadable(ENTRY).into());
        };
        let outcome = undo(&path, &written)?;
        journal.remove(ENTRY)?;
        Ok(outcome)
    }

    fn kind(&self) -> DnsApply {
        match self.apply {
            DnsApply::Auto if resolved_in_charge(&self.path) => DnsApply::Resolved,
            DnsApply::Auto => DnsApply::ResolvConf,
            kind => kind,
        }
    }

    fn noted(&self) -> Option<Written> {
        let entry = self.journal.as_ref()?.get(ENTRY)?;
        let (path, written) = Written::from_entry(&entry)?;
        (path == self.path).then_some(written)
    }
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
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::journal::to_hex;

    const BEFORE: &str = "# mine\nnameserver 192.0.2.1\nsearch example.org\n";

    fn servers(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|s| s.parse().unwrap()).collect()
    }

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[test]
    fn written_in_place_and_restored_exactly() {
        let (_dir, path) = file(BEFORE);
        let inode = fs::metadata(&path).unwrap().ino();
        let mut dns = SystemDns::new(DnsApply::ResolvConf, &path);
        dns.apply(&servers(&["10.9.9.9"])).unwrap();
        dns.apply(&servers(&["10.8.8.8", "fd00::1"])).unwrap();
        let now = fs::read(&path).unwrap();
        assert_eq!(
            nameservers(&now),
            vec![
                "10.8.8.8".parse::<IpAddr>().unwrap(),
                "fd00::1".parse().unwrap()
            ]
        );
        assert!(
            String::from_utf8(now)
                .unwrap()
                .contains("search example.org\n")
        );
        assert_eq!(dns.restore().unwrap(), Restored::Restored);
        assert_eq!(fs::read_to_string(&path).unwrap(), BEFORE);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(dns.restore().unwrap(), Restored::Nothing);
    }

    #[test]
    fn a_foreign_change_is_kept() {
        let (_dir, path) = file(BEFORE);
        let mut dns = SystemDns::new(DnsApply::ResolvConf, &path);
        dns.apply(&servers(&["10.9.9.9"])).unwrap();
        fs::write(&path, "nameserver 198.51.100.1\n").unwrap();
        assert_eq!(dns.restore().unwrap(), Restored::ChangedByOthers);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "nameserver 198.51.100.1\n"
        );
    }

    #[test]
    fn a_killed_run_is_recovered_and_not_taken_for_the_former_content() {
        let (dir, path) = file(BEFORE);
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        let killed = |list: &[&str]| {
            let mut dns = SystemDns::new(DnsApply::ResolvConf, &path).with_journal(journal.clone());
            dns.apply(&servers(list)).unwrap();
        };
        killed(&["10.9.9.9"]);
        killed(&["10.8.8.8"]);
        let read_back = Journal::open(dir.path().join("journal")).unwrap();
        assert_eq!(SystemDns::recover(&read_back).unwrap(), Restored::Restored);
        assert_eq!(fs::read_to_string(&path).unwrap(), BEFORE);
        assert_eq!(SystemDns::recover(&read_back).unwrap(), Restored::Nothing);
    }

    #[test]
    fn a_file_that_was_missing_goes_again() {
        let (_dir, path) = file("");
        fs::remove_file(&path).unwrap();
        let mut dns = SystemDns::new(DnsApply::ResolvConf, &path);
        dns.apply(&servers(&["10.9.9.9"])).unwrap();
        assert!(path.exists());
        dns.apply(&servers(&[])).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_link_stays_a_link_also_one_that_led_nowhere() {
        let (dir, target) = file(BEFORE);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("resolv.conf", &link).unwrap();
        for missing in [false, true] {
            if missing {
                fs::remove_file(&target).unwrap();
            }
            let mut dns = SystemDns::new(DnsApply::ResolvConf, &link);
            dns.apply(&servers(&["10.9.9.9"])).unwrap();
            assert!(target.exists());
            assert_eq!(dns.restore().unwrap(), Restored::Restored);
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(target.exists(), !missing);
        }
    }

    /// Killed between two system calls of the write, or with the disk full.
    #[test]
    fn half_a_write_is_ours_and_is_undone() {
        let (dir, path) = file(BEFORE);
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        let mut dns = SystemDns::new(DnsApply::ResolvConf, &path).with_journal(journal.clone());
        dns.apply(&servers(&["10.9.9.9"])).unwrap();
        let entry = journal.get(ENTRY).unwrap();
        let written = fs::read(&path).unwrap();
        for former in [BEFORE.to_owned(), BEFORE.repeat(9), String::new()] {
            let entry = entry.replace(&to_hex(BEFORE.as_bytes()), &to_hex(former.as_bytes()));
            for cut in 0..=written.len() {
                let mut half = former.clone().into_bytes();
                half.resize(half.len().max(cut), 0);
                half[..cut].copy_from_slice(&written[..cut]);
                fs::write(&path, &half).unwrap();
                journal.set(ENTRY, entry.clone()).unwrap();
                let restored = SystemDns::recover(&journal).unwrap();
                assert_eq!(restored, Restored::Restored, "{cut}");
                assert_eq!(fs::read(&path).unwrap(), former.as_bytes());
            }
        }
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_an_error_and_kept() {
        let (dir, path) = file(BEFORE);
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        journal.set(ENTRY, "2f .zz .00").unwrap();
        let error = SystemDns::recover(&journal).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(!journal.is_empty());
        assert_eq!(fs::read_to_string(&path).unwrap(), BEFORE);
    }

    #[test]
    fn none_touches_nothing_and_words_are_checked() {
        let (_dir, path) = file(BEFORE);
        let mut dns = SystemDns::new("none".parse().unwrap(), &path);
        dns.apply(&servers(&["10.9.9.9"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), BEFORE);
        let mut dns = SystemDns::new("resolved".parse().unwrap(), &path);
        assert!(matches!(
            dns.apply(&servers(&["10.9.9.9"])),
            Err(DnsError::ResolvedNotAvailable)
        ));
        assert!("dnsmasq".parse::<DnsApply>().is_err());
    }
}
