//! Decides whose an address is, and which networks are behind whom: the list first, then who came
//! first and whose record is still good.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::config::{Admitted, List};
use crate::mesh::member::is_broadcast_of;
use crate::mesh::record::Record;
use crate::mesh::wire::{Refusal, Tag};

/// Who holds which address and network.
#[derive(Debug, Default)]
pub(super) struct Claims {
    addresses: HashMap<IpAddr, Tag>,
    v4: PrefixMap<Ipv4Net, Tag>,
    v6: PrefixMap<Ipv6Net, Tag>,
}

impl Claims {
    /// Who has this very address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<Tag> {
        self.addresses.get(&address).copied()
    }

    /// Behind whom an address is: the longest prefix. It says nothing about members' addresses.
    pub(super) fn way_to(&self, address: IpAddr) -> Option<(IpNet, Tag)> {
        match address {
            IpAddr::V4(a) => {
                let found = self.v4.get_lpm(&Ipv4Net::from(a))?;
                Some((IpNet::V4(found.0), *found.1))
            }
            IpAddr::V6(a) => {
                let found = self.v6.get_lpm(&Ipv6Net::from(a))?;
                Some((IpNet::V6(found.0), *found.1))
            }
        }
    }

    fn behind(&self, network: IpNet) -> Option<Tag> {
        match network {
            IpNet::V4(network) => self.v4.get(&network).copied(),
            IpNet::V6(network) => self.v6.get(&network).copied(),
        }
    }

    /// Whether this node may have what its record claims. `admitted` is what the list says of it.
    pub(super) fn check(
        &self,
        record: &Record,
        admitted: Option<&Admitted>,
        list: &List,
        networks: &[IpNet],
    ) -> Result<(), Refusal> {
        let tag = Tag::from(record.peer);
        for &address in &record.addresses {
            let refused = |owner: &str| {
                let owner = owner.to_owned();
                Err(Refusal::Address { address, owner })
            };
            match list.pinned(address) {
                Some(owner) if owner == tag => continue,
                Some(_) => return refused("the hub gives it to another member"),
                None => {}
            }
            if admitted.is_some_and(|admitted| !admitted.addresses.is_empty()) {
                return refused("the hub gives this member others");
            }
            if !networks.iter().any(|network| network.contains(&address)) {
                return refused("it is in no network of the hub");
            }
            if let IpAddr::V4(v4) = address
                && networks.iter().any(|network| is_broadcast_of(network, v4))
            {
                return refused("everybody has it");
            }
            if list.is_behind_another(address, tag) {
                return refused("it is in a network behind another member");
            }
            let holder = self.addresses.get(&address);
            if holder.is_some_and(|holder| *holder != tag) {
                return refused("another member has it");
            }
        }
        for &network in &record.routes {
            let refused = Err(Refusal::Route(network.to_string()));
            let listed = admitted.is_some_and(|admitted| {
                let mut routes = admitted.routes.iter();
                routes.any(|route| route.contains(&network))
            });
            if !listed || self.behind(network).is_some_and(|holder| holder != tag) {
                return refused;
            }
        }
        Ok(())
    }

    /// What a record that was checked claims is its peer's.
    pub(super) fn enter(&mut self, record: &Record) {
        let tag = Tag::from(record.peer);
        for &address in &record.addresses {
            self.addresses.insert(address, tag);
        }
        for &network in &record.routes {
            match network {
                IpNet::V4(network) => self.v4.insert(network, tag),
                IpNet::V6(network) => self.v6.insert(network, tag),
            };
        }
    }

    /// It is nobody's.
    pub(super) fn leave(&mut self, record: &Record) {
        for address in &record.addresses {
            self.addresses.remove(address);
        }
        for network in &record.routes {
            match network {
                IpNet::V4(network) => self.v4.remove(network),
                IpNet::V6(network) => self.v6.remove(network),
            };
        }
    }
}
