//! Decides whose an address is: one peer's, or nobody's. Pure.
//!
//! An address that a peer has stays its own for as long as it has it: whoever claims it as well is
//! told of, and gets nothing. Whose it is first is for the hub to say, which has one member of each
//! address, and before it for the configuration's word.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use vpn_core::PeerId;

use crate::mesh::peer::Routed;

/// Where a peer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub(super) usize);

/// Two peers claim one address or network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What both claim.
    pub network: IpNet,
    /// Whose it stays; `None`: our own.
    pub holder: Option<PeerId>,
    /// Who gets nothing.
    pub claimant: PeerId,
}

/// Whether an address is that of everybody in a network (RFC 919 §7; RFC 3021 has none in networks of
/// two).
pub(in crate::mesh) fn is_broadcast_of(network: &IpNet, address: Ipv4Addr) -> bool {
    match network {
        IpNet::V4(net) => net.prefix_len() < 31 && net.broadcast() == address,
        IpNet::V6(_) => false,
    }
}

/// Whose each address and network is.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    own: Vec<IpAddr>,
    /// Networks of the mesh itself: what is in there is its member's, whoever has a network around it.
    inside: Vec<IpNet>,
    /// Addresses that the configuration gives to one key.
    pinned: HashMap<IpAddr, PeerId>,
    of: HashMap<IpAddr, (Slot, PeerId)>,
    /// What each peer has, so that taking it back costs what it is and not what all have.
    held: HashMap<Slot, (Vec<IpAddr>, Vec<IpNet>)>,
    v4: PrefixMap<Ipv4Net, (Slot, PeerId)>,
    v6: PrefixMap<Ipv6Net, (Slot, PeerId)>,
}

impl Addresses {
    pub(super) fn new(
        own: Vec<IpAddr>,
        pinned: HashMap<IpAddr, PeerId>,
        inside: Vec<IpNet>,
    ) -> Self {
        Self {
            own,
            inside,
            pinned,
            ..Self::default()
        }
    }

    /// A peer is kept there: from now on it can be tried.
    pub(super) const fn routed(&self, peer: PeerId) -> Routed {
        Routed { peer }
    }

    /// The peer with this address, or with the longest network that holds it.
    #[inline]
    pub(super) fn peer(&self, address: IpAddr) -> Option<Slot> {
        if let Some((slot, _)) = self.of.get(&address) {
            return Some(*slot);
        }
        if self.is_somebodys(address) {
            return None;
        }
        match address {
            IpAddr::V4(a) => self
                .v4
                .get_lpm(&Ipv4Net::from(a))
                .map(|(_, (slot, _))| *slot),
            IpAddr::V6(a) => self
                .v6
                .get_lpm(&Ipv6Net::from(a))
                .map(|(_, (slot, _))| *slot),
        }
    }

    /// Whether an address is one member's, known or not: never that of who has a network around it.
    fn is_somebodys(&self, address: IpAddr) -> bool {
        let inside = self.inside.iter().any(|net| net.contains(&address));
        let one = inside && !self.is_broadcast(address);
        one || self.is_own(address) || self.pinned.contains_key(&address)
    }

