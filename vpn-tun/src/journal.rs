//! Touches a small file that says what to undo, so that a killed process can be undone later.
//!
//! Each entry is written, with mode 0600, before the change it describes is made; the file goes
//! when nothing is left to undo. An entry says enough to find every change it stands for: that of a
//! capture its table and priorities, where rules and routes carry our protocol number.
//!
//! | entry | stands for |
//! |---|---|
//! | `here` | the boot and the network namespace that all of this is of |
//! | `capture:TABLE` | policy rules and routes of a capture |
//! | `direct:TABLE` | policy rules of the direct transport |
//! | `interface:NAME` | addresses, routes and MTU of an interface |
//! | `attached:NAME` | queue and state of an interface of another program |
//! | `nft:FAMILY:NAME` | a table of the packet filter |
//! | `sysctl:WHOSE:PATH` | a setting: what it was, and what we made of it |
//! | `resolv_conf`, `resolved:NAME` | resolvers of applications |
//! | `openvpn:NAME` | a process, by the folder only it knows |

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::foreign::ForeignChange;

/// First line of the file; another one is refused, not guessed at.
const MAGIC: &str = "vpn-tun journal 2";

/// The entry that says where and when the others were made.
const HERE: &str = "here";

/// The entry that outlives a reboot: a file's content does.
pub(crate) const RESOLV_CONF: &str = "resolv_conf";

/// Largest journal read back, in bytes: two copies of a large resolv.conf in hexadecimal.
const MAX_LEN: u64 = 1 << 20;

/// What to undo, and what others changed of it meanwhile. Clones share both.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    entries: BTreeMap<String, String>,
    /// What others changed, by who noticed it.
    foreign: BTreeMap<String, Vec<ForeignChange>>,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("cannot use the journal {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The file is something else. Move it away.
    #[error("{path}, line {line}: not a journal of this program")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: usize,
    },
}

impl Journal {
    /// Opens a journal. A missing file is an empty journal and is made with the first entry.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`] if the file is there and cannot be read, [`JournalError::Foreign`] if it
    /// is no journal.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let path = path.into();
        // What was being written when its writer was killed describes nothing that was done.
        match fs::remove_file(beside(&path)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(JournalError::Io { path, cause });
            }
            _ => {}
        }
        let entries = match read(&path) {
            Ok(text) => parse(&text).map_err(|line| JournalError::Foreign {
                path: path.clone(),
                line,
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(cause) => return Err(JournalError::Io { path, cause }),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner {
                path,
                entries,
                foreign: BTreeMap::new(),
            })),
        })
    }

    /// Whether nothing is to be undone.
    pub fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// What others changed of what we made, as far as it was looked at: by
    /// [`Applier::look`](crate::Applier::look), [`SystemDns::look`](crate::SystemDns::look), and the
    /// transports by themselves.
    pub fn foreign_changes(&self) -> Vec<ForeignChange> {
        let mut all: Vec<_> = self.lock().foreign.values().flatten().cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// Notes what somebody has noticed, in place of what they noticed before. What is new is logged.
    pub(crate) fn noticed(&self, by: &str, changes: Vec<ForeignChange>) {
        let mut inner = self.lock();
        let before = inner.foreign.remove(by).unwrap_or_default();
        for change in changes.iter().filter(|change| !before.contains(change)) {
            tracing::warn!("somebody else changed what is ours, and it stays so: {change}");
        }
        for change in before.iter().filter(|change| !changes.contains(change)) {
            tracing::info!("as it was again: {change}");
        }
        if !changes.is_empty() {
            inner.foreign.insert(by.to_owned(), changes);
        }
    }

    /// Forgets what is gone with a former boot or another network namespace: how many entries.
    /// Whoever has their place here now is not ours.
    pub(crate) fn forget_elsewhere(&self) -> Result<usize, JournalError> {
        let mut inner = self.lock();
        match inner.entries.get(HERE) {
            Some(there) if *there != here() => {}
            _ => return Ok(0),
        }
        let before = inner.entries.len();
        inner.entries.retain(|key, _| key == RESOLV_CONF);
        // The entry itself was none of them.
        let gone = before - inner.entries.len() - 1;
        inner.save()?;
        Ok(gone)
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.lock().entries.get(key).cloned()
    }

    /// The entries whose keys begin so, without what they begin with.
    pub(crate) fn with_prefix(&self, prefix: &str) -> BTreeMap<String, String> {
        let inner = self.lock();
        let entries = inner.entries.iter();
        entries
            .filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone())))
            .collect()
    }

    pub(crate) fn set(&self, key: &str, value: impl Into<String>) -> Result<(), JournalError> {
        let mut inner = self.lock();
        let value = value.into();
        if inner.entries.get(key) == Some(&value) {
            return Ok(());
        }
        inner.entries.insert(key.to_owned(), value);
        inner.save()
    }

    pub(crate) fn remove(&self, key: &str) -> Result<(), JournalError> {
        let mut inner = self.lock();
        if inner.entries.remove(key).is_none() {
            return Ok(());
        }
        inner.save()
    }

    /// The error for an entry that is there and says nothing that can be understood.
    pub(crate) fn unreadable(&self, key: &str) -> JournalError {
        let inner = self.lock();
        JournalError::Foreign {
            path: inner.path.clone(),
            // Behind the first line, in order.
            line: inner.entries.range(..key.to_owned()).count() + 2,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn save(&mut self) -> Result<(), JournalError> {
        if self.entries.keys().all(|key| key == HERE) {
            self.entries.clear();
        } else if !self.entries.contains_key(HERE) {
            self.entries.insert(HERE.to_owned(), here());
        }
        self.write().map_err(|cause| JournalError::Io {
            path: self.path.clone(),
            cause,
        })
    }

    /// Replaces the file whole: a crash leaves the old journal or the new one.
    fn write(&self) -> io::Result<()> {
        if self.entries.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
        }
        let temporary = beside(&self.path);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{MAGIC}")?;
        for (key, value) in &self.entries {
            writeln!(file, "{key} {value}")?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // The name too: what is done next may outlive a loss of power.
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
            _ => fs::File::open(".")?.sync_all(),
        }
    }
}

