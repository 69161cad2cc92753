//! Reads which prefixes this host's interfaces have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// The addresses of every interface with their prefixes, by its name.
pub(crate) type Interfaces = BTreeMap<String, BTreeSet<IpNet>>;

/// The interfaces as they are now; empty if the system does not say.
pub(crate) fn interfaces() -> Interfaces {
    let mut found = Interfaces::new();
    let Ok(all) = getifaddrs() else {
        return found;
    };
    for entry in all {
        let (Some(address), Some(mask)) = (ip(entry.address), ip(entry.netmask)) else {
            continue;
        };
        if let Ok(net) = IpNet::with_netmask(address, mask) {
            let nets = found.entry(entry.interface_name).or_default();
            nets.insert(net);
        }
    }
    found
}

/// The networks this host itself is on, those of its own interfaces apart, and what every host
/// has.
pub(crate) fn networks(interfaces: &Interfaces, ours: impl Fn(&str) -> bool) -> Vec<IpNet> {
    let others = interfaces.iter().filter(|(name, _)| !ours(name));
    let nets = others.flat_map(|(_, nets)| nets.iter().copied());
    let link_local = |net: &IpNet| match net.addr() {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    nets.filter(|net| !net.addr().is_loopback())
        .filter(|net| !link_local(net))
        .map(|net| net.trunc())
        .collect()
}

fn ip(address: Option<SockaddrStorage>) -> Option<IpAddr> {
    let address = address?;
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}
