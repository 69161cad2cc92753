//! Touches the packet filter, through the `nft` program: a whole ruleset in, all of it or nothing.
//!
//! The program is asked rather than the kernel because nobody offers the protocol as a library
//! under a licence of ours. It reads JSON (libnftables-json(5)) from its standard input, and makes
//! one transaction of it: no packet meets half a table.

mod generation;

use std::fmt;
use std::io;

use serde_json::{Value, json};

use crate::foreign::ForeignChange;
use crate::journal::{Journal, JournalError};
use crate::program;

/// What the journal's entries begin with; family and name follow.
const PREFIX: &str = "nft:";

/// Families of our tables.
const FAMILIES: [&str; 2] = ["inet", "arp"];

/// Characters of its complaint that an error repeats.
const MAX_COMPLAINT: usize = 400;

/// Why the packet filter does not look as wanted. What was there before is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NftError {
    /// No such program. Install the package `nftables`.
    #[error("the program nft is missing: install nftables")]
    Missing,
    /// It could not be run, or did not end.
    #[error("cannot run nft")]
    Io(#[source] io::Error),
    /// It refused: no permission, or a kernel without what is asked for.
    #[error("nft refuses: {0}")]
    Refused(String),
}

/// A table of ours: family and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: &'static str,
    pub(crate) name: String,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

impl Table {
    /// Commands after which the table is there and empty, whatever was before.
    pub(crate) fn anew(&self) -> [Value; 3] {
        let table = self.named();
        // Deleting what isn't there is an error, so it is added first.
        [
            json!({"add": {"table": table}}),
            json!({"delete": {"table": table}}),
            json!({"add": {"table": table}}),
        ]
    }

    /// Commands after which the table is not there, whatever was before.
    pub(crate) fn gone(&self) -> [Value; 2] {
        let table = self.named();
        [
            json!({"add": {"table": table}}),
            json!({"delete": {"table": table}}),
        ]
    }

