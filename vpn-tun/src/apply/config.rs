//! Decides nothing: what a capture is made of, and what can go wrong with it.

use std::io;

use ipnet::IpNet;

pub use super::policy::MAX_BYPASS;
use super::policy::RESERVED;
use crate::journal::JournalError;
use crate::nft::NftError;

/// Firewall mark of sockets that are exempt from the capture, by default (`"vpn1"`).
pub const DEFAULT_MARK: u32 = 0x7670_6e31;
/// Routing table of the capture, by default. Outside 0–255, which distributions use.
pub const DEFAULT_TABLE: u32 = 0x7670;
/// Priority of the capture rule, by default: after `local` (0), before `main` (32766).
pub const DEFAULT_PRIORITY: u32 = 10_000;
/// Metric of routes to the device.
pub(crate) const DEVICE_METRIC: u32 = 100;
/// Metric of the blackhole: worse than any route to the device.
pub(crate) const BLACKHOLE_METRIC: u32 = 0x7fff_ffff;
/// Routing protocol number that marks what is ours, so that leftovers are told from routes of
/// others. Not assigned in `rtnetlink.h`.
pub(crate) const PROTOCOL: u8 = 0x76;

/// How traffic is captured. The defaults suit one SDK instance per network namespace; a second one
/// needs its own mark, table and priority.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureConfig {
    /// Mark of exempt sockets; the same as [`crate::MarkedUnderlay`]'s. Default [`DEFAULT_MARK`].
    /// Not 0, which is what an unmarked socket has.
    pub mark: u32,
    /// Routing table that captures. Default [`DEFAULT_TABLE`]. Not 0 and not 253–255.
    pub table: u32,
    /// Priority of the rule. Default [`DEFAULT_PRIORITY`]. The two behind it are used too, and
    /// the [`MAX_BYPASS`] and eight before it; all of them lie between 1 and 32765.
    pub priority: u32,
    /// Whether IPv6 is captured. Default `true`; a kernel without IPv6 needs none. `false` lets
    /// IPv6 go direct.
    pub ipv6: bool,
    /// Whether the packet filter drops what routes cannot stop: apps that bind to the uplink or its
    /// address, and what a more specific route of the main table leads around. Needs the program
    /// `nft`. Default `false`. Like the blackhole it stays when the process is killed.
    pub lockdown: bool,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            mark: DEFAULT_MARK,
            table: DEFAULT_TABLE,
            priority: DEFAULT_PRIORITY,
            ipv6: true,
            lockdown: false,
        }
    }
}

impl CaptureConfig {
    /// Sets the mark.
    #[must_use]
    pub const fn mark(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// Sets the routing table.
    #[must_use]
    pub const fn table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }

    /// Sets the rule's priority.
    #[must_use]
    pub const fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// Whether the packet filter drops what routes cannot stop.
    #[must_use]
    pub const fn lockdown(mut self, lockdown: bool) -> Self {
        self.lockdown = lockdown;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ApplyError> {
        let problem = if self.mark == 0 {
            "the mark is 0, as that of every socket"
        } else if matches!(self.table, 0 | 253..=255) {
            "the table is one of the kernel's own (0, 253, 254, 255)"
        } else if self.priority <= RESERVED || self.priority >= 32_764 {
            "the priority leaves no room between local (0) and main (32766)"
        } else {
            return Ok(());
        };
        Err(ApplyError::Config(problem))
    }
}

/// What stays when an applier is released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// The blackhole and the rules: unmarked traffic goes nowhere until the next start or
    /// [`crate::Applier::remove_leftovers`].
    #[default]
    Block,
    /// Nothing: traffic goes direct again.
    Open,
}

/// Why the system does not look as the plan says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The configuration cannot work.
    #[error("bad capture configuration: {0}")]
    Config(&'static str),
    /// No such interface in this network namespace.
    #[error("no interface {0} in this network namespace")]
    NoInterface(String),
    /// Another program uses the table. Choose another one.
    #[error("routing table {table} holds routes of another program: choose another table")]
    TableInUse {
        /// The table.
        table: u32,
    },
    /// No right to change the network. Run as root or with `CAP_NET_ADMIN`.
    #[error("cannot {step}: no permission; run as root or with CAP_NET_ADMIN")]
    Permission {
        /// What was tried.
        step: Step,
    },
    /// The kernel refused a step.
    #[error("cannot {step}")]
    Netlink {
        /// What was tried.
        step: Step,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Strict reverse-path filtering drops every answer to a tunnel's own packets, and it could
    /// not be loosened. Set `net.ipv4.conf.all.rp_filter=2` on the host.
    #[error(
        "reverse-path filtering is strict and {path} cannot be written: set net.ipv4.conf.all.rp_filter=2"
    )]
    ReversePath {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The packet filter that `lockdown` asks for, or a former run's, could not be changed. What it
    /// dropped before it drops still.
    #[error("cannot change the packet filter")]
    Guard(#[source] NftError),
    /// A setting under `/proc/sys` could not be brought back. The journal keeps it.
    #[error("a former setting could not be restored")]
    Setting(#[from] crate::sysctl::SysctlError),
    /// The journal could not be written; nothing was changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// One request to the kernel, for error messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Opening the netlink socket.
    Connect,
    /// Reading back what is there.
    Dump(&'static str),
    /// Adding the blackhole default.
    Blackhole,
    /// Adding or removing the policy rule.
    Rule,
    /// Adding a route to the device.
    AddRoute(IpNet),
    /// Removing a route.
    RemoveRoute(IpNet),
    /// Adding an address.
    AddAddress(IpNet),
    /// Removing an address.
    RemoveAddress(IpNet),
    /// Bringing the link up.
    LinkUp,
    /// Taking the link down again.
    LinkDown,
    /// Setting the MTU.
    Mtu(u16),
    /// Taking the kernel's queue off a link.
    NoQueue,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect => f.write_str("open a netlink socket"),
            Self::Dump(what) => write!(f, "read the {what}"),
            Self::Blackhole => f.write_str("add the blackhole route of the capture"),
            Self::Rule => f.write_str("change the policy rule of the capture"),
            Self::AddRoute(net) => write!(f, "route {net} to the device"),
            Self::RemoveRoute(net) => write!(f, "remove the route to {net}"),
            Self::AddAddress(net) => write!(f, "put {net} on the device"),
            Self::RemoveAddress(net) => write!(f, "take {net} off the device"),
            Self::LinkUp => f.write_str("bring the device up"),
            Self::LinkDown => f.write_str("take the interface down again"),
            Self::Mtu(mtu) => write!(f, "set the MTU to {mtu}"),
            Self::NoQueue => f.write_str("take the queue off the interface"),
        }
    }
}

impl From<crate::nft::RemoveError> for ApplyError {
    fn from(error: crate::nft::RemoveError) -> Self {
        match error {
            crate::nft::RemoveError::Filter(error) => Self::Guard(error),
            crate::nft::RemoveError::Journal(error) => Self::Journal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(CaptureConfig::default().check().is_ok());
        for bad in [
            CaptureConfig::default().mark(0),
            CaptureConfig::default().table(254),
            CaptureConfig::default().table(0),
            CaptureConfig::default().priority(0),
            CaptureConfig::default().priority(RESERVED),
            CaptureConfig::default().priority(32_764),
        ] {
            assert!(matches!(bad.check(), Err(ApplyError::Config(_))), "{bad:?}");
        }
    }
}