    /// Whether it is everybody's: of this link, or of a network of the mesh.
    pub(super) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else {
            return false;
        };
        address.is_broadcast() || self.inside.iter().any(|net| is_broadcast_of(net, address))
    }

    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// Whether all of these are the peer's, but for those that can be nobody's.
    pub(super) fn has_all(&self, slot: Slot, addresses: &[IpAddr]) -> bool {
        addresses.iter().all(|address| match self.of.get(address) {
            Some((holder, _)) => *holder == slot,
            None => !self.is_somebodys(*address),
        })
    }

    /// Gives the peer what it claims and nobody else has, and takes from it what it does not claim
    /// any more. What is in no network of the mesh is not looked at. Returns what was refused.
    pub(super) fn assign(
        &mut self,
        slot: Slot,
        peer: PeerId,
        addresses: &[IpAddr],
        routes: &[IpNet],
    ) -> Vec<Conflict> {
        self.withdraw(slot);
        let mut conflicts = Vec::new();
        for &address in addresses {
            if !self.is_somebodys(address) {
                // Of another network: no hub gives that away, or it could turn any destination to anybody.
                continue;
            }
            let pinned = self.pinned.get(&address).filter(|owner| **owner != peer);
            let holder = match (self.is_own(address), pinned, self.of.get(&address)) {
                (true, _, _) => Some(None),
                (_, Some(owner), _) => Some(Some(*owner)),
                (_, _, Some((_, holder))) => Some(Some(*holder)),
                _ => None,
            };
            match holder {
                None => {
                    self.of.insert(address, (slot, peer));
                    self.held.entry(slot).or_default().0.push(address);
                }
                Some(holder) => conflicts.push(Conflict {
                    network: address.into(),
                    holder,
                    claimant: peer,
                }),
            }
        }
        for &network in routes {
            if let Some(holder) = self.network_of(network) {
                conflicts.push(Conflict {
                    network,
                    holder: Some(holder),
                    claimant: peer,
                });
                continue;
            }
            match network {
                IpNet::V4(network) => self.v4.insert(network.trunc(), (slot, peer)),
                IpNet::V6(network) => self.v6.insert(network.trunc(), (slot, peer)),
            };
            self.held.entry(slot).or_default().1.push(network);
        }
        conflicts
    }

    fn network_of(&self, network: IpNet) -> Option<PeerId> {
        match network {
            IpNet::V4(network) => self.v4.get(&network.trunc()),
            IpNet::V6(network) => self.v6.get(&network.trunc()),
        }
        .map(|(_, holder)| *holder)
    }

    /// The peer has nothing any more.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        let (addresses, networks) = self.held.remove(&slot).unwrap_or_default();
        for address in addresses {
            self.of.remove(&address);
        }
        for network in networks {
            match network {
                IpNet::V4(network) => self.v4.remove(&network.trunc()),
                IpNet::V6(network) => self.v6.remove(&network.trunc()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_stays_its_first_holders_until_it_lets_go() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let inside = vec!["10.7.0.0/24".parse().unwrap()];
        let mut table = Addresses::new(vec![ip("10.7.0.1")], HashMap::new(), inside);
        assert!(table.assign(Slot(0), a, &[ip("10.7.0.2")], &[]).is_empty());
        let refused = table.assign(
            Slot(1),
            b,
            &[ip("10.7.0.2"), ip("10.7.0.3"), ip("10.7.0.1")],
            &[],
        );
        let holders: Vec<_> = refused.iter().map(|conflict| conflict.holder).collect();
        assert_eq!(holders, [Some(a), None]);
        assert_eq!(table.peer(ip("10.7.0.2")), Some(Slot(0)));
        assert_eq!(table.peer(ip("10.7.0.3")), Some(Slot(1)));
        assert_eq!(table.peer(ip("10.7.0.1")), None, "our own");
        assert!(table.assign(Slot(0), a, &[], &[]).is_empty());
        assert!(table.assign(Slot(1), b, &[ip("10.7.0.2")], &[]).is_empty());
        assert_eq!(table.peer(ip("10.7.0.2")), Some(Slot(1)));
        assert_eq!(table.peer(ip("10.7.0.3")), None, "not claimed any more");
    }

    #[test]
    fn what_the_configuration_pins_is_nobody_elses() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let mut table = Addresses::new(Vec::new(), HashMap::from([(ip("fd00::2"), a)]), Vec::new());
        assert_eq!(table.assign(Slot(1), b, &[ip("fd00::2")], &[]).len(), 1);
        assert_eq!(table.peer(ip("fd00::2")), None);
        assert!(table.assign(Slot(0), a, &[ip("fd00::2")], &[]).is_empty());
        assert_eq!(table.peer(ip("fd00::2")), Some(Slot(0)));
    }

    #[test]
    fn a_network_is_behind_one_peer_and_the_longest_counts() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let mut table = Addresses::default();
        let lan: IpNet = "192.168.7.0/24".parse().unwrap();
        let part: IpNet = "192.168.7.128/25".parse().unwrap();
        assert!(table.assign(Slot(0), a, &[], &[lan]).is_empty());
        assert_eq!(
            table.assign(Slot(1), b, &[], &[lan, part])[0].holder,
            Some(a)
        );
        assert_eq!(table.peer(ip("192.168.7.1")), Some(Slot(0)));
        assert_eq!(table.peer(ip("192.168.7.200")), Some(Slot(1)));
        table.withdraw(Slot(1));
        assert_eq!(table.peer(ip("192.168.7.200")), Some(Slot(0)));
    }

    /// A wide network, say of an exit, is behind a peer: addresses of the mesh stay their members'.
    #[test]
    fn a_network_around_the_mesh_takes_none_of_its_addresses() {
        let (a, exit) = (PeerId([1; 32]), PeerId([2; 32]));
        let inside = vec!["10.7.0.0/16".parse().unwrap()];
        let pinned = HashMap::from([(ip("192.0.2.9"), a)]);
        let mut table = Addresses::new(vec![ip("10.7.0.1")], pinned, inside);
        let all: IpNet = "0.0.0.0/0".parse().unwrap();
        let mesh: IpNet = "10.7.0.0/24".parse().unwrap();
        assert!(
            table
                .assign(Slot(1), exit, &[ip("10.7.0.3")], &[all, mesh])
                .is_empty()
        );
        for taken in ["10.7.0.1", "10.7.0.2", "10.7.9.9", "192.0.2.9"] {
            assert_eq!(table.peer(ip(taken)), None, "{taken}");
        }
        assert_eq!(table.peer(ip("10.7.0.3")), Some(Slot(1)));
        assert_eq!(table.peer(ip("198.51.100.1")), Some(Slot(1)));
    }

    #[test]
    fn an_address_of_another_network_is_nobodys() {
        let (a, evil) = (PeerId([1; 32]), PeerId([2; 32]));
        let inside = vec!["10.7.0.0/16".parse().unwrap()];
        let pinned = HashMap::from([(ip("192.0.2.9"), a)]);
        let mut table = Addresses::new(vec![ip("10.7.0.1")], pinned, inside);
        let claims = [ip("9.9.9.9"), ip("10.7.0.3"), ip("2001:db8::1")];
        assert!(table.assign(Slot(1), evil, &claims, &[]).is_empty());
        assert_eq!(table.peer(ip("9.9.9.9")), None);
        assert_eq!(table.peer(ip("2001:db8::1")), None);
        assert_eq!(table.peer(ip("10.7.0.3")), Some(Slot(1)));
        assert!(table.assign(Slot(0), a, &[ip("192.0.2.9")], &[]).is_empty());
        assert_eq!(table.peer(ip("192.0.2.9")), Some(Slot(0)), "pinned");
    }
}
