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

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<String, Entry>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Entry {
    bytes: usize,
    good: RuleSnapshot,
    problem: Option<Arc<RuleSourceError>>,
}

impl Table {
    /// An entry was written.
    pub(super) fn written(&mut self, key: &[u8], value: &[u8]) {
        let key = String::from_utf8_lossy(key).into_owned();
        let known = self.entries.get(&key);
        let bytes = self.bytes - known.map_or(0, |entry| entry.bytes) + value.len();
        let full = known.is_none() && self.entries.len() >= MAX_ENTRIES;
        let read = match std::str::from_utf8(value) {
            _ if full || bytes > MAX_BYTES => Err(wrong(&key, "there are too many rules")),
            _ if value.len() > MAX_ENTRY => Err(wrong(&key, "longer than 1 MiB")),
            Err(_) => Err(wrong(&key, "not UTF-8")),
            Ok(text) => TomlRules::parse(Path::new(&key), text).map_err(Into::into),
        };
        match read {
            Ok(good) => {
                self.bytes = bytes;
                let bytes = value.len();
                self.entries.insert(
                    key,
                    Entry {
                        bytes,
                        good,
                        problem: None,
                    },
                );
            }
            // Beyond the bound there is no room for its problem either, but for one.
            Err(problem) if full => {
                let last = self.entries.values_mut().next_back();
                last.into_iter().for_each(|entry| {
                    entry
                        .problem
                        .get_or_insert_with(|| Arc::new(problem_of(&problem)));
                });
            }
            Err(problem) => {
                self.entries.entry(key).or_default().problem = Some(Arc::new(problem));
            }
        }
    }

    /// An entry was deleted.
    pub(super) fn deleted(&mut self, key: &[u8]) {
        let gone = self.entries.remove(&*String::from_utf8_lossy(key));
        self.bytes -= gone.map_or(0, |entry| entry.bytes);
    }

    /// Replaces everything. What makes no sense keeps its last good rules here, too.
    pub(super) fn load<'a>(&mut self, all: &[(&'a [u8], &'a [u8])]) {
        let there = |key: &String| all.iter().any(|(there, _)| *there == key.as_bytes());
        let gone: Vec<String> = self
            .entries
            .keys()
            .filter(|key| !there(key))
            .cloned()
            .collect();
        for key in gone {
            self.deleted(key.as_bytes());
        }
        for (key, value) in all {
            self.written(key, value);
        }
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
        self.entries
            .values()
            .find_map(|entry| entry.problem.clone())
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

fn wrong(key: &str, problem: &str) -> RuleSourceError {
    RuleSourceError::Invalid {
        place: key.to_owned(),
        entry: "the entry".to_owned(),
        problem: problem.to_owned(),
    }
}

/// The same, for another owner: errors cannot be copied.
fn problem_of(problem: &RuleSourceError) -> RuleSourceError {
    match problem {
        RuleSourceError::Invalid {
            place,
            entry,
            problem,
        } => RuleSourceError::Invalid {
            place: place.clone(),
            entry: entry.clone(),
            problem: problem.clone(),
        },
        _ => wrong("etcd", "there are too many rules"),
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
        let (a, b) = (b"what".as_slice(), rule(2));
        table.load(&[(b"r/a", a), (b"r/b", b.as_bytes())]);
        assert_eq!(matches(&table), before);
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
    }
}
