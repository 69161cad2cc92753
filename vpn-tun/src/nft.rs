//! Touches the packet filter, through the `nft` program: a whole ruleset in, all of it or nothing.
//!
//! The program is asked rather than the kernel because nobody offers the protocol as a library
//! under a licence of ours. It reads JSON (libnftables-json(5)) from its standard input, and makes
//! one transaction of it: no packet meets half a table.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where else the program is, when `PATH` of a daemon leaves the system's folders out.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// How long it may take. It works for some milliseconds; longer, the kernel is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

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
    let folders = FOLDERS.iter().map(|folder| format!("{folder}/nft"));
    let mut child = spawn(std::iter::once("nft".to_owned()).chain(folders))?;
    let feeding = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read to the end says why, below.
            let _ = stdin.write_all(ruleset.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, feeding)
        .await
        .map_err(|_| NftError::Io(io::ErrorKind::TimedOut.into()))?
        .map_err(NftError::Io)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.lines().next().unwrap_or_default();
    Err(NftError::Refused(
        complaint.chars().take(MAX_COMPLAINT).collect(),
    ))
}

/// The child is forked from this thread, and so works in its network namespace.
fn spawn(names: impl Iterator<Item = String>) -> Result<tokio::process::Child, NftError> {
    for name in names {
        let child = Command::new(name)
            .args(["-j", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        match child {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(NftError::Io(e)),
            Ok(child) => return Ok(child),
        }
    }
    Err(NftError::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_and_a_refusal_are_told_apart() {
        let nowhere = ["no-such-nft", "/nonexistent/nft"].map(str::to_owned);
        let error = spawn(nowhere.into_iter()).map(std::mem::drop).unwrap_err();
        assert!(matches!(error, NftError::Missing), "{error}");
        assert!(error.to_string().contains("install nftables"));
        // Nothing that any system could do.
        match run(vec![json!({"add": {"nonsense": {}}})]).await {
            Err(NftError::Refused(complaint)) => assert!(!complaint.is_empty()),
            Err(NftError::Missing) => {}
            other => panic!("{other:?}"),
        }
    }
}
