//! Adds and removes rules. For a command line: these functions block.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::PoisonError;

use ipnet::IpNet;
use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use vpn_core::{Action, OnChange, OnDown, OwnerMatch, PortRange, RuleId, RuleMatch};

use super::{SqliteError, SqliteRules, file};

/// `IS` and not `=`: a column that is not set matches one that is not set.
const SAME: &str = "uid IS ?1 AND exe IS ?2 AND cgroup IS ?3 AND package IS ?4
                    AND src IS ?5 AND iif IS ?6 AND dst IS ?7 AND domain IS ?8 AND family IS ?9
                    AND port_first IS ?10 AND port_last IS ?11 AND proto IS ?12";

const INSERT: &str = "INSERT INTO rules
    (uid, exe, cgroup, package, src, iif, dst, domain, family, port_first, port_last, proto,
     action, tunnel, on_change, on_down)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";

impl SqliteRules {
    /// Adds a rule, in place of the one with the same match if there is one: [`add_rule`] with the
    /// defaults for live flows and for a tunnel that is down.
    ///
    /// # Errors
    ///
    /// Like [`add_rule`].
    ///
    /// [`add_rule`]: Self::add_rule
    pub fn add(&self, matches: &RuleMatch, action: &Action) -> Result<RuleId, SqliteError> {
        self.add_rule(matches, action, OnChange::default(), &OnDown::default())
    }

    /// Adds a rule, in place of the one with the same match if there is one. The new id is larger
    /// than any before. Blocks up to [`BUSY_TIMEOUT`](super::BUSY_TIMEOUT) and the time to write.
    ///
    /// Give the canonical path of an executable: rules are compared with what the kernel says.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or the rule says something this version cannot store.
    pub fn add_rule(
        &self,
        matches: &RuleMatch,
        action: &Action,
        on_change: OnChange,
        on_down: &OnDown,
    ) -> Result<RuleId, SqliteError> {
        let mut values = columns(&self.path, matches)?;
        let text = |text: &str| Value::Text(text.into());
        let (kind, name) = match action {
            Action::Tunnel(name) => ("tunnel", text(name)),
            Action::Group(name) => ("group", text(name)),
            Action::Direct => ("direct", Value::Null),
            Action::Block => ("block", Value::Null),
            _ => return Err(self.unsupported("the action")),
        };
        let on_change = match on_change {
            OnChange::Keep => Value::Null,
            other => Value::Text(other.to_string()),
        };
        let on_down = match on_down {
            OnDown::Block => Value::Null,
            OnDown::Direct => text("direct"),
            OnDown::Fallback(name) => text(name),
            _ => return Err(self.unsupported("what it does while its tunnel is down")),
        };
        self.write(|connection| {
            connection.execute(
                &format!("DELETE FROM rules WHERE {SAME}"),
                params_from_iter(&values),
            )?;
            values.extend([text(kind), name, on_change, on_down]);
            connection.execute(INSERT, params_from_iter(&values))?;
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
                file::upgrade(&transaction)?;
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
    let bytes = |path: &Path| match path.to_str() {
        Some(text) => Value::Text(text.into()),
        None => Value::Blob(path.as_os_str().as_bytes().into()),
    };
    let unsupported = |what| {
        let path = path.to_owned();
        Err(SqliteError::Unsupported { path, what })
    };
    let (mut uid, mut exe) = (Value::Null, Value::Null);
    let (mut cgroup, mut package) = (Value::Null, Value::Null);
    match &matches.owner {
        None => {}
        Some(OwnerMatch::Uid(number)) => uid = Value::Integer(i64::from(*number)),
        Some(OwnerMatch::Executable(path)) => exe = bytes(path),
        Some(OwnerMatch::Cgroup(path)) => match path.to_str() {
            Some(text) => cgroup = Value::Text(text.into()),
            None => return unsupported("a cgroup that is not UTF-8"),
        },
        Some(OwnerMatch::Package(name)) => package = Value::Text(name.clone()),
        Some(_) => return unsupported("its kind of owner"),
    }
    let text = |text: Option<String>| text.map_or(Value::Null, Value::Text);
    let prefix = |net: Option<IpNet>| text(net.map(|net| net.trunc().to_string()));
    let port = |port: Option<u16>| port.map_or(Value::Null, |port| Value::Integer(port.into()));
    Ok(vec![
        uid,
        exe,
        cgroup,
        package,
        prefix(matches.source),
        text(matches.interface.clone()),
        prefix(matches.destination),
        text(matches.domain.as_ref().map(ToString::to_string)),
        text(matches.family.map(|family| family.to_string())),
        port(matches.ports.map(PortRange::first)),
        port(matches.ports.map(PortRange::last)),
        text(matches.protocol.map(|protocol| protocol.to_string())),
    ])
}
