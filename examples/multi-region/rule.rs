//! `multi-region rule`: the rules file, edited with and without a running daemon.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vpn_core::rule::{RuleProtocol, parse_cgroup, parse_prefix};
use vpn_core::{
    Action, DomainPattern, Family, OnChange, OnDown, OwnerMatch, PortRange, Protocol, Rule,
    RuleMatch,
};
use vpn_routing::source::SqliteRules;

use crate::error::Error;
use crate::view::print;

#[derive(Subcommand)]
pub(crate) enum RuleCommand {
    /// Print the rules, oldest first.
    List {
        /// Rules file.
        #[arg(long)]
        rules: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Add a rule, or replace the one with the same match.
    Add {
        /// Rules file; made if it is missing.
        #[arg(long)]
        rules: PathBuf,
        #[command(flatten)]
        matches: Match,
        /// A tunnel, a group, `direct` or `block`.
        #[arg(long, value_parser = str::parse::<Action>)]
        to: Action,
        /// What live TCP connections do when their decision changes: keep, reset or drop.
        #[arg(long, value_parser = str::parse::<OnChange>, default_value = "keep")]
        on_change: OnChange,
        /// While the tunnel is down: block, direct, or another tunnel or group.
        #[arg(long, value_parser = str::parse::<OnDown>, default_value = "block")]
        on_down: OnDown,
    },
    /// Remove the rule with exactly this match.
    Remove {
        /// Rules file.
        #[arg(long)]
        rules: PathBuf,
        #[command(flatten)]
        matches: Match,
        /// Only if it leads there.
        #[arg(long, value_parser = str::parse::<Action>)]
        to: Option<Action>,
    },
}

#[derive(Args)]
pub(crate) struct Match {
    /// User id.
    #[arg(long, group = "owner")]
    uid: Option<u32>,
    /// User name; looked up now.
    #[arg(long, group = "owner")]
    user: Option<String>,
    /// Executable.
    #[arg(long, group = "owner")]
    exe: Option<PathBuf>,
    /// Control group, and those below it: /system.slice/nginx.service
    #[arg(long, group = "owner", value_parser = parse_cgroup)]
    cgroup: Option<PathBuf>,
    /// Package (Android).
    #[arg(long, group = "owner")]
    package: Option<String>,
    /// Source prefix or address.
    #[arg(long, value_parser = parse_prefix)]
    src: Option<IpNet>,
    /// Interface that forwarded traffic comes in by.
    #[arg(long)]
    iif: Option<String>,
    /// Destination prefix or address.
    #[arg(long, value_parser = parse_prefix)]
    dst: Option<IpNet>,
    /// Name of the destination: example.com, .example.com with all below, *.example.com below it.
    #[arg(long, value_parser = str::parse::<DomainPattern>)]
    domain: Option<DomainPattern>,
    /// Destination port, or first-last.
    #[arg(long, value_parser = str::parse::<PortRange>)]
    port: Option<PortRange>,
    /// Protocol: tcp, udp or icmp.
    #[arg(long, value_parser = str::parse::<RuleProtocol>)]
    proto: Option<RuleProtocol>,
    /// Address family: ipv4 or ipv6.
    #[arg(long, value_parser = str::parse::<Family>)]
    family: Option<Family>,
}

#[derive(Clone, Copy, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proto {
    Tcp,
    Udp,
    Icmp,
}

impl Proto {
    pub(crate) const fn number(self, v6: bool) -> Protocol {
        match self {
            Self::Tcp => Protocol::TCP,
            Self::Udp => Protocol::UDP,
            Self::Icmp if v6 => Protocol::ICMPV6,
            Self::Icmp => Protocol::ICMP,
        }
    }
}

impl Match {
    fn into_rule_match(self) -> Result<RuleMatch, Error> {
        let owner = match (self.uid, self.user, self.exe, self.cgroup, self.package) {
            (Some(uid), ..) => Some(OwnerMatch::Uid(uid)),
            (_, Some(name), ..) => Some(OwnerMatch::Uid(uid_of(&name)?)),
            (_, _, Some(path), ..) => Some(OwnerMatch::Executable(executable(&path)?)),
            (_, _, _, Some(path), _) => Some(OwnerMatch::Cgroup(path)),
            (.., Some(name)) => Some(OwnerMatch::Package(name)),
            _ => None,
        };
        let matches = RuleMatch {
            owner,
            source: self.src,
            interface: self.iif,
            destination: self.dst,
            domain: self.domain,
            family: self.family,
            ports: self.port,
            protocol: self.proto,
        };
        match matches.contradiction() {
            None => Ok(matches),
            Some(wrong) => Err(Error::Argument(format!("--{}: {wrong}", wrong.field()))),
        }
    }
}

