//! Touches systemd-resolved, through the program `resolvectl`: which resolvers one interface has.
//!
//! The program is asked rather than D-Bus: it is there wherever the service is, and a D-Bus library
//! for three calls is larger than all of this crate.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::{DnsError, Restored};
use crate::device::sys::index_of;
use crate::foreign::ForeignChange;
use crate::journal::{Journal, JournalError};
use crate::name::InterfaceName;
use crate::program;

/// What the journal's entries begin with; the interface follows. They hold its index and the
/// resolvers.
const PREFIX: &str = "resolved:";

/// Every name that no other interface has a better match for (resolvectl(1)).
const EVERY_NAME: &str = "~.";

/// Characters of a complaint that an error repeats.
const MAX_COMPLAINT: usize = 400;

/// What the service was told of one interface.
#[derive(Debug)]
pub(super) struct Resolved {
    interface: InterfaceName,
    journal: Option<Journal>,
    told: BTreeSet<IpAddr>,
}

impl Resolved {
    pub(super) const fn new(interface: InterfaceName, journal: Option<Journal>) -> Self {
        Self {
            interface,
            journal,
            told: BTreeSet::new(),
        }
    }

    /// Tells it these resolvers, and to ask them for every name. What others told it since stays.
    pub(super) async fn tell(&mut self, servers: &BTreeSet<IpAddr>) -> Result<(), DnsError> {
        if self.told == *servers || self.look().await?.is_some() {
            return Ok(());
        }
        let name = self.interface.as_str();
        if let Some(journal) = &self.journal {
            let index = index_of(name).unwrap_or_default();
            let mut entry = index.to_string();
            servers
                .iter()
                .for_each(|s| entry.push_str(&format!(" {s}")));
            journal.set(&format!("{PREFIX}{name}"), entry)?;
        }
        self.told.clone_from(servers);
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let mut dns = vec!["dns", name];
        dns.extend(servers.iter().map(String::as_str));
        ask(&dns).await?;
        ask(&["domain", name, EVERY_NAME]).await?;
        ask(&["default-route", name, "yes"]).await?;
        Ok(())
    }

    /// Whether others told it something else.
    pub(super) async fn look(&self) -> Result<Option<ForeignChange>, DnsError> {
        if self.told.is_empty() || is_told(self.interface.as_str(), &self.told).await? {
            return Ok(None);
        }
        Ok(Some(ForeignChange::Resolved(self.interface.to_string())))
    }

    /// Takes it back, if it is still what we said.
    pub(super) async fn revert(&mut self) -> Result<Restored, DnsError> {
        let outcome = revert(self.interface.as_str(), &self.told).await?;
        self.told.clear();
        forget(self.journal.as_ref(), self.interface.as_str())?;
        Ok(outcome)
    }
}

/// Reverts what a killed run told it, where the interface outlived the run.
pub(super) async fn recover(journal: &Journal) -> Result<Vec<(String, Restored)>, DnsError> {
    let mut done = Vec::new();
    for (name, entry) in journal.with_prefix(PREFIX) {
        let mut words = entry.split(' ');
        let index = words.next().and_then(|word| word.parse().ok());
        let told: Option<BTreeSet<IpAddr>> = words.map(|word| word.parse().ok()).collect();
        let (Some(index), Some(told)) = (index, told) else {
            return Err(journal.unreadable(&format!("{PREFIX}{name}")).into());
        };
        // With the interface goes what the service knew of it.
        if index_of(&name) == Some(index) {
            done.push((name.clone(), revert(&name, &told).await?));
        }
        forget(Some(journal), &name)?;
    }
    Ok(done)
}

async fn revert(name: &str, told: &BTreeSet<IpAddr>) -> Result<Restored, DnsError> {
    if index_of(name).is_none() {
        return Ok(Restored::Restored);
    }
    if !is_told(name, told).await? {
        return Ok(Restored::ChangedByOthers);
    }
    ask(&["revert", name]).await?;
    Ok(Restored::Restored)
}

fn forget(journal: Option<&Journal>, name: &str) -> Result<(), JournalError> {
    journal.map_or(Ok(()), |j| j.remove(&format!("{PREFIX}{name}")))
}

async fn is_told(name: &str, told: &BTreeSet<IpAddr>) -> Result<bool, DnsError> {
    Ok(servers_in(&ask(&["dns", name]).await?) == *told)
}

/// The resolvers in `Link 7 (vpn0): 100.127.255.53 fd00::1`, without ports and names of servers.
fn servers_in(line: &str) -> BTreeSet<IpAddr> {
    let list = line.split_once("):").map_or("", |(_, list)| list);
    let address = |word: &str| {
        let word = word.split(['#', '%']).next().unwrap_or_default();
        word.parse().ok()
    };
    list.split_whitespace().filter_map(address).collect()
}

async fn ask(arguments: &[&str]) -> Result<String, DnsError> {
    let output = match program::run("resolvectl", arguments, b"").await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DnsError::NoResolvectl);
        }
        result => result.map_err(DnsError::Resolvectl)?,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.lines().next().unwrap_or_default();
    Err(DnsError::Refused(
        complaint.chars().take(MAX_COMPLAINT).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says_is_read() {
        let servers = servers_in("Link 7 (vpn0): 100.127.255.53 fd00::1%7 9.9.9.9#dns.quad9.net\n");
        let expected = ["100.127.255.53", "fd00::1", "9.9.9.9"].map(|a| a.parse().unwrap());
        assert_eq!(servers, expected.into());
        assert!(servers_in("Link 7 (vpn0):\n").is_empty());
        assert!(servers_in("").is_empty());
    }
}
