//! Decides by which interfaces networks are reached; touches the main table for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use vpn_core::Family;

use crate::apply::netlink::Netlink;
use crate::apply::{ApplyError, families_of};
use crate::direct::{MAIN_TABLE, outputs};
use crate::forwarding::Interfaces;

/// The interfaces by which the main table leads to these networks, `ours` left out. None for a
/// family of which no network is.
pub(super) async fn interfaces(
    netlink: &Netlink,
    networks: &[IpNet],
    ours: &str,
) -> Result<Interfaces, ApplyError> {
    let mut interfaces = Interfaces::default();
    for &family in families_of(true) {
        if !networks.iter().any(|net| Family::of(net.addr()) == family) {
            continue;
        }
        let table = netlink.routes(family, MAIN_TABLE).await?;
        let routes: Vec<_> = table.iter().filter_map(read).collect();
        let indices = leading(&routes, networks);
        let links = netlink.links().await?;
        let named = links.into_iter().filter(|link| indices.contains(&link.0));
        let others = named.filter(|link| link.1 != ours && link.1 != "lo");
        let names = others.map(|link| link.1);
        interfaces.of(family).extend(names);
    }
    Ok(interfaces)
}

/// Destination and interfaces of a route to other machines.
fn read(route: &RouteMessage) -> Option<(IpNet, Vec<u32>)> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let to = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        RouteAttribute::Destination(RouteAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    });
    let all = match route.header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet6 => {
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        }
        _ => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    };
    let length = route.header.destination_prefix_length;
    let net = IpNet::new(to.unwrap_or(all), length).ok()?;
    Some((net, outputs(route).collect()))
}

/// The interfaces of routes into each network, and of the longest one around it.
fn leading(routes: &[(IpNet, Vec<u32>)], networks: &[IpNet]) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    for net in networks {
        let around = routes.iter().filter(|(to, _)| to.contains(net));
        let longest = around.map(|(to, _)| to.prefix_len()).max();
        for (to, by) in routes {
            let is_longest = to.contains(net) && Some(to.prefix_len()) == longest;
            if is_longest || net.contains(to) {
                all.extend(by);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_into_a_network_counts_and_the_longest_route_around_it() {
        let route = |net: &str, by| (net.parse::<IpNet>().unwrap(), vec![by]);
        let routes = [
            route("0.0.0.0/0", 1),
            route("192.168.0.0/16", 2),
            route("192.168.7.0/24", 3),
            route("192.168.7.128/25", 4),
            route("::/0", 5),
        ];
        let by = |net: &str| {
            let all = leading(&routes, &[net.parse().unwrap()]);
            all.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(by("192.168.7.0/24"), [3, 4]);
        assert_eq!(by("192.168.8.0/24"), [2]);
        assert_eq!(by("192.168.7.200/32"), [4]);
        assert_eq!(by("10.9.0.0/16"), [1]);
        assert_eq!(by("fd00::/64"), [5]);
    }
}
