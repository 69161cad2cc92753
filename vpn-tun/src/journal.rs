//! Touches a small file that says what to undo, so that a killed process can be undone later.
//!
//! Each entry is written, with mode 0600, before the change it describes is made; the file goes
//! when nothing is left to undo. What the kernel itself tells (routes and rules carry our protocol
//! number) is not in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// First line of the file; another one is refused, not guessed at.
const MAGIC: &str = "vpn-tun journal 1";

/// Largest journal read back, in bytes: two copies of a large resolv.conf in hexadecimal.
const MAX_LEN: u64 = 1 << 20;

/// What to undo. Clones share the file.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    entries: BTreeMap<String, String>,
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
        let entries = match read(&path) {
            Ok(text) => parse(&text).map_err(|line| JournalError::Foreign {
                path: path.clone(),
                line,
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(cause) => return Err(JournalError::Io { path, cause }),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner { path, entries })),
        })
    }

    /// Whether nothing is to be undone.
    pub fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
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
        inner.entries.insert(key.to_owned(), value.into());
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
    fn save(&self) -> Result<(), JournalError> {
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
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
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
        fs::rename(&temporary, &self.path)
    }
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
