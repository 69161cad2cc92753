//! Turns rows into rules; judges every column.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use vpn_core::rule::RuleProtocol;
use vpn_core::{Action, OwnerMatch, PortRange, Rule, RuleId, RuleMatch};

use super::SqliteError;
use crate::rules::MAX_RULES;

/// Reads every rule, oldest first, within one statement: a writer in between is not seen.
pub(super) fn read_all(path: &Path, connection: &Connection) -> Result<Vec<Rule>, SqliteError> {
    let at = SqliteError::at(path);
    // One more than is allowed, so that the compiler of rules sees that there are too many.
    let sql = "SELECT id, uid, exe, dst, port_first, port_last, proto, action, tunnel
               FROM rules ORDER BY id LIMIT ?1";
    let mut statement = connection.prepare_cached(sql).map_err(&at)?;
    let mut rows = statement.query([MAX_RULES as i64 + 1]).map_err(&at)?;
    let mut rules = Vec::new();
    while let Some(row) = rows.next().map_err(&at)? {
        let id: i64 = row.get(0).map_err(&at)?;
        let rule = parse(id, row).map_err(|(column, problem)| SqliteError::BadRow {
            path: path.into(),
            row: id,
            column,
            problem,
        })?;
        rules.push(rule);
    }
    Ok(rules)
}

type Bad = (&'static str, String);

fn parse(id: i64, row: &Row<'_>) -> Result<Rule, Bad> {
    let id = u64::try_from(id).map_err(|_| ("id", format!("{id} is negative")))?;
    let protocol = match text(row, "proto")? {
        None => None,
        Some("tcp") => Some(RuleProtocol::Tcp),
        Some("udp") => Some(RuleProtocol::Udp),
        Some("icmp") => Some(RuleProtocol::Icmp),
        Some(other) => return bad("proto", format!("{other:?} is none of tcp, udp, icmp")),
    };
    let matches = RuleMatch {
        owner: owner(row)?,
        destination: destination(row)?,
        ports: ports(row)?,
        protocol,
        ..RuleMatch::default()
    };
    let action = match (text(row, "action")?, text(row, "tunnel")?) {
        (Some("tunnel"), Some(name)) if !name.is_empty() => Action::Tunnel(name.into()),
        (Some("tunnel"), _) => return bad("tunnel", "the action needs a tunnel's name".into()),
        (Some("block"), None) => Action::Block,
        (Some("direct"), None) => Action::Direct,
        (Some("block" | "direct"), Some(_)) => {
            return bad("tunnel", "only the action tunnel has a name".into());
        }
        (other, _) => {
            let other = other.unwrap_or_default();
            return bad(
                "action",
                format!("{other:?} is none of tunnel, direct, block"),
            );
        }
    };
    Ok(Rule::new(RuleId(id), matches, action))
}

fn owner(row: &Row<'_>) -> Result<Option<OwnerMatch>, Bad> {
    let exe = match value(row, "exe")? {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) if bytes.starts_with(b"/") => {
            Some(PathBuf::from(OsStr::from_bytes(bytes)))
        }
        _ => return bad("exe", "not an absolute path".into()),
    };
    match (integer::<u32>(row, "uid")?, exe) {
        (Some(_), Some(_)) => bad(
            "exe",
            "a rule names a uid or an executable, not both".into(),
        ),
        (Some(uid), None) => Ok(Some(OwnerMatch::Uid(uid))),
        (None, Some(path)) => Ok(Some(OwnerMatch::Executable(path))),
        (None, None) => Ok(None),
    }
}

fn destination(row: &Row<'_>) -> Result<Option<IpNet>, Bad> {
    let Some(text) = text(row, "dst")? else {
        return Ok(None);
    };
    match text.parse::<IpNet>() {
        Ok(net) => Ok(Some(net.trunc())),
        Err(_) => bad(
            "dst",
            format!("{text:?} is not a prefix such as 192.0.2.0/24"),
        ),
    }
}

fn ports(row: &Row<'_>) -> Result<Option<PortRange>, Bad> {
    match (
        integer::<u16>(row, "port_first")?,
        integer::<u16>(row, "port_last")?,
    ) {
        (None, None) => Ok(None),
        (Some(first), Some(last)) => match PortRange::new(first, last) {
            Some(range) => Ok(Some(range)),
            None => bad("port_last", format!("{last} is less than {first}")),
        },
        (None, Some(_)) => bad("port_first", "missing; give both ends".into()),
        (Some(_), None) => bad("port_last", "missing; give both ends".into()),
    }
}

fn bad<T>(column: &'static str, problem: String) -> Result<T, Bad> {
    Err((column, problem))
}

fn value<'row>(row: &'row Row<'_>, column: &'static str) -> Result<ValueRef<'row>, Bad> {
    row.get_ref(column)
        .map_err(|error| (column, error.to_string()))
}

fn text<'row>(row: &'row Row<'_>, column: &'static str) -> Result<Option<&'row str>, Bad> {
    match value(row, column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => bad(column, "not UTF-8".into()),
        },
        other => bad(column, format!("{} in place of text", other.data_type())),
    }
}

fn integer<T: TryFrom<i64>>(row: &Row<'_>, column: &'static str) -> Result<Option<T>, Bad> {
    match value(row, column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(number) => match T::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => bad(column, format!("{number} is out of range")),
        },
        other => bad(
            column,
            format!("{} in place of a number", other.data_type()),
        ),
    }
}
