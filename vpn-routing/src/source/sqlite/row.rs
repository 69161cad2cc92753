//! Turns rows into rules; judges every column.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use vpn_core::rule::{parse_cgroup, parse_prefix};
use vpn_core::{Action, OwnerMatch, PortRange, Rule, RuleId, RuleMatch};

use super::{SqliteError, file};
use crate::rules::MAX_RULES;

/// Columns of version 1.
const OLD: &str = "id, uid, exe, dst, port_first, port_last, proto, action, tunnel";

/// Columns of version 2.
const NEW: &str = "cgroup, package, src, iif, domain, family, on_change, on_down";

/// The same for tables that do not have them.
const NONE: &str = "NULL AS cgroup, NULL AS package, NULL AS src, NULL AS iif, NULL AS domain,
                    NULL AS family, NULL AS on_change, NULL AS on_down";

/// Reads every rule, oldest first, within one transaction: a writer in between is not seen.
pub(super) fn read_all(path: &Path, connection: &Connection) -> Result<Vec<Rule>, SqliteError> {
    let at = SqliteError::at(path);
    // Rolled back when dropped: nothing is written.
    let connection = connection.unchecked_transaction().map_err(&at)?;
    // Another program may have changed the tables since the file was opened.
    let version = file::version(&connection).map_err(&at)?;
    file::check_version(path, version)?;
    let new = if version < 2 { NONE } else { NEW };
    // One more than is allowed, so that the compiler of rules sees that there are too many.
    let sql = format!("SELECT {OLD}, {new} FROM rules ORDER BY id LIMIT ?1");
    let mut statement = connection.prepare_cached(&sql).map_err(&at)?;
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
    if RuleId(id).place_in_file().is_some() {
        return bad("id", format!("{id} is too large"));
    }
    let matches = RuleMatch {
        owner: owner(row)?,
        source: parsed(row, "src", parse_prefix)?,
        interface: text(row, "iif")?.map(str::to_owned),
        destination: parsed(row, "dst", parse_prefix)?,
        domain: parsed(row, "domain", str::parse)?,
        family: parsed(row, "family", str::parse)?,
        ports: ports(row)?,
        protocol: parsed(row, "proto", str::parse)?,
    };
    let action = match (text(row, "action")?, text(row, "tunnel")?) {
        (Some("tunnel"), Some(name)) if !name.is_empty() => Action::Tunnel(name.into()),
        (Some("group"), Some(name)) if !name.is_empty() => Action::Group(name.into()),
        (Some("tunnel" | "group"), _) => return bad("tunnel", "the action needs a name".into()),
        (Some("block"), None) => Action::Block,
        (Some("direct"), None) => Action::Direct,
        (Some("block" | "direct"), Some(_)) => {
            return bad(
                "tunnel",
                "only the actions tunnel and group have a name".into(),
            );
        }
        (other, _) => {
            let other = other.unwrap_or_default();
            let problem = format!("{other:?} is none of tunnel, group, direct, block");
            return bad("action", problem);
        }
    };
    let mut rule = Rule::new(RuleId(id), matches, action);
    if let Some(on_change) = parsed(row, "on_change", str::parse)? {
        rule = rule.on_change(on_change);
    }
    if let Some(on_down) = parsed(row, "on_down", str::parse)? {
        rule = rule.on_down(on_down);
    }
    Ok(rule)
}

fn owner(row: &Row<'_>) -> Result<Option<OwnerMatch>, Bad> {
    let exe = match value(row, "exe")? {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) if bytes.starts_with(b"/") => {
            Some(PathBuf::from(OsStr::from_bytes(bytes)))
        }
        _ => return bad("exe", "not an absolute path".into()),
    };
    let named = [
        ("uid", integer::<u32>(row, "uid")?.map(OwnerMatch::Uid)),
        ("exe", exe.map(OwnerMatch::Executable)),
        (
            "cgroup",
            parsed(row, "cgroup", parse_cgroup)?.map(OwnerMatch::Cgroup),
        ),
        (
            "package",
            text(row, "package")?.map(|name| OwnerMatch::Package(name.into())),
        ),
    ];
    let mut named = named.into_iter().filter(|(_, owner)| owner.is_some());
    match (named.next(), named.next()) {
        (Some((first, _)), Some((second, _))) => bad(
            second,
            format!("a rule names one owner, and has {first} already"),
        ),
        (named, _) => Ok(named.and_then(|(_, owner)| owner)),
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

/// What `read` makes of a text.
fn parsed<T, E: ToString>(
    row: &Row<'_>,
    column: &'static str,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Bad> {
    let text = text(row, column)?;
    text.map(|text| read(text).map_err(|error| (column, error.to_string())))
        .transpose()
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
