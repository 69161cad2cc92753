//! Touches settings under `/proc/sys`, and remembers what they were.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::journal::{Journal, JournalError};

/// What the journal's entries begin with; the rest is the path.
const PREFIX: &str = "sysctl:";

/// A setting that could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}")]
pub struct SysctlError {
    /// The file.
    pub path: String,
    /// What was to be written.
    pub value: String,
    /// What the system said.
    #[source]
    pub cause: io::Error,
}

/// Settings that were changed, with their former values, which come back in any order.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    former: BTreeMap<String, String>,
    journal: Option<Journal>,
}

impl Changed {
    /// Takes over what the journal says a former run changed below `folder`.
    pub(crate) fn new(journal: Option<Journal>, folder: &str) -> Self {
        let former = journal.as_ref().map(|j| entries(j, folder));
        Self {
            former: former.unwrap_or_default(),
            journal,
        }
    }

    /// Whether this setting was changed.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.former.contains_key(path)
    }

    /// Sets `path` to `value`, unless it is that already. A setting that is not there is left out.
    pub(crate) fn set<E>(&mut self, path: &str, value: &str) -> Result<(), E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        let Some(now) = read(path) else {
            return Ok(());
        };
        if now == value {
            return Ok(());
        }
        if !self.contains(path) {
            if let Some(journal) = &self.journal {
                journal.set(&format!("{PREFIX}{path}"), now.clone())?;
            }
            self.former.insert(path.to_owned(), now);
        }
        Ok(write(path, value)?)
    }

    /// Brings every former value back. What is gone needs none.
    pub(crate) fn restore<E>(&mut self) -> Result<(), E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        // In the order of names, so that `all` comes before the interfaces it overwrites.
        while let Some((path, value)) = self.former.first_key_value() {
            if Path::new(path).exists() {
                write(path, value)?;
            }
            if let Some(journal) = &self.journal {
                journal.remove(&format!("{PREFIX}{path}"))?;
            }
            self.former.pop_first();
        }
        Ok(())
    }
}

/// The current value, if the setting is there.
pub(crate) fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn write(path: &str, value: &str) -> Result<(), SysctlError> {
    std::fs::write(path, format!("{value}\n")).map_err(|cause| SysctlError {
        path: path.to_owned(),
        value: value.to_owned(),
        cause,
    })
}

fn entries(journal: &Journal, folder: &str) -> BTreeMap<String, String> {
    journal
        .with_prefix(PREFIX)
        .into_iter()
        .filter(|(path, _)| path.starts_with(folder))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direct::DirectError as Error;

    #[test]
    fn former_values_come_back_also_from_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        let file = dir.path().join("forwarding");
        let path = file.to_str().unwrap();
        let folder = dir.path().to_str().unwrap();
        std::fs::write(&file, "0\n").unwrap();
        let mut killed = Changed::new(Some(journal), folder);
        killed.set::<Error>(path, "1").unwrap();
        killed.set::<Error>(path, "2").unwrap();
        killed.set::<Error>("/nonexistent/setting", "1").unwrap();
        assert_eq!(read(path).as_deref(), Some("2"));
        drop(killed);
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        assert!(!journal.is_empty());
        let mut next = Changed::new(Some(journal.clone()), folder);
        assert!(next.contains(path));
        next.set::<Error>(path, "1").unwrap();
        next.restore::<Error>().unwrap();
        assert_eq!(read(path).as_deref(), Some("0"));
        assert!(journal.is_empty());
    }
}
