//! How a tunnel through OpenVPN is run: what is said beside the profile. Pure.

use std::net::IpAddr;
use std::time::Duration;

use vpn_core::Assigned;

use super::credentials::Credentials;
use super::profile::Profile;
use crate::InterfaceName;
use crate::journal::Journal;

/// How long the first attempt may take before the tunnel is down, unless said otherwise. OpenVPN
/// itself waits a minute for a server's first word.
const NO_ANSWER_AFTER: Duration = Duration::from_secs(15);

/// The least MTU, in bytes, however narrow the path or the server says it is (RFC 791: what every
/// host takes).
const NARROWEST: u16 = 576;

/// How a tunnel through OpenVPN is run.
#[derive(Clone, Debug)]
pub struct OpenVpnConfig {
    pub(super) profile: Profile,
    pub(super) interface: InterfaceName,
    pub(super) mark: Option<u32>,
    pub(super) credentials: Option<Credentials>,
    dns: Option<Vec<IpAddr>>,
    mtu: Option<u16>,
    pub(super) no_answer_after: Duration,
    pub(super) journal: Option<Journal>,
}

impl OpenVpnConfig {
    /// Runs this profile. `interface` is what the tunnel's interface is called; nobody else may
    /// have one of that name.
    pub const fn new(profile: Profile, interface: InterfaceName) -> Self {
        Self {
            profile,
            interface,
            mark: None,
            credentials: None,
            dns: None,
            mtu: None,
            no_answer_after: NO_ANSWER_AFTER,
            journal: None,
        }
    }

    /// Writes what to undo to a journal, so that [`recover`](fn@crate::recover) finds the process and
    /// the packet filter of its interface after we were killed.
    #[must_use]
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Marks its sockets, which exempts them from a capture: without, they would go into the tunnels
    /// they carry.
    #[must_use]
    pub const fn mark(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    /// User and password, in place of a file that the profile names.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Resolvers in place of those the server pushes.
    #[must_use]
    pub fn dns(mut self, dns: Vec<IpAddr>) -> Self {
        self.dns = Some(dns);
        self
    }

    /// MTU in place of what the server pushes or the profile says, in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// How long the first attempt may take before the tunnel is down; it goes on trying. Default
    /// 15 s.
    #[must_use]
    pub const fn no_answer_after(mut self, after: Duration) -> Self {
        self.no_answer_after = after;
        self
    }

    /// The MTU that is known before it connects, in bytes: what is said here, or in the profile.
    pub const fn said_mtu(&self) -> Option<u16> {
        match self.mtu {
            Some(mtu) => Some(mtu),
            None => self.profile.mtu(),
        }
    }

    /// The resolvers that are said here.
    pub fn said_dns(&self) -> Option<&[IpAddr]> {
        self.dns.as_deref()
    }

    /// What the server gave, what is said instead, and what the path leaves.
    pub(super) fn instead(&self, mut assigned: Assigned, path: Option<u16>) -> Assigned {
        if let Some(dns) = &self.dns {
            assigned.dns.clone_from(dns);
        }
        let fits = path.unwrap_or(assigned.mtu).max(NARROWEST);
        let narrowest = assigned.mtu.min(fits).max(NARROWEST);
        assigned.mtu = self.mtu.unwrap_or(narrowest);
        assigned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_makes_the_mtu_unusable() {
        let profile = Profile::parse(b"remote a\n", std::path::Path::new("/p"));
        let name = InterfaceName::new("ovpn-x").expect("a name");
        let config = OpenVpnConfig::new(profile.expect("good"), name);
        let mtu = |mtu, path| {
            let assigned = Assigned {
                mtu,
                ..Assigned::default()
            };
            config.instead(assigned, path).mtu
        };
        // To the router 0 is no limit at all.
        assert_eq!(mtu(0, None), NARROWEST);
        assert_eq!(mtu(60, Some(1400)), NARROWEST);
        assert_eq!(mtu(1500, Some(1400)), 1400);
        assert_eq!(mtu(1500, Some(100)), NARROWEST);
    }
}
