//! Adds and removes rules. For a command line: these functions block.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::PoisonError;

use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use vpn_core::{Action, OwnerMatch, RuleId, RuleMatch};

use super::{SqliteError, SqliteRules};

/// `IS` and not `=`: a column that is not set matches one that is not set.
const SAME: &str = "uid IS ?1 AND exe IS ?2 AND dst IS ?3
                    AND port_first IS ?4 AND port_last IS ?5 AND proto IS ?6";

impl SqliteRules {
    /// Adds a rule, in place of the one with the same match if there is one. The new id is larger
    /// than any before. Blocks up to [`BUSY_TIMEOUT`](super::BUSY_TIMEOUT) and the time to write.
    ///
    /// Give the canonical path of an executable: rules are compared with what the kernel says.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or the rule says something this version cannot store.
    pub fn add(&self, matches: &RuleMatch, action: &Action) -> Result<RuleId, SqliteError> {
        let mut values = columns(&self.path, matches)?;
        let (kind, tunnel) = match action {
            Action::Tunnel(name) => ("tunnel", Value::Text(name.clone())),
            Action::Direct => ("direct", Value::Null),
            Action::Block => ("block", Value::Null),
            _ => return Err(self.unsupported("the action")),
        };
        let sql = "INSERT INTO rules
                   (uid, exe, dst, port_first, port_last, proto, action, tunnel)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        self.write(|connection| {
            connection.execute(
                &format!("DELETE FROM rules WHERE {SAME}"),
                params_from_iter(&values),
            )?;
            values.extend([Value::Text(kind.into()), tunnel]);
            connection.execute(sql, params_from_iter(&values))?;
            Ok(RuleId(connection.last_insert_rowid().unsigned_abs()))
        })
    }

    /// Removes the rule with exactly this match; answers how many there were (0 or 1, unless
    /// another program wrote duplicates). Blocks like [`add`](Self::add).
    ///
    /// # Errors
    ///
    /// Like [`add`](Self::add).
    pub fn remove(&self, matches: &RuleMatch) -> Result<usize, SqliteError> {
        let values = columns(&self.path, matches)?;
        self.write(|connection| {
            connection.execute(
                &format!("DELETE FROM rules WHERE {SAME}"),
                params_from_iter(&values),
            )
        })
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, SqliteError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.follow()?;
        let result = file
            .connection_mut()
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let result = change(&transaction)?;
                transaction.commit()?;
                Ok(result)
            });
        result.map_err(SqliteError::at(&self.path))
    }

    fn unsupported(&self, what: &'static str) -> SqliteError {
        let path = self.path.clone();
        SqliteError::Unsupported { path, what }
    }
}

/// The columns that make up a match, in the order of [`SAME`].
fn columns(path: &Path, matches: &RuleMatch) -> Result<Vec<Value>, SqliteError> {
    let (uid, exe) = match &matches.owner {
        None => (Value::Null, Value::Null),
        Some(OwnerMatch::Uid(uid)) => (Value::Integer(i64::from(*uid)), Value::Null),
        Some(OwnerMatch::Executable(path)) => {
            let exe = match path.to_str() {
                Some(text) => Value::Text(text.into()),
                None => Value::Blob(path.as_os_str().as_bytes().into()),
            };
            (Value::Null, exe)
        }
        Some(_) => {
            return Err(SqliteError::Unsupported {
                path: path.into(),
                what: "its kind of owner",
            });
        }
    };
    let or_null = |value: Option<Value>| value.unwrap_or(Value::Null);
    let port = |port: u16| Value::Integer(i64::from(port));
    Ok(vec![
        uid,
        exe,
        or_null(
            matches
                .destination
                .map(|net| Value::Text(net.trunc().to_string())),
        ),
        or_null(matches.ports.map(|ports| port(ports.first()))),
        or_null(matches.ports.map(|ports| port(ports.last()))),
        or_null(matches.protocol.map(|p| Value::Text(p.to_string()))),
    ])
}
