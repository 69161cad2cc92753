//! Touches what a killed run left, and undoes it as the journal says.
//!
//! Every part is undone as far as it goes: what fails is told, stays in the journal, and is tried
//! again by the next call. What somebody else changed meanwhile stays as they made it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::apply::record::{self, CAPTURE, DIRECT};
use crate::apply::{self, ApplyError, CaptureConfig, Removed};
use crate::dns::{self, DnsError, Restored};
use crate::foreign::ForeignChange;
use crate::gateway::GatewayError;
use crate::journal::{Journal, JournalError};
use crate::sysctl;
use crate::{direct, external, gateway, openvpn};

/// What is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Nothing: traffic goes direct again.
    Nothing,
    /// The capture, with its packet filter: an [`Applier`](crate::Applier) is about to take it over
    /// without a gap.
    Capture,
}

/// One thing that was undone, or found not to be ours any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undone {
    /// Policy rules were removed.
    Rules(usize),
    /// Routes were removed.
    Routes(usize),
    /// An address was taken off an interface.
    Address {
        /// The interface.
        interface: String,
        /// The address.
        address: IpNet,
    },
    /// An interface of another program was given back: its state and its queue are as before.
    Interface(String),
    /// A table of the packet filter was removed.
    Table(String),
    /// A setting under `/proc/sys` has its former value again.
    Setting {
        /// The file.
        path: String,
        /// The value.
        value: String,
    },
    /// The file is as it was before.
    ResolvConf(PathBuf),
    /// systemd-resolved has forgotten what it was told of an interface.
    Resolved(String),
    /// Processes of a tunnel were ended.
    Processes {
        /// Its interface.
        interface: String,
        /// How many.
        count: usize,
    },
    /// So many entries were of a former boot or another network namespace, and gone with it.
    Elsewhere(usize),
    /// Somebody else changed it: it is left as they made it.
    Left(ForeignChange),
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(count) => write!(f, "removed policy rules: {count}"),
            Self::Routes(count) => write!(f, "removed routes: {count}"),
            Self::Address { interface, address } => {
                write!(f, "removed address {address} of {interface}")
            }
            Self::Interface(name) => write!(f, "gave back interface {name}"),
            Self::Table(name) => write!(f, "removed packet filter table {name}"),
            Self::Setting { path, value } => write!(f, "restored {path} to {value}"),
            Self::ResolvConf(path) => write!(f, "restored {}", path.display()),
            Self::Resolved(interface) => {
                write!(f, "reverted what systemd-resolved knew of {interface}")
            }
            Self::Processes { interface, count } => {
                write!(f, "ended processes of {interface}: {count}")
            }
            Self::Elsewhere(count) => write!(
                f,
                "forgot what went with another boot or network namespace: {count}"
            ),
            Self::Left(change) => write!(f, "left as somebody else made it: {change}"),
        }
    }
}

