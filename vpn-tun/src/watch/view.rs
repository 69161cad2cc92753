//! What the network below looks like, and which difference matters. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vpn_core::{Family, NetworkEvent};

/// One route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The interface it leads out of, by index.
    pub interface: u32,
    /// Where to.
    pub to: IpNet,
    /// By way of this router; `None`: the destination is on the link.
    pub by: Option<IpAddr>,
    /// Its metric: the smaller one is taken.
    pub metric: u32,
}

impl Way {
    /// Whether it leads to other networks than that of the link.
    fn leads_on(&self) -> bool {
        self.by.is_some() || self.to.prefix_len() == 0
    }
}

/// The network below at one moment, without our own interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Ways that are usable: the interface is up and has a carrier.
    ways: BTreeSet<Way>,
    /// Lasting addresses of the interfaces these ways lead out of.
    addresses: BTreeSet<(u32, IpNet)>,
    /// Whether one of the ways leads to other networks.
    uplink: bool,
    /// Every address of every interface.
    all: BTreeSet<(u32, IpNet)>,
    /// How often the interfaces of these ways have lost their carrier so far.
    carrier_losses: BTreeMap<u32, u32>,
}

impl View {
    /// Makes a view of all usable routes, and of the addresses of all interfaces; whether an address
    /// lasts is said with it, and others are no reason for an event. Where there is an uplink, an interface with
    /// a way to other networks, only uplinks count: bridges for containers come and go, and no
    /// tunnel goes through them. Where there is none, all do: the other end may be on the link.
    pub fn new(
        routes: impl IntoIterator<Item = Way>,
        addresses: impl IntoIterator<Item = (u32, IpNet, bool)>,
    ) -> Self {
        let mut ways: BTreeSet<Way> = routes.into_iter().collect();
        let on = ways.iter().filter(|way| way.leads_on());
        let uplinks: BTreeSet<u32> = on.map(|way| way.interface).collect();
        if !uplinks.is_empty() {
            ways.retain(|way| uplinks.contains(&way.interface));
        }
        let (mut lasting, mut all) = (BTreeSet::new(), BTreeSet::new());
        for (index, net, lasts) in addresses {
            all.insert((index, net));
            if lasts && ways.iter().any(|way| way.interface == index) {
                lasting.insert((index, net));
            }
        }
        Self {
            addresses: lasting,
            uplink: !uplinks.is_empty(),
            ways,
            all,
            carrier_losses: BTreeMap::new(),
        }
    }

    /// The same view, with how often each interface has lost its carrier so far. The kernel tells
    /// of carriers with a delay: of one that went and came back, only the count may be left.
    #[must_use]
    pub fn with_carrier_losses(mut self, losses: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let used: BTreeSet<u32> = self.ways.iter().map(|way| way.interface).collect();
        self.carrier_losses = losses
            .into_iter()
            .filter(|(interface, _)| used.contains(interface))
            .collect();
        self
    }

    /// Whether a tunnel may go out of this interface.
    pub fn goes_by(&self, interface: u32) -> bool {
        self.ways.iter().any(|way| way.interface == interface)
    }

    /// What became of the network since this view. `broke`: the system said meanwhile that a way
    /// broke, so that equal views mean a link that went and came back.
    pub fn event_to(&self, now: &Self, broke: bool) -> Option<NetworkEvent> {
        match (self.uplink, now.uplink) {
            (true, false) => Some(NetworkEvent::Lost),
            (false, true) => Some(NetworkEvent::Changed),
            _ if self.ways != now.ways || self.lost_source(now) || now.has_new_family(self) => {
                Some(NetworkEvent::Changed)
            }
            (true, true) if broke || self.flapped(now) => Some(NetworkEvent::Changed),
            _ => None,
        }
    }

    /// Whether interfaces have other addresses now.
    pub fn has_other_addresses(&self, now: &Self) -> bool {
        self.all != now.all
    }

    /// An address that may have been the source of a tunnel's packets is gone. One more is no
    /// reason to change the source.
    fn lost_source(&self, now: &Self) -> bool {
        !self.addresses.is_subset(&now.addresses)
    }

    /// The carrier of an interface that is used went meanwhile, and came back.
    fn flapped(&self, now: &Self) -> bool {
        self.carrier_losses.iter().any(|(interface, before)| {
            let losses = now.carrier_losses.get(interface);
            losses.is_some_and(|losses| losses != before)
        })
    }

