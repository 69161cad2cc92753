//! Touches settings under `/proc/sys`, and remembers what they were and what they were made.

use std::collections::BTreeMap;
use std::io;

use crate::foreign::ForeignChange;
use crate::journal::{Journal, JournalError};

/// What the journal's entries begin with; whose it is and the path follow.
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

/// A setting that was changed.
#[derive(Clone, Debug)]
struct Setting {
    former: String,
    ours: String,
    /// It had our value at some time: since then, another one is somebody else's.
    written: bool,
    /// A setting that overwrites this one when it is written, and its value at the time.
    above: Option<(String, String)>,
}

impl Setting {
    /// What `former ours` or `former ours PATH VALUE` says.
    fn read(entry: &str) -> Option<Self> {
        let mut words = entry.split(' ').map(str::to_owned);
        Some(Self {
            former: words.next()?,
            ours: words.next()?,
            written: false,
            above: words.next().zip(words.next()),
        })
    }

    fn entry(&self) -> String {
        let mut entry = format!("{} {}", self.former, self.ours);
        if let Some((path, value)) = &self.above {
            entry.push_str(&format!(" {path} {value}"));
        }
        entry
    }

    /// Whether somebody wrote the setting above since: it has that one's value now, by them.
    fn overwritten(&self) -> Option<ForeignChange> {
        let (path, value) = self.above.as_ref()?;
        let now = read(path).filter(|now| now != value)?;
        let path = path.clone();
        Some(ForeignChange::Setting { path, now })
    }
}

/// Settings that were changed, with their former values, which come back in any order.
#[derive(Debug)]
pub(crate) struct Changed {
    settings: BTreeMap<String, Setting>,
    journal: Option<Journal>,
    prefix: String,
}

/// What restoring did.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Path and value of what has its former value again.
    pub(crate) back: Vec<(String, String)>,
    /// What others changed meanwhile.
    pub(crate) left: Vec<ForeignChange>,
}

impl Changed {
    /// Takes over what the journal says a former run changed for the same purpose.
    ///
    /// # Errors
    ///
    /// [`JournalError::Foreign`] if that cannot be understood.
    pub(crate) fn new(journal: Option<Journal>, whose: &str) -> Result<Self, JournalError> {
        let prefix = format!("{PREFIX}{whose}:");
        let mut settings = BTreeMap::new();
        if let Some(journal) = &journal {
            for (path, entry) in journal.with_prefix(&prefix) {
                let Some(setting) = Setting::read(&entry) else {
                    return Err(journal.unreadable(&format!("{prefix}{path}")));
                };
                settings.insert(path, setting);
            }
        }
        Ok(Self {
            settings,
            journal,
            prefix,
        })
    }