/// Where the next content is written, before it takes the journal's place.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".new");
    name.into()
}

/// This boot, and the network namespace of this thread.
fn here() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
    format!("{}/{}", boot.trim(), namespace.display())
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
    }
    fs::read_to_string(path)
}

/// The entries, or the number of the line that is none.
fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut lines = text.lines();
    if lines.next() != Some(MAGIC) {
        return Err(1);
    }
    lines
        .enumerate()
        .map(|(i, line)| {
            let (key, value) = line.split_once(' ').ok_or(i + 2)?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Bytes as hexadecimal digits, so that any content is one word.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The reverse of [`to_hex`].
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn entries_survive_and_the_empty_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = Journal::open(&path).unwrap();
        assert!(!path.exists());
        journal.set("rp_filter_all", "1").unwrap();
        journal.set("other", "a b").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.get("rp_filter_all").as_deref(), Some("1"));
        assert_eq!(again.get("other").as_deref(), Some("a b"));
        again.remove("rp_filter_all").unwrap();
        again.remove("other").unwrap();
        assert!(again.is_empty() && !path.exists());
    }

    #[test]
    fn what_was_being_written_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        fs::write(dir.path().join("journal.new"), "half a li").unwrap();
        assert!(Journal::open(&path).unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_of_another_boot_is_forgotten_but_for_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let text = format!("{MAGIC}\n{HERE} another\n{RESOLV_CONF} x\nnft:inet:t x\n");
        fs::write(&path, text).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.forget_elsewhere().unwrap(), 1);
        assert_eq!(journal.get(RESOLV_CONF).as_deref(), Some("x"));
        journal.set("nft:inet:t", "x").unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.forget_elsewhere().unwrap(), 0, "made here");
        assert!(again.get("nft:inet:t").is_some());
    }

    #[test]
    fn a_foreign_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        fs::write(&path, "precious\n").unwrap();
        assert!(matches!(
            Journal::open(&path),
            Err(JournalError::Foreign { line: 1, .. })
        ));
        fs::write(&path, format!("{MAGIC}\nword\n")).unwrap();
        assert!(matches!(
            Journal::open(&path),
            Err(JournalError::Foreign { line: 2, .. })
        ));
        assert!(path.exists());
    }

    #[test]
    fn hexadecimal_goes_round() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&all)), Some(all));
        for bad in ["0", "zz", "+1", "é"] {
            assert!(from_hex(bad).is_none(), "{bad}");
        }
    }
}
