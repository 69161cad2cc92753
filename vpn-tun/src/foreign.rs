//! Decides nothing: what of ours somebody else changed while we ran.
//!
//! It is noticed and told, not fought: whoever did it may know better, and two programs that
//! correct each other never end. What is undone later leaves it as they made it.

use std::fmt;
use std::path::PathBuf;

use ipnet::IpNet;
use vpn_core::Family;

/// Something of ours that somebody else changed. It stays as they made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ForeignChange {
    /// An address was taken off an interface of ours.
    Address {
        /// The interface's index.
        interface: u32,
        /// The address.
        address: IpNet,
    },
    /// A route was removed.
    Route {
        /// Where it led.
        destination: IpNet,
        /// Its routing table.
        table: u32,
    },
    /// A policy rule was removed. Without the capture's, traffic may go direct.
    Rule {
        /// The family it was for.
        family: Family,
        /// Its priority.
        priority: u32,
    },
    /// A setting has another value.
    Setting {
        /// The file under `/proc/sys`.
        path: String,
        /// Its value now.
        now: String,
    },
    /// A table of the packet filter was changed or removed.
    Table {
        /// Its family and name, as nft(8) takes them.
        name: String,
        /// Whether it is gone.
        removed: bool,
    },
    /// `resolv.conf` was written or removed, or leads to another file.
    ResolvConf(PathBuf),
    /// systemd-resolved asks others on our interface.
    Resolved(String),
}

impl ForeignChange {
    /// What kind of thing it is, as one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address",
            Self::Route { .. } => "route",
            Self::Rule { .. } => "rule",
            Self::Setting { .. } => "setting",
            Self::Table { .. } => "table",
            Self::ResolvConf(_) => "resolv_conf",
            Self::Resolved(_) => "resolved",
        }
    }
}

impl fmt::Display for ForeignChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { interface, address } => {
                write!(f, "address {address} of interface {interface} was removed")
            }
            Self::Route { destination, table } => {
                write!(f, "route to {destination} in table {table} was removed")
            }
            Self::Rule { family, priority } => {
                write!(f, "{family} policy rule {priority} was removed")
            }
            Self::Setting { path, now } => write!(f, "{path} is {now} now"),
            Self::Table { name, removed } => {
                let how = if *removed { "removed" } else { "changed" };
                write!(f, "table {name} of the packet filter was {how}")
            }
            Self::ResolvConf(path) => write!(f, "{} was changed", path.display()),
            Self::Resolved(interface) => {
                write!(
                    f,
                    "systemd-resolved was told other resolvers of {interface}"
                )
            }
        }
    }
}