    /// Whether this setting was changed.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.settings.contains_key(path)
    }

    /// Whether this setting was changed by us, and not by somebody through the one above it since.
    pub(crate) fn is_ours(&self, path: &str) -> bool {
        let setting = self.settings.get(path);
        setting.is_some_and(|setting| setting.overwritten().is_none())
    }

    /// As [`set`](Self::set), for a setting that the one `above` overwrites when somebody writes
    /// it: then this one is theirs, also if it has the value we gave it.
    pub(crate) fn set_below<E>(&mut self, path: &str, value: &str, above: &str) -> Result<(), E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        let known = self.contains(path);
        let above = read(above).map(|now| (above.to_owned(), now));
        self.set_with(path, value, above.filter(|_| !known))
    }

    /// Sets `path` to `value`, unless it is that already, or somebody else has set it since we did.
    /// A setting that is not there is left out, and forgotten if it was ours.
    pub(crate) fn set<E>(&mut self, path: &str, value: &str) -> Result<(), E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        self.set_with(path, value, None)
    }

    fn set_with<E>(
        &mut self,
        path: &str,
        value: &str,
        above: Option<(String, String)>,
    ) -> Result<(), E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        let Some(now) = read(path) else {
            return Ok(self.forget(path)?);
        };
        match self.settings.get_mut(path) {
            Some(setting) if setting.overwritten().is_some() => return Ok(()),
            Some(setting) if setting.written && now != setting.ours => return Ok(()),
            Some(setting) if now == value => {
                setting.written = true;
                return Ok(());
            }
            None if now == value => return Ok(()),
            _ => {}
        }
        self.note(path, &now, value, above)?;
        write(path, value)?;
        if let Some(setting) = self.settings.get_mut(path) {
            setting.written = true;
        }
        Ok(())
    }

    /// Remembers a setting that has this value already, and loses it by the change of another one.
    pub(crate) fn keep(&mut self, path: &str, value: &str) -> Result<(), JournalError> {
        match read(path) {
            Some(now) if now == value && !self.contains(path) => {
                self.note(path, value, value, None)
            }
            _ => Ok(()),
        }
    }

    /// What others changed since.
    pub(crate) fn look(&self) -> Vec<ForeignChange> {
        let written = self.settings.iter().filter(|(_, setting)| setting.written);
        let mut found: Vec<_> = written
            .filter_map(|(path, setting)| {
                if let Some(above) = setting.overwritten() {
                    return Some(above);
                }
                let now = read(path).filter(|now| *now != setting.ours)?;
                let path = path.clone();
                Some(ForeignChange::Setting { path, now })
            })
            .collect();
        // One above may be above several.
        found.sort();
        found.dedup();
        found
    }

    /// Brings every former value back where ours still is. What is gone needs none.
    pub(crate) fn restore<E>(&mut self) -> Result<Restored, E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        self.restore_these(|_, _| true)
    }

    /// As [`restore`](Self::restore), but for those that stay ours, and those that somebody set
    /// through the one above: they are theirs as long as that one is.
    pub(crate) fn restore_but<E>(&mut self, stays: impl Fn(&str) -> bool) -> Result<Restored, E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        self.restore_these(|path, setting| !stays(path) && setting.overwritten().is_none())
    }

    fn restore_these<E>(&mut self, these: impl Fn(&str, &Setting) -> bool) -> Result<Restored, E>
    where
        E: From<SysctlError> + From<JournalError>,
    {
        let chosen = self.settings.iter();
        let chosen = chosen.filter(|(path, setting)| these(path, setting));
        let chosen: Vec<_> = chosen.map(|(path, _)| path.clone()).collect();
        let mut restored = Restored::default();
        // Judged before anything is written: `all` overwrites the interfaces' own.
        let mut back = Vec::new();
        for path in &chosen {
            let Some(setting) = self.settings.get(path) else {
                continue;
            };
            if let Some(above) = setting.overwritten() {
                if !restored.left.contains(&above) {
                    restored.left.push(above);
                }
                continue;
            }
            match read(path) {
                Some(now) if now == setting.ours => back.push((path.clone(), &setting.former)),
                // Never written, or back already.
                Some(now) if now == setting.former => {}
                Some(now) => {
                    let path = path.clone();
                    restored.left.push(ForeignChange::Setting { path, now });
                }
                None => {}
            }
        }
        back.sort_by_key(|(path, _)| !path.contains("/all/"));
        for (path, former) in back {
            write(&path, former)?;
            restored.back.push((path, former.clone()));
        }
        for path in chosen {
            self.forget(&path)?;
        }
        Ok(restored)
    }

    /// Written down before it is changed. The first former value counts.
    fn note(
        &mut self,
        path: &str,
        now: &str,
        value: &str,
        above: Option<(String, String)>,
    ) -> Result<(), JournalError> {
        let known = self.settings.get(path);
        let setting = Setting {
            former: known.map_or(now, |setting| &setting.former).to_owned(),
            ours: value.to_owned(),
            written: false,
            above: known.map_or(above, |setting| setting.above.clone()),
        };
        if let Some(journal) = &self.journal {
            journal.set(&format!("{}{path}", self.prefix), setting.entry())?;
        }
        self.settings.insert(path.to_owned(), setting);
        Ok(())
    }

    fn forget(&mut self, path: &str) -> Result<(), JournalError> {
        if self.settings.remove(path).is_some()
            && let Some(journal) = &self.journal
        {
            journal.remove(&format!("{}{path}", self.prefix))?;
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
        std::fs::write(&file, "0\n").unwrap();
        let mut killed = Changed::new(Some(journal.clone()), "test").unwrap();
        killed.set::<Error>(path, "1").unwrap();
        killed.set::<Error>(path, "2").unwrap();
        killed.set::<Error>("/nonexistent/setting", "1").unwrap();
        assert_eq!(read(path).as_deref(), Some("2"));
        drop(killed);
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        assert!(!journal.is_empty());
        assert!(
            !Changed::new(Some(journal.clone()), "other")
                .unwrap()
                .contains(path)
        );
        let mut next = Changed::new(Some(journal.clone()), "test").unwrap();
        assert!(next.contains(path));
        next.set::<Error>(path, "1").unwrap();
        next.restore::<Error>().unwrap();
        assert_eq!(read(path).as_deref(), Some("0"));
        assert!(journal.is_empty());
    }

    #[test]
    fn what_others_set_is_told_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("forwarding");
        let path = file.to_str().unwrap();
        for (theirs, again) in [("0", "0"), ("2", "2"), ("1", "0")] {
            std::fs::write(&file, "0\n").unwrap();
            let mut changed = Changed::new(None, "test").unwrap();
            changed.set::<Error>(path, "1").unwrap();
            assert_eq!(changed.look(), []);
            std::fs::write(&file, theirs).unwrap();
            let foreign = changed.look();
            assert_eq!(foreign.len(), usize::from(theirs != "1"));
            changed.set::<Error>(path, "1").unwrap();
            assert_eq!(read(path).as_deref(), Some(theirs), "it is not fought");
            let left = changed.restore::<Error>().unwrap().left;
            assert_eq!(left.len(), usize::from(theirs == "2"));
            assert_eq!(read(path).as_deref(), Some(again));
        }
    }

    /// Somebody who forwards by themselves sets `all`, which sets every interface: to our value.
    #[test]
    fn what_others_set_through_the_one_above_stays_also_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        let files = ["own", "all"].map(|name| dir.path().join(name));
        let [path, above] = files.each_ref().map(|file| file.to_str().unwrap());
        for killed in [false, true] {
            for file in &files {
                std::fs::write(file, "0\n").unwrap();
            }
            let mut changed = Changed::new(Some(journal.clone()), "test").unwrap();
            changed.set_below::<Error>(path, "1", above).unwrap();
            changed.set_below::<Error>(path, "1", above).unwrap();
            assert!(changed.is_ours(path) && changed.look().is_empty());
            std::fs::write(above, "1\n").unwrap();
            assert!(!changed.is_ours(path));
            let theirs = changed.look();
            assert_eq!(theirs.len(), 1);
            if killed {
                changed = Changed::new(Some(journal.clone()), "test").unwrap();
            }
            assert_eq!(changed.restore::<Error>().unwrap().left, theirs);
            assert_eq!(read(path).as_deref(), Some("1"));
            assert!(journal.is_empty());
        }
        std::fs::write(above, "0\n").unwrap();
        std::fs::write(path, "0\n").unwrap();
        let mut changed = Changed::new(Some(journal), "test").unwrap();
        changed.set_below::<Error>(path, "1", above).unwrap();
        changed.restore::<Error>().unwrap();
        assert_eq!(read(path).as_deref(), Some("0"));
    }

    /// Killed between the entry and the change: the former value is nobody else's.
    #[test]
    fn what_was_noted_and_not_done_is_done_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path().join("journal")).unwrap();
        let file = dir.path().join("forwarding");
        let path = file.to_str().unwrap();
        std::fs::write(&file, "0\n").unwrap();
        journal.set(&format!("sysctl:test:{path}"), "0 1").unwrap();
        let mut next = Changed::new(Some(journal), "test").unwrap();
        next.set::<Error>(path, "1").unwrap();
        assert_eq!(read(path).as_deref(), Some("1"));
        next.restore::<Error>().unwrap();
        assert_eq!(read(path).as_deref(), Some("0"));
    }
}
