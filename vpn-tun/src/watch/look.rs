//! Touches the kernel's tables: takes a [`View`] of them, and reads what its messages hint at.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use vpn_core::Family;

use super::Ours;
use super::view::{View, Way};
use crate::apply::netlink::Netlink;
use crate::apply::{ApplyError, families_of};
use crate::direct::{MAIN_TABLE, outputs};

/// Looks at links, addresses and the main table.
pub(super) async fn look(netlink: &Netlink, ours: &Ours) -> Result<View, ApplyError> {
    let mut there = BTreeSet::new();
    let mut usable = BTreeSet::new();
    let mut carrier_losses = Vec::new();
    for link in netlink.all_links().await? {
        let counts = !link.header.flags.contains(LinkFlags::Loopback)
            && !name_of(&link).is_some_and(|name| ours(name));
        if counts {
            there.insert(link.header.index);
        }
        if counts && is_usable(&link) {
            usable.insert(link.header.index);
            carrier_losses.extend(carrier_losses_of(&link).map(|n| (link.header.index, n)));
        }
    }
    let mut ways = Vec::new();
    for &family in families_of(true) {
        for route in netlink.routes(family, MAIN_TABLE).await? {
            ways.extend(ways_of(&route).filter(|way| usable.contains(&way.interface)));
        }
    }
    let addresses = netlink.addresses().await?;
    let addresses = addresses.iter().filter_map(address_of);
    let addresses = addresses.filter(|(index, ..)| there.contains(index));
    Ok(View::new(ways, addresses).with_carrier_losses(carrier_losses))
}

/// What a message of the kernel means: `None` nothing, else whether a way broke.
pub(super) fn hint(
    payload: &NetlinkPayload<RouteNetlinkMessage>,
    ours: &Ours,
    seen: &View,
) -> Option<bool> {
    let NetlinkPayload::InnerMessage(message) = payload else {
        // Messages were lost, for one.
        return Some(false);
    };
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            let own = name_of(link).is_some_and(|name| ours(name));
            let gone = matches!(message, RouteNetlinkMessage::DelLink(_)) || !is_usable(link);
            (!own).then(|| gone && seen.goes_by(link.header.index))
        }
        RouteNetlinkMessage::DelRoute(route) => {
            let mut used = ways_of(route).filter(|way| seen.goes_by(way.interface));
            Some(used.any(|way| way.by.is_some() || way.to.prefix_len() == 0))
        }
        _ => Some(false),
    }
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn carrier_losses_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::CarrierDownCount(count) => Some(*count),
        _ => None,
    })
}

/// Up, and with a carrier: without one its routes stay, and lead nowhere.
fn is_usable(link: &LinkMessage) -> bool {
    let flags = link.header.flags;
    flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::Running)
}

/// A route as ways, one for each interface it leads to.
fn ways_of(route: &RouteMessage) -> impl Iterator<Item = Way> {
    let (mut to, mut by, mut metric) = (None, None, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => by = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let any = match route.header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet6 => Family::V6,
        _ => Family::V4,
    };
    let to = to.unwrap_or(match any {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0u16; 8]),
    });
    let to = IpNet::new(to, route.header.destination_prefix_length).ok();
    let unicast = route.header.kind == RouteType::Unicast;
    let to = to.filter(|net| unicast && !is_of_link(net.addr()));
    outputs(route)
        .filter_map(move |interface| {
            Some(Way {
                interface,
                to: to?,
                by,
                metric,
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Every interface has these, connected or not.
const fn is_of_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_multicast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

/// An address of an interface, and whether it lasts: it is no second one of its subnet and no
/// temporary one (RFC 8981), which come and go by themselves, and is usable already and still.
fn address_of(message: &AddressMessage) -> Option<(u32, IpNet, bool)> {
    let passing = AddressFlags::Secondary
        | AddressFlags::Tentative
        | AddressFlags::Dadfailed
        | AddressFlags::Deprecated;
    let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(its) => flags = *its,
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    let lasts = !flags.intersects(passing) && !is_of_link(net.addr());
    Some((message.header.index, net, lasts))
}
