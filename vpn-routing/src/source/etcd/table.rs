//! Which rules are in force, by what etcd has: each entry is read by itself, and one that makes no sense
//! keeps its last good rules. Pure.
//!
//! Of more entries than there is room for, those that were there before go on, and newcomers are left out:
//! nobody takes rules out of force by writing others.

use std::collections::BTreeMap;
use std::sync::Arc;

use vpn_core::rule::RuleSourceError;
use vpn_core::{RuleId, RuleSnapshot};

use super::past::Past;
use super::text::Said;

/// Entries in all; further ones are left out, and told.
pub(super) const MAX_ENTRIES: usize = 4096;

/// Longest entry, in bytes: etcd takes none that is longer, unless it is told to.
pub(super) const MAX_ENTRY: usize = 1 << 20;

/// Bytes of all entries together, as for a file.
pub(super) const MAX_BYTES: usize = 16 << 20;

/// Where the numbers of these rules begin: behind those of any file's, so that both can be layers of one
/// source, and before those that were added by hand.
const FIRST: u32 = 1 << 31;

/// Longest key, in bytes: keys are kept beside the rules, and told with what is wrong.
pub(super) const MAX_KEY: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<String, Entry>,
    bytes: usize,
    /// Bytes of the texts that are to be read again.
    held: usize,
    /// Something was left out for which there is no entry.
    left_out: Option<Arc<RuleSourceError>>,
    /// Something was left out for want of room.
    is_full: bool,
}

#[derive(Debug, Default)]
struct Entry {
    /// When it was written: etcd's revision.
    written: i64,
    /// Of the text whose rules are in force.
    bytes: usize,
    /// `None` if no text of it could ever be read.
    good: Option<RuleSnapshot>,
    problem: Option<Arc<RuleSourceError>>,
    /// The text, if it is to be read again.
    again: Option<Arc<str>>,
    /// Its text was left out for want of room.
    is_left_out: bool,
}

