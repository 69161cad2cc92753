//! Decides nothing: what the direct transport is made of, and what can go wrong with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::apply::{ApplyError, CaptureConfig};
use crate::device::TunError;
use crate::journal::{Journal, JournalError};
use crate::name::{InterfaceName, MAX_LEN};
use crate::nft::NftError;
use crate::sysctl::SysctlError;

/// Addresses by default: one of the space that networks share with their customers and never
/// announce (RFC 6598), and a unique local one (RFC 4193). No other network sees them.
pub const DEFAULT_ADDRESSES: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 127, 118, 112), 32)),
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd76, 0x706e, 0x6469, 0, 0, 0, 0, 1),
        128,
    )),
];

/// What the direct transport is made of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DirectConfig {
    /// Its interface.
    pub interface: InterfaceName,
    /// The capture it must not meet.
    pub capture: CaptureConfig,
    /// Its addresses, at most one of each family, used nowhere else. Default
    /// [`DEFAULT_ADDRESSES`].
    pub addresses: Vec<IpNet>,
    /// Resolvers to ask directly. Default: none.
    pub dns: Vec<IpAddr>,
    /// MTU in bytes. Default: that of the interface with the default route.
    pub mtu: Option<u16>,
    /// Where to write what to undo. Default: nowhere.
    pub journal: Option<Journal>,
}

impl DirectConfig {
    /// The direct transport beside a captured device: its interface is [`device_beside`] it.
    pub fn beside(device: &InterfaceName, capture: CaptureConfig) -> Self {
        Self {
            interface: device_beside(device),
            capture,
            addresses: DEFAULT_ADDRESSES.to_vec(),
            dns: Vec::new(),
            mtu: None,
            journal: None,
        }
    }

    /// Sets the addresses.
    #[must_use]
    pub fn addresses(mut self, addresses: Vec<IpNet>) -> Self {
        self.addresses = addresses;
        self
    }

    /// Sets the resolvers: those the system itself asks.
    #[must_use]
    pub fn dns(mut self, dns: Vec<IpAddr>) -> Self {
        self.dns = dns;
        self
    }

    /// Sets the MTU, in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Writes what to undo to a journal.
    #[must_use]
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    pub(super) fn check(&self) -> Result<(), DirectError> {
        let count = |v4| {
            let family = self
                .addresses
                .iter()
                .filter(|net| net.addr().is_ipv4() == v4);
            family.count()
        };
        if self.addresses.is_empty() {
            return Err(DirectError::Config("no address"));
        }
        if count(true) > 1 || count(false) > 1 {
            return Err(DirectError::Config("more than one address of a family"));
        }
        Ok(())
    }
}

/// The name of the direct transport's interface beside a device: its name, cut where that is
/// needed, and a `d`.
pub fn device_beside(device: &InterfaceName) -> InterfaceName {
    let mut name = String::new();
    for character in device.as_str().chars() {
        if name.len() + character.len_utf8() >= MAX_LEN {
            break;
        }
        name.push(character);
    }
    name.push('d');
    // A name that is cut and ends in `d` is one again.
    InterfaceName::new(name).unwrap_or_else(|_| device.clone())
}

/// Why there is no way to the uplink. A host that has none refuses rules that say `direct`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The configuration cannot work.
    #[error("bad configuration of the direct transport: {0}")]
    Config(&'static str),
    /// The packet filter cannot masquerade here.
    #[error("cannot masquerade")]
    Filter(#[from] NftError),
    /// The kernel does not let us forward. In a container, `/proc/sys` is often read-only.
    #[error("cannot forward")]
    Forwarding(#[from] SysctlError),
    /// The interface could not be made.
    #[error("cannot make the interface of the direct transport")]
    Device(#[from] TunError),
    /// Routes or rules could not be changed.
    #[error("cannot route the direct transport's packets")]
    Route(#[from] ApplyError),
    /// The journal could not be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_is_the_devices_and_fits() {
        let beside = |name: &str| device_beside(&name.parse().unwrap()).to_string();
        assert_eq!(beside("vpn0"), "vpn0d");
        assert_eq!(beside("fifteen-bytes-1"), "fifteen-bytes-d");
        assert_eq!(beside("äöüäöüä"), "äöüäöüäd");
    }

    #[test]
    fn one_address_of_a_family_is_enough_and_the_most() {
        let config = DirectConfig::beside(&"vpn0".parse().unwrap(), CaptureConfig::default());
        assert!(config.check().is_ok());
        let two = ["10.0.0.1/32", "10.0.0.2/32"].map(|a| a.parse().unwrap());
        assert!(config.clone().addresses(two.to_vec()).check().is_err());
        assert!(config.clone().addresses(two[..1].to_vec()).check().is_ok());
        assert!(config.addresses(Vec::new()).check().is_err());
    }
}