fn uid_of(name: &str) -> Result<u32, Error> {
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(Error::Argument(format!(
            "--user {name}: there is no such user"
        ))),
        Err(error) => Err(Error::Argument(format!("--user {name}: {error}"))),
    }
}

/// The kernel reports executables by their real path, so rules hold that.
fn executable(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize()
        .map_err(|error| Error::Argument(format!("--exe {}: {error}", path.display())))
}

/// As it is written in files and on the command line.
pub(crate) fn as_word(on_down: &OnDown) -> String {
    match on_down {
        OnDown::Fallback(name) => name.clone(),
        other => other.to_string(),
    }
}

/// `rule list --json`: the same names as in files and on the command line.
fn as_json(rule: &Rule) -> Value {
    let matches = &rule.matches;
    let owner = |kind: &str| match &matches.owner {
        Some(OwnerMatch::Uid(uid)) if kind == "uid" => json!(uid),
        Some(OwnerMatch::Executable(path)) if kind == "exe" => json!(path.to_string_lossy()),
        Some(OwnerMatch::Cgroup(path)) if kind == "cgroup" => json!(path.to_string_lossy()),
        Some(OwnerMatch::Package(name)) if kind == "package" => json!(name),
        _ => Value::Null,
    };
    let mut value = json!({
        "id": rule.id.0,
        "uid": owner("uid"),
        "exe": owner("exe"),
        "cgroup": owner("cgroup"),
        "package": owner("package"),
        "src": matches.source,
        "iif": matches.interface,
        "dst": matches.destination,
        "domain": matches.domain.as_ref().map(ToString::to_string),
        "family": matches.family.map(|family| family.to_string()),
        "port": matches.ports.map(|ports| ports.to_string()),
        "proto": matches.protocol.map(|protocol| protocol.to_string()),
        "to": rule.action.to_string(),
        "on_change": rule.on_change.to_string(),
        "on_down": as_word(&rule.on_down),
    });
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
    }
    value
}

pub(crate) fn run(command: RuleCommand) -> Result<(), Error> {
    match command {
        RuleCommand::List { rules, json } => {
            must_exist(&rules)?;
            let list = SqliteRules::open(&rules)?.list()?;
            print(&match json {
                true => format!("{:#}\n", list.iter().map(as_json).collect::<Value>()),
                false => list.iter().map(|rule| format!("{rule}\n")).collect(),
            });
        }
        RuleCommand::Add {
            rules,
            matches,
            to,
            on_change,
            on_down,
        } => {
            let matches = matches.into_rule_match()?;
            if to == Action::Block && on_down != OnDown::Block {
                let problem = "--on-down: a rule that blocks has no tunnel to be down";
                return Err(Error::Argument(problem.to_owned()));
            }
            if to != Action::Block && to.to_string() == as_word(&on_down) {
                let problem =
                    "--on-down: it falls back to itself; name another tunnel or group, or block";
                return Err(Error::Argument(problem.to_owned()));
            }
            let source = SqliteRules::open(&rules)?;
            let id = source.add_rule(&matches, &to, on_change, &on_down)?;
            print(&format!("{id}\n"));
        }
        RuleCommand::Remove { rules, matches, to } => {
            must_exist(&rules)?;
            let (matches, source) = (matches.into_rule_match()?, SqliteRules::open(&rules)?);
            if let Some(to) = to {
                let there = source.list()?;
                if !there
                    .iter()
                    .any(|rule| rule.matches == matches && rule.action == to)
                {
                    return Err(no_such_rule(&rules, &matches));
                }
            }
            if source.remove(&matches)? == 0 {
                return Err(no_such_rule(&rules, &matches));
            }
        }
    }
    Ok(())
}

fn no_such_rule(path: &Path, matches: &RuleMatch) -> Error {
    Error::Rule {
        path: path.to_owned(),
        problem: format!("no rule matches exactly \"{matches}\""),
    }
}

/// Reading is no reason to make a file.
fn must_exist(path: &Path) -> Result<(), Error> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(cause) => Err(Error::Read {
            path: path.to_owned(),
            cause,
        }),
    }
}