impl Table {
    /// Whether there is no entry at all.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.left_out.is_none()
    }

    /// An entry was written. Whether there may be room now for what was left out: everything has to be
    /// loaded anew then.
    pub(super) fn written(&mut self, key: &[u8], written: i64, said: Said) -> bool {
        let Some(key) = self.room_for(key) else {
            return false;
        };
        let before = self.entries.get(&key);
        let had = before.map_or(0, |entry| entry.bytes);
        let was_left_out = before.is_some_and(|entry| entry.is_left_out);
        let bytes = self.bytes - had + said.bytes;
        // What cannot be read takes no room.
        let fits = said.rules.is_none() || bytes <= MAX_BYTES;
        self.is_full |= !fits;
        let too_many = || Arc::new(wrong(&key, TOO_MANY));
        let problem = match fits {
            true => said.problem,
            false => Some(too_many()),
        };
        let good = said.rules.filter(|_| fits);
        let again = said.again.filter(|_| fits);
        let entry = self.noted(key, written, problem, again);
        entry.is_left_out = !fits;
        let mut has_room = was_left_out && fits;
        if good.is_some() {
            (entry.good, entry.bytes, self.bytes) = (good, said.bytes, bytes);
            has_room |= said.bytes < had;
        }
        self.is_full && has_room
    }

    /// An entry that is too long to be fetched.
    pub(super) fn skipped(&mut self, key: &[u8], written: i64) {
        if let Some(key) = self.room_for(key) {
            let problem = Some(Arc::new(wrong(&key, TOO_LONG)));
            self.noted(key, written, problem, None);
        }
    }

    fn noted(
        &mut self,
        key: String,
        written: i64,
        problem: Option<Arc<RuleSourceError>>,
        again: Option<Arc<str>>,
    ) -> &mut Entry {
        let entry = self.entries.entry(key).or_default();
        self.held -= held(entry);
        // What is not held is read when it is written, or loaded.
        entry.again = again.filter(|text| self.held + text.len() <= MAX_BYTES);
        self.held += held(entry);
        (entry.written, entry.problem) = (written, problem);
        entry
    }

    /// Whether something was left out for want of room.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// An entry was deleted. Whether there may be room now for what was left out: everything has to be
    /// loaded anew then.
    pub(super) fn deleted(&mut self, key: &[u8]) -> bool {
        let Ok(name) = name_of(key) else {
            return self.left_out.is_some();
        };
        let gone = self.entries.remove(name);
        if let Some(entry) = &gone {
            self.bytes -= entry.bytes;
            self.held -= held(entry);
        }
        // What was left out has no entry: it may be this one.
        (gone.is_some() && self.is_full) || (gone.is_none() && self.left_out.is_some())
    }

    /// All that etcd has: of the entries that were there before, and of newcomers. What makes no sense
    /// keeps its last good rules of `before`; with these it may have twice [`MAX_BYTES`], and takes
    /// nothing more until it has less.
    pub(super) fn after(mut before: Self, there: Self, newcomers: Self) -> Self {
        let mut all = there;
        for (key, entry) in &mut all.entries {
            if let (None, Some(had)) = (&entry.good, before.entries.get_mut(key)) {
                entry.good = had.good.take();
                entry.bytes = had.bytes;
                all.bytes += had.bytes;
            }
        }
        all.is_full |= newcomers.is_full;
        all.left_out = all.left_out.or(newcomers.left_out);
        for (key, mut entry) in newcomers.entries {
            if all.room_for(key.as_bytes()).is_none() {
                continue;
            }
            if all.bytes + entry.bytes > MAX_BYTES {
                all.is_full = true;
                entry = Entry {
                    written: entry.written,
                    problem: Some(Arc::new(wrong(&key, TOO_MANY))),
                    is_left_out: true,
                    ..Entry::default()
                };
            }
            all.bytes += entry.bytes;
            all.held += held(&entry);
            all.entries.insert(key, entry);
        }
        all
    }

    /// The keys of all entries.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    /// How many entries there are.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether etcd had these entries then, as far as their number and the newest of them tell.
    pub(super) fn is_as(&self, past: &Past) -> bool {
        let newest = self.entries.values().map(|entry| entry.written).max();
        let (key, written) = &past.newest;
        let named = name_of(key).ok().and_then(|key| self.entries.get(key));
        past.entries == self.entries.len()
            && newest == Some(*written)
            && named.is_some_and(|entry| entry.written == *written)
    }

    /// What could never be read, or was left out: nobody knows what it would forbid.
    pub(super) fn unknown(&self) -> Option<Arc<RuleSourceError>> {
        let unread = self.entries.values().filter(|entry| entry.good.is_none());
        let mut of_entry = unread.filter_map(|entry| entry.problem.clone());
        of_entry.next().or_else(|| self.left_out.clone())
    }

    /// The texts that are to be read again.
    pub(super) fn texts_to_read_again(&self) -> Vec<(String, Arc<str>)> {
        let texts = self.entries.iter();
        let again = texts.filter_map(|(key, entry)| Some((key.clone(), entry.again.clone()?)));
        again.collect()
    }

    /// What a text says that was read again. Whether that is something else, and whether there may be room
    /// now as when it is [`written`](Self::written).
    pub(super) fn read_again(&mut self, key: &str, text: &Arc<str>, said: Said) -> (bool, bool) {
        let Some(entry) = self.entries.get_mut(key) else {
            return (false, false);
        };
        // It may have been written meanwhile.
        if !entry
            .again
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, text))
        {
            return (false, false);
        }
        let is_other = match &said.rules {
            Some(_) => said.rules != entry.good || said.again.is_none(),
            None => said.again.is_none(),
        };
        let written = entry.written;
        (is_other, self.written(key.as_bytes(), written, said))
    }

    /// The key, if it is known or there is room for another.
    fn room_for(&mut self, key: &[u8]) -> Option<String> {
        let name = match name_of(key) {
            Ok(name) => name,
            Err(problem) => {
                let begin = String::from_utf8_lossy(&key[..key.len().min(MAX_KEY)]);
                self.left_out = Some(Arc::new(wrong(&begin, problem)));
                return None;
            }
        };
        if !self.entries.contains_key(name) && self.entries.len() >= MAX_ENTRIES {
            self.left_out = Some(Arc::new(wrong(name, TOO_MANY)));
            self.is_full = true;
            return None;
        }
        Some(name.to_owned())
    }

    /// All rules, those of later keys newer, numbered anew.
    pub(super) fn snapshot(&self) -> RuleSnapshot {
        let mut all = RuleSnapshot::default();
        for good in self
            .entries
            .values()
            .filter_map(|entry| entry.good.as_ref())
        {
            all.rules.extend(good.rules.iter().cloned());
            all.inbound.extend(good.inbound.iter().cloned());
            all.filters.extend(good.filters.iter().cloned());
        }
        let number = |at: usize| RuleId::of_file(FIRST | u32::try_from(at + 1).unwrap_or(u32::MAX));
        for (at, rule) in all.rules.iter_mut().enumerate() {
            rule.id = number(at);
        }
        for (at, rule) in all.inbound.iter_mut().enumerate() {
            rule.id = number(at);
        }
        for (at, rule) in all.filters.iter_mut().enumerate() {
            rule.id = number(at);
        }
        all
    }

    /// What is wrong: with the first entry that is wrong; that something was left out; or that a user is
    /// not on this host, which may well be so for long, and hides nothing worse.
    pub(super) fn problem(&self) -> Option<Arc<RuleSourceError>> {
        let first = |is_of_users| {
            let of = move |entry: &&Entry| {
                (entry.again.is_some() && entry.good.is_some()) == is_of_users
            };
            let mut entries = self.entries.values().filter(of);
            entries.find_map(|entry| entry.problem.clone())
        };
        first(false)
            .or_else(|| self.left_out.clone())
            .or_else(|| first(true))
    }

    /// Which entry a rule is of: its key, and its place among that entry's rules, from 1.
    pub(super) fn origin(&self, rule: RuleId) -> Option<(&str, u32)> {
        let place = rule.place_in_file()?.checked_sub(FIRST)?;
        let mut before = 0;
        for (key, entry) in &self.entries {
            let good = entry.good.as_ref().map_or(0, |good| good.rules.len());
            let rules = u32::try_from(good).ok()?;
            if place > before && place - before <= rules {
                return Some((key, place - before));
            }
            before += rules;
        }
        None
    }
}

fn held(entry: &Entry) -> usize {
    entry.again.as_ref().map_or(0, |text| text.len())
}

pub(super) const TOO_LONG: &str = "longer than 1 MiB";

const TOO_MANY: &str = "there are too many rules";

/// The key as a text, or why it is none of ours.
pub(super) fn name_of(key: &[u8]) -> Result<&str, &'static str> {
    if key.len() > MAX_KEY {
        return Err("its key is longer than 1 KiB");
    }
    std::str::from_utf8(key).map_err(|_| "its key is not UTF-8")
}

pub(super) fn wrong(key: &str, problem: &str) -> RuleSourceError {
    RuleSourceError::Invalid {
        place: key.to_owned(),
        entry: "the entry".to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests;
