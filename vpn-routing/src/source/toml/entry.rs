//! Turns one table into a rule; judges every value.

use std::path::{Path, PathBuf};

use vpn_core::rule::{parse_cgroup, parse_prefix};
use vpn_core::{
    Action, FilterRule, InboundRule, OwnerMatch, PortRange, Rule, RuleMatch, rule::RuleProtocol,
};

use super::error::TomlError;
use super::parse::Table;

const OWNERS: [&str; 5] = ["uid", "user", "exe", "cgroup", "package"];

/// `[[rule]]`
pub(super) fn rule(table: &Table<'_>) -> Result<Rule, TomlError> {
    table.knows(&[
        "uid",
        "user",
        "exe",
        "cgroup",
        "package",
        "src",
        "iif",
        "dst",
        "domain",
        "family",
        "port",
        "proto",
        "to",
        "on_change",
        "on_down",
    ])?;
    let matches = RuleMatch {
        owner: owner(table)?,
        source: table.with("src", parse_prefix)?,
        interface: table.with("iif", name)?,
        destination: table.with("dst", parse_prefix)?,
        domain: table.parsed("domain")?,
        family: table.parsed("family")?,
        ports: table.number_or_text("port")?,
        protocol: table.parsed("proto")?,
    };
    if let Some(contradiction) = matches.contradiction() {
        let key = contradiction.field();
        return Err(table.wrong(key, contradiction.to_string()));
    }
    let action: Action = table.required("to", table.parsed("to")?)?;
    let mut rule = Rule::new(table.id(), matches, action);
    if let Some(on_change) = table.parsed("on_change")? {
        rule = rule.on_change(on_change);
    }
    if let Some(on_down) = table.parsed("on_down")? {
        if rule.action == Action::Block {
            return Err(table.wrong("on_down", "a rule that blocks has no tunnel to be down"));
        }
        rule = rule.on_down(on_down);
    }
    Ok(rule)
}

fn owner(table: &Table<'_>) -> Result<Option<OwnerMatch>, TomlError> {
    let mut named = OWNERS.into_iter().filter(|key| table.has(key));
    let (Some(key), second) = (named.next(), named.next()) else {
        return Ok(None);
    };
    if let Some(second) = second {
        return Err(table.wrong(
            second,
            format!("a rule names one owner, and has {key} already"),
        ));
    }
    let owner = match key {
        "uid" => table.number("uid")?.map(OwnerMatch::Uid),
        "user" => table.user("user")?.map(OwnerMatch::Uid),
        "exe" => table.with("exe", executable)?.map(OwnerMatch::Executable),
        "cgroup" => table.with("cgroup", parse_cgroup)?.map(OwnerMatch::Cgroup),
        _ => table.with("package", name)?.map(OwnerMatch::Package),
    };
    Ok(owner)
}

/// `[[inbound]]`
pub(super) fn inbound(table: &Table<'_>) -> Result<InboundRule, TomlError> {
    table.knows(&["tunnel", "proto", "port", "to_port", "remote", "behind"])?;
    let rule = InboundRule {
        id: table.id(),
        tunnel: table.required("tunnel", table.with("tunnel", name)?)?,
        protocol: table.required("proto", table.parsed("proto")?)?,
        ports: table.number_or_text("port")?,
        to_port: table.number("to_port")?,
        remote: table.with("remote", parse_prefix)?,
        behind: table.with("behind", parse_prefix)?,
    };
    if rule.behind.is_some() && rule.to_port.is_some() {
        let problem = "machines behind this host are reached on their own ports";
        return Err(table.wrong("to_port", problem));
    }
    if rule.protocol == RuleProtocol::Icmp && rule.ports.is_some() {
        return Err(table.wrong("port", "ICMP has no ports"));
    }
    if let Some(to) = rule.to_port {
        let Some(ports) = rule.ports else {
            return Err(table.wrong("to_port", "needs port: which of them it is for"));
        };
        let width = ports.last() - ports.first();
        if to.checked_add(width).is_none() {
            let problem = format!(
                "{} ports from {to} on end beyond 65535",
                u32::from(width) + 1
            );
            return Err(table.wrong("to_port", problem));
        }
    }
    Ok(rule)
}

/// `[[filter]]`
pub(super) fn filter(table: &Table<'_>) -> Result<FilterRule, TomlError> {
    table.knows(&[
        "direction",
        "tunnel",
        "family",
        "proto",
        "remote",
        "port",
        "icmp",
        "fragments",
        "action",
    ])?;
    let rule = FilterRule {
        id: table.id(),
        direction: table.parsed("direction")?.unwrap_or_default(),
        tunnel: table.with("tunnel", name)?,
        family: table.parsed("family")?,
        protocol: table.parsed("proto")?,
        remote: table.with("remote", parse_prefix)?,
        ports: table.number_or_text::<PortRange>("port")?,
        icmp: table.number_or_text("icmp")?,
        fragments: table.flag("fragments")?.unwrap_or(false),
        action: table.required("action", table.parsed("action")?)?,
    };
    let as_match = RuleMatch {
        destination: rule.remote,
        family: rule.family,
        ports: rule.ports,
        protocol: rule.protocol,
        ..RuleMatch::default()
    };
    if let Some(contradiction) = as_match.contradiction() {
        let key = match contradiction.field() {
            "dst" => "remote",
            other => other,
        };
        return Err(table.wrong(key, contradiction.to_string()));
    }
    let icmp = rule.protocol.is_none_or(|p| p == RuleProtocol::Icmp) && rule.ports.is_none();
    if rule.icmp.is_some() && !icmp {
        return Err(table.wrong("icmp", "a type is of ICMP, which has no ports"));
    }
    Ok(rule)
}

fn name(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("the name is empty"),
        name => Ok(name.to_owned()),
    }
}

/// A user of this host; `None` if there is none of this name. May take as long as the system's name service.
pub(in crate::source) fn uid_of(user: &str) -> Result<Option<u32>, String> {
    let found = nix::unistd::User::from_name(user);
    let found = found.map_err(|error| format!("{user:?} cannot be looked up: {error}"))?;
    Ok(found.map(|user| user.uid.as_raw()))
}

/// The kernel reports executables by their real path. One that is not there may come.
fn executable(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("{text:?} is no absolute path"));
    }
    Ok(path.canonicalize().unwrap_or_else(|_| path.into()))
}
