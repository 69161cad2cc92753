//! Touches the main table, to see where the uplink is; decides what that means for the transport.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteType,
};
use vpn_core::Family;

use crate::apply::netlink::Netlink;
use crate::apply::{ApplyError, families_of};
use crate::forwarding::Interfaces;

/// How often the main table is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The kernel's main routing table.
pub(crate) const MAIN_TABLE: u32 = 254;

/// Where the main table leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uplink {
    /// Interfaces it leads to, ours left out.
    pub(super) interfaces: Interfaces,
    /// Families with a way to other machines.
    pub(super) v4: bool,
    pub(super) v6: bool,
    /// The smallest MTU of the interfaces with a default route, in bytes.
    pub(super) mtu: Option<u16>,
}

/// Looks at the main table. `ours` are the interfaces that are no uplink.
pub(super) async fn look(netlink: &Netlink, ours: &[&str]) -> Result<Uplink, ApplyError> {
    let links = netlink.links().await?;
    let mut uplink = Uplink::default();
    for &family in families_of(true) {
        for route in netlink.routes(family, MAIN_TABLE).await? {
            for (_, name, mtu) in links
                .iter()
                .filter(|link| outputs(&route).any(|index| index == link.0))
                .filter(|link| link.1 != "lo" && !ours.contains(&link.1.as_str()))
            {
                note(&mut uplink, family, &route, name, *mtu);
            }
        }
    }
    Ok(uplink)
}

fn note(uplink: &mut Uplink, family: Family, route: &RouteMessage, name: &str, mtu: u32) {
    if route.header.kind != RouteType::Unicast || is_link_local(route) {
        return;
    }
    uplink.interfaces.of(family).insert(name.to_owned());
    match family {
        Family::V4 => uplink.v4 = true,
        Family::V6 => uplink.v6 = true,
    }
    if route.header.destination_prefix_length == 0 {
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        uplink.mtu = Some(uplink.mtu.map_or(mtu, |known| known.min(mtu)));
    }
}

/// The interfaces a route leads to, one or several.
pub(crate) fn outputs(route: &RouteMessage) -> impl Iterator<Item = u32> {
    route
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(hop).collect(),
            _ => Vec::new(),
        })
}

const fn hop(hop: &RouteNextHop) -> u32 {
    hop.interface_index
}

/// Every interface has a route of this kind, connected or not.
fn is_link_local(route: &RouteMessage) -> bool {
    let destination = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        RouteAttribute::Destination(RouteAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    });
    match destination {
        Some(IpAddr::V6(a)) => a.is_unicast_link_local() || a.is_multicast(),
        Some(IpAddr::V4(a)) => a.is_link_local() || a.is_multicast(),
        None => false,
    }
}

/// The addresses the transport has while the uplink is like this.
pub(super) fn carried(addresses: &[IpNet], uplink: &Uplink) -> Vec<IpNet> {
    let there = |net: &&IpNet| match Family::of(net.addr()) {
        Family::V4 => uplink.v4,
        Family::V6 => uplink.v6,
    };
    addresses.iter().filter(there).copied().collect()
}