    /// Adds a chain at a hook. What no rule decides is accepted.
    pub(crate) fn chain(&self, kind: &str, hook: &str, priority: i32) -> Value {
        json!({"add": {"chain": {
            "family": self.family, "table": self.name, "name": hook,
            "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        }}})
    }

    /// Adds a rule at the end of a chain.
    pub(crate) fn rule(&self, chain: &str, expr: Vec<Value>) -> Value {
        json!({"add": {"rule": {
            "family": self.family, "table": self.name, "chain": chain, "expr": expr,
        }}})
    }

    /// Adds a counter, for rules to count by.
    pub(crate) fn counter(&self, name: &str) -> Value {
        json!({"add": {"counter": {"family": self.family, "table": self.name, "name": name}}})
    }

    /// How many packets a counter has seen.
    pub(crate) async fn packets(&self, counter: &str) -> Result<u64, NftError> {
        let name = json!({"family": self.family, "table": self.name, "name": counter});
        let told = ask(vec![json!({"list": {"counter": name}})]).await?;
        let told: Value = serde_json::from_slice(&told).unwrap_or_default();
        let listed = told["nftables"].as_array().into_iter().flatten();
        let mut packets = listed.filter_map(|item| item["counter"]["packets"].as_u64());
        let missing = || NftError::Refused("it does not say what it counted".to_owned());
        packets.next().ok_or_else(missing)
    }

    fn key(&self) -> String {
        format!("{PREFIX}{}:{}", self.family, self.name)
    }

    fn named(&self) -> Value {
        json!({"family": self.family, "name": self.name})
    }
}

pub(crate) fn accept() -> Value {
    json!({"accept": null})
}

pub(crate) fn drop() -> Value {
    json!({"drop": null})
}

/// Counts by a counter of the table.
pub(crate) fn count(counter: &str) -> Value {
    json!({"counter": counter})
}

/// `left op right`.
pub(crate) fn matches(left: Value, op: &str, right: Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

pub(crate) fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

pub(crate) fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

/// What kind of address a packet is for, to the interface by which it comes: `local` is one of
/// that interface alone.
pub(crate) fn kind_here() -> Value {
    json!({"fib": {"result": "type", "flags": ["daddr", "iif"]}})
}

/// One of these.
pub(crate) fn set(elements: Vec<Value>) -> Value {
    json!({"set": elements})
}

/// Runs commands as one transaction.
pub(crate) async fn run(commands: Vec<Value>) -> Result<(), NftError> {
    ask(commands).await.map(std::mem::drop)
}

/// Runs commands as one transaction: what they list.
async fn ask(commands: Vec<Value>) -> Result<Vec<u8>, NftError> {
    let ruleset = json!({"nftables": commands}).to_string();
    let output = match program::run("nft", &["-j", "-f", "-"], ruleset.as_bytes()).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NftError::Missing),
        result => result.map_err(NftError::Io)?,
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.lines().next().unwrap_or_default();
    Err(NftError::Refused(
        complaint.chars().take(MAX_COMPLAINT).collect(),
    ))
}

/// The tables of this kind that the journal says were made.
pub(crate) fn noted(journal: &Journal, kind: &str) -> Vec<Table> {
    let entries = journal.with_prefix(PREFIX).into_iter();
    let of_kind = entries.filter(|(_, noted)| noted == kind);
    let named = of_kind.filter_map(|(key, _)| {
        let (family, name) = key.split_once(':')?;
        let family = FAMILIES.into_iter().find(|known| *known == family)?;
        let name = name.to_owned();
        Some(Table { family, name })
    });
    named.collect()
}

/// Removes tables that a former run made: those that were there. They leave the journal.
pub(crate) async fn remove_noted(
    journal: &Journal,
    tables: &[Table],
) -> Result<Vec<Table>, RemoveError> {
    let mut removed = Vec::new();
    for table in tables {
        if listing(table).await?.is_some() {
            run(table.gone().into()).await?;
            removed.push(table.clone());
        }
        journal.remove(&table.key())?;
    }
    Ok(removed)
}

/// Why a table of a former run stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    #[error(transparent)]
    Filter(#[from] NftError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Tables of one owner: written down before they are made, and compared with what they were.
#[derive(Debug)]
pub(crate) struct Tables {
    journal: Option<Journal>,
    kind: &'static str,
    /// How they look; `None` as long as that could not be read.
    seen: Vec<(Table, Option<String>)>,
    /// The ruleset that was compared last (`NFT_MSG_GETGEN`).
    generation: Option<u32>,
    /// The ruleset in which all of them were there.
    complete: Option<u32>,
}

impl Tables {
    /// `kind` tells them from others in the journal.
    pub(crate) const fn new(journal: Option<Journal>, kind: &'static str) -> Self {
        Self {
            journal,
            kind,
            seen: Vec::new(),
            generation: None,
            complete: None,
        }
    }

    /// Writes down that these are about to be made.
    pub(crate) fn note(&mut self, tables: &[Table]) -> Result<(), JournalError> {
        for table in tables {
            if let Some(journal) = &self.journal {
                journal.set(&table.key(), self.kind)?;
            }
        }
        Ok(())
    }

    /// They are made, or made anew: learns how they look.
    pub(crate) async fn made(&mut self, tables: &[Table]) {
        self.generation = None;
        self.complete = None;
        self.seen.clear();
        for table in tables {
            // What cannot be read now is learned by the next look.
            let seen = listing(table).await.ok().flatten();
            self.seen.push((table.clone(), seen));
        }
    }

    /// They are gone.
    pub(crate) fn gone(&mut self, tables: &[Table]) -> Result<(), JournalError> {
        self.seen.clear();
        for table in tables {
            if let Some(journal) = &self.journal {
                journal.remove(&table.key())?;
            }
        }
        Ok(())
    }

    /// Whether somebody removed one of them since. What cannot be asked is taken as there.
    pub(crate) async fn lost(&mut self) -> bool {
        let generation = generation::now();
        if generation.is_some() && generation == self.complete {
            return false;
        }
        for (table, _) in &self.seen {
            if matches!(listing(table).await, Ok(None)) {
                return true;
            }
        }
        self.complete = generation;
        false
    }

    /// What others changed.
    pub(crate) async fn look(&mut self) -> Vec<ForeignChange> {
        let generation = generation::now();
        let same = generation.is_some() && generation == self.generation;
        let mut found = Vec::new();
        for (table, seen) in &mut self.seen {
            if !same {
                let Ok(now) = listing(table).await else {
                    continue;
                };
                match (&seen, now) {
                    (None, Some(now)) => *seen = Some(now),
                    (Some(before), Some(now)) if *before == now => {}
                    (_, now) => found.push(ForeignChange::Table {
                        name: table.to_string(),
                        removed: now.is_none(),
                    }),
                }
            }
        }
        if found.is_empty() {
            self.generation = generation;
        }
        found
    }
}

/// A table as nft(8) shows it, without what it counted, if it is there.
async fn listing(table: &Table) -> Result<Option<String>, NftError> {
    let arguments = ["-a", "-s", "list", "table", table.family, &table.name];
    let output = match program::run("nft", &arguments, b"").await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NftError::Missing),
        result => result.map_err(NftError::Io)?,
    };
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then_some(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_says_why() {
        assert!(NftError::Missing.to_string().contains("install nftables"));
        // Nothing that any system could do.
        match run(vec![json!({"add": {"nonsense": {}}})]).await {
            Err(NftError::Refused(complaint)) => assert!(!complaint.is_empty()),
            Err(NftError::Missing) => {}
            other => panic!("{other:?}"),
        }
    }
}
