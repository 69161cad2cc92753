//! Finds the tables of rules in a file, and their keys and values with their lines.

use std::path::Path;
use std::str::FromStr;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};
use vpn_core::{RuleId, RuleSnapshot};

use super::entry;
use super::error::TomlError;

/// What keys at top level are that are not about rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// Errors.
    Unknown,
    /// Somebody else's.
    Ignored,
}

const TABLES: [&str; 3] = ["rule", "inbound", "filter"];

/// Who a user is, by name; or what is wrong with it.
pub(super) type Users<'a> = &'a dyn Fn(&str) -> Result<u32, String>;

/// All rules of a file's text.
pub(super) fn parse(path: &Path, text: &str, others: Others) -> Result<RuleSnapshot, TomlError> {
    let known =
        |user: &str| entry::uid_of(user)?.ok_or_else(|| format!("there is no user {user:?}"));
    parse_with(path, text, others, &known)
}

/// The same, with users as somebody else knows them.
pub(super) fn parse_with(
    path: &Path,
    text: &str,
    others: Others,
    users: Users<'_>,
) -> Result<RuleSnapshot, TomlError> {
    let file = File { path, text, users };
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        file.syntax(at, error.message().replace('\n', " "))
    })?;
    let mut snapshot = RuleSnapshot::default();
    for (key, value) in document.get_ref().iter() {
        let name = key.get_ref().as_ref();
        match TABLES.into_iter().find(|table| *table == name) {
            Some("rule") => snapshot.rules = file.tables("rule", value, entry::rule)?,
            Some("inbound") => snapshot.inbound = file.tables("inbound", value, entry::inbound)?,
            Some(_) => snapshot.filters = file.tables("filter", value, entry::filter)?,
            None if others == Others::Ignored => {}
            None => {
                let message = format!("unknown key {name:?}, expected {}", list(&TABLES));
                return Err(file.syntax(key.span().start, message));
            }
        }
    }
    Ok(snapshot)
}

/// Names as serde lists them.
fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("one of {}", quoted.join(", "))
}

#[derive(Clone, Copy)]
struct File<'a> {
    path: &'a Path,
    text: &'a str,
    users: Users<'a>,
}

impl<'a> File<'a> {
    fn line(self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    fn syntax(self, offset: usize, message: String) -> TomlError {
        TomlError::Syntax {
            path: self.path.into(),
            line: self.line(offset),
            message,
        }
    }

    /// Every table of one kind, in order.
    fn tables<T>(
        self,
        name: &'static str,
        value: &Spanned<DeValue<'_>>,
        read: impl Fn(&Table<'_>) -> Result<T, TomlError>,
    ) -> Result<Vec<T>, TomlError> {
        let wrong = |at: &Spanned<DeValue<'_>>| {
            let kind = at.get_ref().type_str();
            let message = format!("{name} is a list of tables, written [[{name}]], not {kind}");
            self.syntax(at.span().start, message)
        };
        let entries = value.get_ref().as_array().ok_or_else(|| wrong(value))?;
        let read = |(place, entry): (u32, &Spanned<DeValue<'_>>)| {
            let entries = entry.get_ref().as_table().ok_or_else(|| wrong(entry))?;
            read(&Table {
                file: self,
                name,
                place,
                at: entry.span().start,
                entries,
            })
        };
        (1..).zip(entries.iter()).map(read).collect()
    }
}

/// One table: its keys are asked by name, and what is wrong with one is said with its line.
pub(super) struct Table<'a> {
    file: File<'a>,
    name: &'static str,
    place: u32,
    at: usize,
    entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    pub(super) fn id(&self) -> RuleId {
        RuleId::of_file(self.place)
    }

    /// Whether there are only these keys.
    pub(super) fn knows(&self, keys: &[&str]) -> Result<(), TomlError> {
        let unknown = |key: &&Spanned<_>| {
            let key: &Spanned<std::borrow::Cow<'_, str>> = key;
            !keys.contains(&key.get_ref().as_ref())
        };
        match self.entries.keys().find(unknown) {
            None => Ok(()),
            Some(key) => {
                let problem = format!("unknown key, expected {}", list(keys));
                Err(self.entry(key.span().start, key.get_ref(), problem))
            }
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A text, if the key is there.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, TomlError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.get_ref().as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(self.wrong_type(key, value, "a text in quotes")),
        }
    }

    /// What `read` makes of a text.
    pub(super) fn with<T, E: ToString>(
        &self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, TomlError> {
        let text = self.text(key)?;
        text.map(|text| read(text).map_err(|error| self.wrong(key, error.to_string())))
            .transpose()
    }

    /// A user's number, if the key is there.
    pub(super) fn user(&self, key: &str) -> Result<Option<u32>, TomlError> {
        self.with(key, self.file.users)
    }

    /// A value of a text that says itself how it is read.
    pub(super) fn parsed<T: FromStr<Err: ToString>>(
        &self,
        key: &str,
    ) -> Result<Option<T>, TomlError> {
        self.with(key, str::parse)
    }

    /// A value that may be written as a number or as a text.
    pub(super) fn number_or_text<T: FromStr<Err: ToString>>(
        &self,
        key: &str,
    ) -> Result<Option<T>, TomlError> {
        match self.get(key).map(Spanned::get_ref) {
            Some(DeValue::Integer(number)) if number.radix() == 10 => {
                let digits = number.as_str().replace('_', "");
                let parsed = digits.trim_start_matches('+').parse();
                parsed
                    .map(Some)
                    .map_err(|error: T::Err| self.wrong(key, error.to_string()))
            }
            _ => self.parsed(key),
        }
    }

    /// A whole number within the bounds of its type.
    pub(super) fn number<T: TryFrom<i64>>(&self, key: &str) -> Result<Option<T>, TomlError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let DeValue::Integer(number) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "a number"));
        };
        let parsed = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
        match parsed.ok().and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, format!("{} is out of range", number.as_str()))),
        }
    }

    /// Yes or no, if the key is there.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, TomlError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.get_ref().as_bool() {
            Some(flag) => Ok(Some(flag)),
            None => Err(self.wrong_type(key, value, "true or false")),
        }
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, TomlError> {
        value.ok_or_else(|| self.entry(self.at, key, "missing".to_owned()))
    }

    /// What is wrong with the value of a key.
    pub(super) fn wrong(&self, key: &str, problem: impl Into<String>) -> TomlError {
        let at = self.get(key).map_or(self.at, |value| value.span().start);
        self.entry(at, key, problem.into())
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, right: &str) -> TomlError {
        let kind = value.get_ref().type_str();
        self.wrong(key, format!("{kind} in place of {right}"))
    }

    fn entry(&self, at: usize, key: &str, problem: String) -> TomlError {
        TomlError::Entry {
            path: self.file.path.into(),
            line: self.file.line(at),
            table: self.name,
            place: self.place,
            key: key.to_owned(),
            problem,
        }
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        let mut entries = self.entries.iter();
        entries.find_map(|(name, value)| (name.get_ref().as_ref() == key).then_some(value))
    }
}