    /// An interface got its first address of a family: tunnels of that family can work only now.
    fn has_new_family(&self, before: &Self) -> bool {
        let families = |view: &Self| -> BTreeSet<(u32, bool)> {
            let of = |(index, net): &(u32, IpNet)| (*index, Family::of(net.addr()) == Family::V6);
            view.addresses.iter().map(of).collect()
        };
        !families(self).is_subset(&families(before))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::watch) fn way(interface: u32, to: &str, by: Option<&str>) -> Way {
        Way {
            interface,
            to: to.parse().unwrap(),
            by: by.map(|by| by.parse().unwrap()),
            metric: 0,
        }
    }

    /// An uplink at interface 2, and a bridge for containers at 3.
    pub(in crate::watch) fn home(more: &[&str]) -> View {
        let ways = [
            way(2, "0.0.0.0/0", Some("192.0.2.1")),
            way(2, "192.0.2.0/24", None),
            way(3, "172.17.0.0/16", None),
        ];
        let mut addresses = vec![(2, "192.0.2.10/24".parse().unwrap(), true)];
        addresses.extend(more.iter().map(|net| (2, net.parse().unwrap(), true)));
        View::new(ways, addresses)
    }

    #[test]
    fn what_tunnels_do_not_use_does_not_matter() {
        let (before, after) = (home(&[]), home(&["192.0.2.11/24"]));
        assert_eq!(before.event_to(&after, false), None, "one address more");
        assert!(before.has_other_addresses(&after));
        assert!(before.goes_by(2) && !before.goes_by(3));
        let mut ways: Vec<Way> = before.ways.iter().copied().collect();
        ways.push(way(4, "172.18.0.0/16", None));
        let bridged = View::new(
            ways,
            before.all.iter().map(|(index, net)| (*index, *net, true)),
        );
        assert_eq!(before.event_to(&bridged, false), None, "a bridge more");
    }

    #[test]
    fn an_address_that_comes_and_goes_by_itself_is_no_event() {
        let of = |passing: &str| {
            let ways = [way(2, "::/0", Some("fe80::1"))];
            let lasting = (2, "2001:db8::1/64".parse().unwrap(), true);
            View::new(ways, [lasting, (2, passing.parse().unwrap(), false)])
        };
        let (before, after) = (of("2001:db8::aa/64"), of("2001:db8::bb/64"));
        assert_eq!(before.event_to(&after, false), None);
        assert!(before.has_other_addresses(&after));
    }

    #[test]
    fn what_breaks_sockets_is_a_change() {
        let before = home(&["192.0.2.11/24"]);
        let changed = Some(NetworkEvent::Changed);
        assert_eq!(before.event_to(&home(&[]), false), changed, "a source less");
        let v6 = home(&["192.0.2.11/24", "2001:db8::1/64"]);
        assert_eq!(before.event_to(&v6, false), changed, "a family more");
        assert_eq!(before.event_to(&before, true), changed, "a flap");
        let moved = View::new(
            [way(5, "0.0.0.0/0", Some("198.51.100.1"))],
            [(5, "198.51.100.9/24".parse().unwrap(), true)],
        );
        assert_eq!(before.event_to(&moved, false), changed);
    }

    #[test]
    fn a_carrier_that_went_and_came_back_is_a_change() {
        let counted = |uplink, bridge| home(&[]).with_carrier_losses([(2, uplink), (3, bridge)]);
        let before = counted(1, 7);
        assert_eq!(before.event_to(&counted(1, 8), false), None, "a bridge's");
        let changed = Some(NetworkEvent::Changed);
        assert_eq!(before.event_to(&counted(2, 7), false), changed);
        assert_eq!(before.event_to(&home(&[]), false), None, "not counted");
    }

    #[test]
    fn no_way_on_is_lost_and_the_next_one_a_change() {
        let alone = View::new([way(3, "172.17.0.0/16", None)], []);
        assert_eq!(home(&[]).event_to(&alone, true), Some(NetworkEvent::Lost));
        assert_eq!(alone.event_to(&alone, true), None);
        assert_eq!(
            alone.event_to(&View::default(), false),
            Some(NetworkEvent::Changed)
        );
        assert_eq!(
            alone.event_to(&home(&[]), false),
            Some(NetworkEvent::Changed)
        );
    }
}
