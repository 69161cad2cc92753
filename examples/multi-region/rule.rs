//! `multi-region rule`: the rules file, edited with and without a running daemon.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpn_core::rule::RuleProtocol;
use vpn_core::{Action, OwnerMatch, PortRange, Protocol, RuleMatch};
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
    },
    /// Add a rule, or replace the one with the same match.
    Add {
        /// Rules file; made if it is missing.
        #[arg(long)]
        rules: PathBuf,
        #[command(flatten)]
        matches: Match,
        /// A tunnel, `direct` or `block`.
        #[arg(long)]
        to: String,
    },
    /// Remove the rule with exactly this match.
    Remove {
        /// Rules file.
        #[arg(long)]
        rules: PathBuf,
        #[command(flatten)]
        matches: Match,
        /// Only if it leads there.
        #[arg(long)]
        to: Option<String>,
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
    /// Destination prefix or address.
    #[arg(long, value_parser = prefix)]
    dst: Option<IpNet>,
    /// Destination port, or first-last.
    #[arg(long, value_parser = ports)]
    port: Option<PortRange>,
    /// Protocol.
    #[arg(long)]
    proto: Option<Proto>,
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

fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map(|net| net.trunc())
        .map_err(|_| format!("\"{text}\" is no address and no prefix such as 192.0.2.0/24"))
}

fn ports(text: &str) -> Result<PortRange, String> {
    let number = |t: &str| t.parse::<u16>().map_err(|_| format!("\"{t}\" is no port"));
    let (first, last) = match text.split_once('-') {
        Some((a, b)) => (number(a)?, number(b)?),
        None => (number(text)?, number(text)?),
    };
    PortRange::new(first, last).ok_or_else(|| format!("{first} is larger than {last}"))
}

impl Match {
    fn into_rule_match(self) -> Result<RuleMatch, Error> {
        let owner = match (self.uid, self.user, self.exe) {
            (Some(uid), _, _) => Some(OwnerMatch::Uid(uid)),
            (_, Some(name), _) => Some(OwnerMatch::Uid(uid_of(&name)?)),
            (_, _, Some(path)) => Some(OwnerMatch::Executable(executable(&path)?)),
            _ => None,
        };
        Ok(RuleMatch {
            owner,
            destination: self.dst,
            ports: self.port,
            protocol: self.proto.map(|p| match p {
                Proto::Tcp => RuleProtocol::Tcp,
                Proto::Udp => RuleProtocol::Udp,
                Proto::Icmp => RuleProtocol::Icmp,
            }),
            ..RuleMatch::default()
        })
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

fn action(to: &str) -> Action {
    match to {
        "direct" => Action::Direct,
        "block" => Action::Block,
        tunnel => Action::Tunnel(tunnel.to_owned()),
    }
}

pub(crate) fn run(command: RuleCommand) -> Result<(), Error> {
    match command {
        RuleCommand::List { rules } => {
            must_exist(&rules)?;
            let lines = SqliteRules::open(&rules)?.list()?;
            print(
                &lines
                    .iter()
                    .map(|rule| format!("{rule}\n"))
                    .collect::<String>(),
            );
        }
        RuleCommand::Add { rules, matches, to } => {
            if to.is_empty() {
                return Err(Error::Argument(
                    "--to: a tunnel, \"direct\" or \"block\"".to_owned(),
                ));
            }
            let matches = matches.into_rule_match()?;
            let id = SqliteRules::open(&rules)?.add(&matches, &action(&to))?;
            print(&format!("{id}\n"));
        }
        RuleCommand::Remove { rules, matches, to } => {
            must_exist(&rules)?;
            let (matches, source) = (matches.into_rule_match()?, SqliteRules::open(&rules)?);
            if let Some(to) = to.map(|to| action(&to)) {
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