/// Why something is still to be undone. The journal keeps it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// Rules, routes, addresses, packet filter or settings.
    #[error("cannot undo what was changed of the network")]
    Network(#[from] ApplyError),
    /// Resolvers of applications.
    #[error("cannot restore the resolvers")]
    Dns(#[from] DnsError),
    /// Forwarding to networks behind this host, or the packet filter for it.
    #[error("cannot undo what was forwarded")]
    Gateway(#[from] GatewayError),
    /// A process of a tunnel, or its folder.
    #[error("cannot end the process of a tunnel")]
    Process(#[source] io::Error),
    /// The journal itself.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What [`recover`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// What was undone, in that order. Empty: nothing was left.
    pub done: Vec<Undone>,
    /// What is still to be undone.
    pub failed: Vec<RecoverError>,
}

/// Undoes what a killed run left: what its journal says, and what the kernel shows to be of this
/// capture. For when nothing of the SDK runs in this network namespace.
///
/// Processes of tunnels end first; then resolvers come back, forwarding and packet filters of the
/// direct transport and of gateways go, and last the capture, so that nothing goes direct before it is meant to.
pub async fn recover(journal: &Journal, capture: &CaptureConfig, leave: Leave) -> Recovered {
    let mut report = Recovered::default();
    match journal.forget_elsewhere() {
        Ok(0) => {}
        Ok(count) => report.done.push(Undone::Elsewhere(count)),
        Err(error) => report.failed.push(error.into()),
    }
    report.processes(journal).await;
    report.resolvers(journal).await;
    report.direct(journal, capture).await;
    report.gateway(journal).await;
    if leave == Leave::Nothing {
        report.capture(journal, capture).await;
    }
    report.external(journal).await;
    report.interfaces(journal).await;
    report
}

impl Recovered {
    async fn processes(&mut self, journal: &Journal) {
        match openvpn::end_leftovers(journal).await {
            Ok(all) => {
                let ended = all.into_iter().filter(|(_, count)| *count > 0);
                let ended = ended.map(|(interface, count)| Undone::Processes { interface, count });
                self.done.extend(ended);
            }
            Err(error) => self.failed.push(RecoverError::Process(error)),
        }
    }

    async fn resolvers(&mut self, journal: &Journal) {
        match dns::recover_file(journal) {
            Ok(None | Some((_, Restored::Nothing))) => {}
            Ok(Some((path, Restored::Restored))) => self.done.push(Undone::ResolvConf(path)),
            Ok(Some((path, Restored::ChangedByOthers))) => {
                self.done
                    .push(Undone::Left(ForeignChange::ResolvConf(path)));
            }
            Err(error) => self.failed.push(error.into()),
        }
        match dns::recover_resolved(journal).await {
            Ok(all) => self
                .done
                .extend(all.into_iter().map(|(name, done)| match done {
                    Restored::ChangedByOthers => Undone::Left(ForeignChange::Resolved(name)),
                    _ => Undone::Resolved(name),
                })),
            Err(error) => self.failed.push(error.into()),
        }
    }

    async fn direct(&mut self, journal: &Journal, capture: &CaptureConfig) {
        for capture in self.captures(journal, DIRECT, capture) {
            match direct::remove_leftovers(&capture, Some(journal)).await {
                Ok((removed, restored)) => {
                    self.settings(restored);
                    self.removed(removed);
                }
                Err(error) => self.failed.push(error.into()),
            }
        }
    }

    async fn gateway(&mut self, journal: &Journal) {
        match gateway::remove_leftovers(journal).await {
            Ok((tables, restored)) => {
                self.settings(restored);
                self.done.extend(tables.into_iter().map(Undone::Table));
            }
            Err(error) => self.failed.push(error.into()),
        }
    }

    async fn capture(&mut self, journal: &Journal, capture: &CaptureConfig) {
        for capture in self.captures(journal, CAPTURE, capture) {
            match apply::remove_capture(&capture, Some(journal)).await {
                Ok(removed) => self.removed(removed),
                Err(error) => self.failed.push(error.into()),
            }
        }
        match apply::remove_settings(Some(journal)) {
            Ok(restored) => self.settings(restored),
            Err(error) => self.failed.push(error.into()),
        }
    }

    async fn external(&mut self, journal: &Journal) {
        match external::remove_leftovers(journal).await {
            Ok((tables, interfaces)) => {
                self.done.extend(tables.into_iter().map(Undone::Table));
                self.done
                    .extend(interfaces.into_iter().map(Undone::Interface));
            }
            Err(error) => self.failed.push(error.into()),
        }
    }

    async fn interfaces(&mut self, journal: &Journal) {
        match apply::remove_from_interfaces(journal).await {
            Ok(done) => {
                let addresses = done.addresses.into_iter();
                let addresses =
                    addresses.map(|(interface, address)| Undone::Address { interface, address });
                self.done.extend(addresses);
                if done.routes > 0 {
                    self.done.push(Undone::Routes(done.routes));
                }
            }
            Err(error) => self.failed.push(error.into()),
        }
    }

    /// The one that is meant, and others that the journal names.
    fn captures(
        &mut self,
        journal: &Journal,
        of: &str,
        meant: &CaptureConfig,
    ) -> Vec<CaptureConfig> {
        let mut all = record::captures(journal, of).unwrap_or_else(|error| {
            self.failed.push(error.into());
            Vec::new()
        });
        let place = |capture: &CaptureConfig| (capture.table, capture.priority);
        if !all.iter().any(|noted| place(noted) == place(meant)) {
            all.push(meant.clone());
        }
        all
    }

    fn removed(&mut self, removed: Removed) {
        if removed.rules > 0 {
            self.done.push(Undone::Rules(removed.rules));
        }
        if removed.routes > 0 {
            self.done.push(Undone::Routes(removed.routes));
        }
        self.done
            .extend(removed.tables.into_iter().map(Undone::Table));
    }

    fn settings(&mut self, restored: sysctl::Restored) {
        let back = restored.back.into_iter();
        self.done
            .extend(back.map(|(path, value)| Undone::Setting { path, value }));
        self.done
            .extend(restored.left.into_iter().map(Undone::Left));
    }
}
