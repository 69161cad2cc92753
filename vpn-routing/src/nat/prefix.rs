//! One-to-one maps of prefixes: a remote network under another one's addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// How many maps one tunnel may have; each new flow of it looks at all of them.
pub const MAX_PREFIX_MAPS: usize = 64;

/// Why two prefixes are no map, or maps do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixMapError {
    /// They have not equally many addresses, or not of one family. Give both the same length.
    #[error("{local} and {remote} differ in length or family; give both the same length")]
    Unequal {
        /// The prefix applications use.
        local: IpNet,
        /// The prefix behind the tunnel.
        remote: IpNet,
    },
    /// Two maps of one tunnel share addresses, so that translating back would be a guess. Make
    /// them apart.
    #[error("two maps of one tunnel share addresses of {net}; make them apart")]
    Shared {
        /// The prefix of the later map.
        net: IpNet,
    },
    /// More than [`MAX_PREFIX_MAPS`] maps of one tunnel. Use shorter prefixes.
    #[error("{count} maps are more than {MAX_PREFIX_MAPS}; use shorter prefixes")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

/// A network behind a tunnel that is reached under other addresses: the host part stays.
///
/// Two sites with 192.168.1.0/24, say, one of them as 10.71.1.0/24 and the other as 10.72.1.0/24.
///
/// ```
/// use vpn_routing::nat::PrefixMap;
/// let map = PrefixMap::new("10.71.1.0/24".parse()?, "192.168.1.0/24".parse()?)?;
/// let printer = "10.71.1.9".parse()?;
/// assert_eq!(map.to_remote(printer), Some("192.168.1.9".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixMap {
    local: IpNet,
    remote: IpNet,
}

impl PrefixMap {
    /// The map between the prefix applications use and the one behind the tunnel; host bits of
    /// both are cleared.
    ///
    /// # Errors
    ///
    /// [`PrefixMapError::Unequal`].
    pub fn new(local: IpNet, remote: IpNet) -> Result<Self, PrefixMapError> {
        let same_family = local.addr().is_ipv4() == remote.addr().is_ipv4();
        if !same_family || local.prefix_len() != remote.prefix_len() {
            return Err(PrefixMapError::Unequal { local, remote });
        }
        Ok(Self {
            local: local.trunc(),
            remote: remote.trunc(),
        })
    }

    /// The prefix applications use.
    pub const fn local(&self) -> IpNet {
        self.local
    }

    /// The prefix behind the tunnel.
    pub const fn remote(&self) -> IpNet {
        self.remote
    }

    /// The address behind the tunnel that an application means; `None` if it is not of this map.
    pub fn to_remote(&self, addr: IpAddr) -> Option<IpAddr> {
        moved(addr, self.local, self.remote)
    }

    /// What applications call an address behind the tunnel; `None` if it is not of this map.
    pub fn to_local(&self, addr: IpAddr) -> Option<IpAddr> {
        moved(addr, self.remote, self.local)
    }
}

/// The maps of one tunnel. Neither their local nor their remote prefixes share an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixMaps(Vec<PrefixMap>);

impl PrefixMaps {
    /// These maps.
    ///
    /// # Errors
    ///
    /// [`PrefixMapError::Shared`] or [`PrefixMapError::TooMany`].
    pub fn new(maps: Vec<PrefixMap>) -> Result<Self, PrefixMapError> {
        let count = maps.len();
        if count > MAX_PREFIX_MAPS {
            return Err(PrefixMapError::TooMany { count });
        }
        for (place, map) in maps.iter().enumerate() {
            for before in &maps[..place] {
                for (a, b) in [(map.local, before.local), (map.remote, before.remote)] {
                    if a.contains(&b) || b.contains(&a) {
                        return Err(PrefixMapError::Shared { net: a });
                    }
                }
            }
        }
        Ok(Self(maps))
    }

    /// Each map.
    pub fn iter(&self) -> impl Iterator<Item = &PrefixMap> {
        self.0.iter()
    }

    /// The address behind the tunnel that an application means; the same where no map is.
    pub fn to_remote(&self, addr: IpAddr) -> IpAddr {
        let mut maps = self.0.iter();
        maps.find_map(|map| map.to_remote(addr)).unwrap_or(addr)
    }

    /// What applications call an address behind the tunnel; the same where no map is.
    pub fn to_local(&self, addr: IpAddr) -> IpAddr {
        let mut maps = self.0.iter();
        maps.find_map(|map| map.to_local(addr)).unwrap_or(addr)
    }

    /// The local prefix that an address is in.
    pub fn local_of(&self, addr: IpAddr) -> Option<IpNet> {
        let mut locals = self.0.iter().map(PrefixMap::local);
        locals.find(|local| local.contains(&addr))
    }
}

/// The address of `to` with the host part that `addr` has in `from`.
fn moved(addr: IpAddr, from: IpNet, to: IpNet) -> Option<IpAddr> {
    if !from.contains(&addr) {
        return None;
    }
    match (addr, to, from.hostmask()) {
        (IpAddr::V4(addr), IpNet::V4(to), IpAddr::V4(mask)) => {
            let bits = to.network().to_bits() | addr.to_bits() & mask.to_bits();
            Some(Ipv4Addr::from_bits(bits).into())
        }
        (IpAddr::V6(addr), IpNet::V6(to), IpAddr::V6(mask)) => {
            let bits = to.network().to_bits() | addr.to_bits() & mask.to_bits();
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}
