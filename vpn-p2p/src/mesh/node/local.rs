//! Which addresses this machine has: candidates, with the ports of our sockets.

use std::net::{IpAddr, SocketAddr};

use vpn_core::Underlay;

/// Addresses that are looked at: a host with hundreds has most of them for others.
const MAX_ADDRESSES: usize = 64;

/// The addresses of this machine, with the port of the socket of their family: those first that its
/// packets to `remotes` leave by.
pub(super) fn local_candidates(
    underlay: &dyn Underlay,
    remotes: &[SocketAddr],
    ports: (Option<u16>, Option<u16>),
) -> Vec<SocketAddr> {
    let leaving = remotes
        .iter()
        .filter_map(|remote| leaves_by(underlay, *remote));
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in leaving.chain(interface_addresses()).take(MAX_ADDRESSES) {
        let port = if address.is_ipv4() { ports.0 } else { ports.1 };
        if let Some(port) = port {
            let at = SocketAddr::new(address, port);
            if !found.contains(&at) {
                found.push(at);
            }
        }
    }
    found
}

/// The source address of what is sent there: a connected socket has one before anything is sent.
fn leaves_by(underlay: &dyn Underlay, remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = underlay.udp(any).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect()
}
