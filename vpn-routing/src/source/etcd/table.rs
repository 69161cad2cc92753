//! Which rules are in force, by what etcd has: each entry is read by itself, and one that makes no sense
//! keeps its last good rules. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use vpn_core::rule::RuleSourceError;
use vpn_core::{RuleId, RuleSnapshot};

use crate::source::toml::TomlRules;

/// Entries in all; further ones are refused, and told.
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
    /// Something was left out for which there is no entry.
    left_out: Option<Arc<RuleSourceError>>,
    /// Something was left out for want of room.
    is_full: bool,
}

#[derive(Debug, Default)]
struct Entry {
    bytes: usize,
    good: RuleSnapshot,
    problem: Option<Arc<RuleSourceError>>,
}

impl Table {
    /// Whether there is no entry at all.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.left_out.is_none()
    }

    /// An entry was written.
    pub(super) fn written(&mut self, key: &[u8], value: &[u8]) {
        let Some(key) = self.room_for(key) else {
            return;
        };
        let known = self.entries.get(&key);
        let bytes = self.bytes - known.map_or(0, |entry| entry.bytes) + value.len();
        self.is_full |= bytes > MAX_BYTES;
        let read = match std::str::from_utf8(value) {
            _ if value.len() > MAX_ENTRY => Err(wrong(&key, TOO_LONG)),
            _ if bytes > MAX_BYTES => Err(wrong(&key, TOO_MANY)),
            Err(_) => Err(wrong(&key, "not UTF-8")),
            Ok(text) => TomlRules::parse(Path::new(&key), text).map_err(Into::into),
        };
        match read {
            Ok(good) => {
                self.bytes = bytes;
                let bytes = value.len();
                let problem = None;
                self.entries.insert(
                    key,
                    Entry {
                        bytes,
                        good,
                        problem,
                    },
                );
            }
            Err(problem) => self.broken(key, problem),
        }
    }

    /// An entry that is too long to be fetched.
    pub(super) fn skipped(&mut self, key: &[u8]) {
        if let Some(key) = self.room_for(key) {
            let problem = wrong(&key, TOO_LONG);
            self.broken(key, problem);
        }
    }

    /// Whether further entries would all be left out.
    pub(super) fn has_all_it_may(&self) -> bool {
        self.is_full && self.entries.len() >= MAX_ENTRIES
    }

    /// An entry was deleted. Whether there may be room now for what was left out: everything has to be
    /// loaded anew then.
    pub(super) fn deleted(&mut self, key: &[u8]) -> bool {
        let gone = self.entries.remove(&*String::from_utf8_lossy(key));
        self.bytes -= gone.as_ref().map_or(0, |entry| entry.bytes);
        gone.is_some() && self.is_full
    }

    /// This was made from all that etcd has; what makes no sense there keeps its last good rules of
    /// `before`. With these it may have twice [`MAX_BYTES`], and takes nothing more until it has less.
    pub(super) fn keeps(&mut self, mut before: Self) {
        for (key, entry) in &mut self.entries {
            let had = before.entries.get_mut(key);
            if entry.problem.is_some()
                && let Some(had) = had
            {
                entry.good = std::mem::take(&mut had.good);
                entry.bytes = had.bytes;
                self.bytes += had.bytes;
            }
        }
    }

    /// The key, if it is known or there is room for another.
    fn room_for(&mut self, key: &[u8]) -> Option<String> {
        let name = String::from_utf8_lossy(&key[..key.len().min(MAX_KEY)]).into_owned();
        if key.len() > MAX_KEY {
            self.left_out = Some(Arc::new(wrong(&name, "its key is longer than 1 KiB")));
            return None;
        }
        if !self.entries.contains_key(&name) && self.entries.len() >= MAX_ENTRIES {
            self.left_out = Some(Arc::new(wrong(&name, TOO_MANY)));
            self.is_full = true;
            return None;
        }
        Some(name)
    }

    fn broken(&mut self, key: String, problem: RuleSourceError) {
        self.entries.entry(key).or_default().problem = Some(Arc::new(problem));
    }

    /// All rules, those of later keys newer, numbered anew.
    pub(super) fn snapshot(&self) -> RuleSnapshot {
        let mut all = RuleSnapshot::default();
        for entry in self.entries.values() {
            all.rules.extend(entry.good.rules.iter().cloned());
            all.inbound.extend(entry.good.inbound.iter().cloned());
            all.filters.extend(entry.good.filters.iter().cloned());
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

    /// What is wrong with the first entry that is wrong.
    pub(super) fn problem(&self) -> Option<Arc<RuleSourceError>> {
        let entries = self.entries.values();
        let mut of_entry = entries.filter_map(|entry| entry.problem.clone());
        of_entry.next().or_else(|| self.left_out.clone())
    }

    /// Which entry a rule is of: its key, and its place among that entry's rules, from 1.
    pub(super) fn origin(&self, rule: RuleId) -> Option<(&str, u32)> {
        let place = rule.place_in_file()?.checked_sub(FIRST)?;
        let mut before = 0;
        for (key, entry) in &self.entries {
            let rules = u32::try_from(entry.good.rules.len()).ok()?;
            if place > before && place - before <= rules {
                return Some((key, place - before));
            }
            before += rules;
        }
        None
    }
}

const TOO_LONG: &str = "longer than 1 MiB";

const TOO_MANY: &str = "there are too many rules";

fn wrong(key: &str, problem: &str) -> RuleSourceError {
    RuleSourceError::Invalid {
        place: key.to_owned(),
        entry: "the entry".to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(uid: u32) -> String {
        format!("[[rule]]\nuid = {uid}\nto = \"uk\"\n")
    }

    fn write(table: &mut Table, key: &str, text: &str) {
        table.written(key.as_bytes(), text.as_bytes());
    }

    fn matches(table: &Table) -> Vec<String> {
        let rules = table.snapshot().rules;
        rules.iter().map(|rule| rule.matches.to_string()).collect()
    }

    #[test]
    fn rules_of_all_entries_are_in_force_in_the_order_of_keys() {
        let mut table = Table::default();
        write(&mut table, "r/b", &rule(2));
        write(&mut table, "r/a", &format!("{}{}", rule(0), rule(1)));
        let there = table.snapshot();
        assert_eq!(matches(&table).len(), 3);
        assert!(there.rules.is_sorted_by(|a, b| a.id < b.id));
        let origins: Vec<_> = there.rules.iter().map(|r| table.origin(r.id)).collect();
        assert_eq!(
            origins,
            [Some(("r/a", 1)), Some(("r/a", 2)), Some(("r/b", 1))]
        );
        assert!(RuleId::of_file(9999) < there.rules[0].id && there.rules[2].id < RuleId(1));
        assert_eq!(table.origin(RuleId(1)), None);
        table.deleted(b"r/a");
        assert_eq!(matches(&table).len(), 1);
        table.deleted(b"r/b");
        table.deleted(b"r/b");
        assert_eq!((matches(&table).len(), table.bytes), (0, 0));
    }

    #[test]
    fn an_entry_that_makes_no_sense_keeps_its_last_good_rules_and_is_told() {
        let mut table = Table::default();
        write(&mut table, "r/a", &rule(1));
        write(&mut table, "r/b", &rule(2));
        let before = matches(&table);
        for broken in ["[[rule]]\nuid = 1\n", "what", &rule(3).repeat(40_000)] {
            write(&mut table, "r/a", broken);
            assert_eq!(matches(&table), before);
            let said = table.problem().unwrap().to_string();
            assert!(said.contains("r/a"), "{said}");
        }
        table.written(b"r/a", b"\xff");
        assert!(table.problem().is_some());
        // Others go on meanwhile; the same whole.
        write(&mut table, "r/b", &rule(5));
        assert_ne!(matches(&table), before);
        let mut all = Table::default();
        write(&mut all, "r/a", "what");
        write(&mut all, "r/b", &rule(2));
        all.keeps(table);
        let mut table = all;
        assert_eq!(matches(&table), before);
        assert_eq!(table.bytes, rule(1).len() + rule(2).len());
        assert!(table.problem().is_some());
        write(&mut table, "r/a", &rule(1));
        assert!(table.problem().is_none());
    }

    #[test]
    fn there_is_a_bound_and_it_is_told() {
        let mut table = Table::default();
        for key in 0..MAX_ENTRIES + 10 {
            write(&mut table, &format!("r/{key:05}"), "");
        }
        assert_eq!(table.entries.len(), MAX_ENTRIES);
        assert!(table.problem().is_some());
        let mut table = Table::default();
        let long = format!("#{}", "x".repeat(MAX_ENTRY - 1));
        for key in 0..17 {
            write(&mut table, &format!("r/{key}"), &long);
        }
        assert_eq!(table.bytes, MAX_BYTES);
        assert!(table.problem().is_some());
        // Whoever follows loads everything anew when there is room again, and not before.
        assert!(!table.deleted(b"r/none") && table.deleted(b"r/3"));
        let mut table = Table::default();
        write(&mut table, "r/a", &rule(1));
        assert!(!table.deleted(b"r/a"));
    }

    #[test]
    fn what_is_too_long_is_told_and_not_kept() {
        let mut table = Table::default();
        write(&mut table, "r/a", &rule(1));
        table.skipped(b"r/a");
        assert_eq!(matches(&table).len(), 1);
        let said = table.problem().unwrap().to_string();
        assert!(said.contains("r/a") && said.contains("1 MiB"), "{said}");
        let mut table = Table::default();
        write(&mut table, &"k".repeat(MAX_KEY + 1), &rule(1));
        assert_eq!(table.entries.len(), 0);
        let said = table.problem().unwrap().to_string();
        assert!(said.contains("key") && said.len() < 2 * MAX_KEY, "{said}");
    }
}
