//! Decides which addresses are dialled: none inside the network that the node itself is the way to,
//! or its packets would go round in circles.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ipnet::IpNet;
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;

/// The IP address that an address of libp2p begins with.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether an address may be dialled, or told to others: it begins with an IP address (names are
/// resolved by who configures them) that is a host's and in none of these networks.
pub(super) fn is_outside(address: &Multiaddr, inside: &[IpNet]) -> bool {
    ip_of(address).is_some_and(|ip| {
        !ip.is_unspecified() && !ip.is_multicast() && !inside.iter().any(|net| net.contains(&ip))
    })
}

/// A transport that does not dial what is inside.
#[derive(Debug)]
pub(super) struct Screened<T> {
    inner: T,
    inside: Arc<[IpNet]>,
}

impl<T> Screened<T> {
    pub(super) const fn new(inner: T, inside: Arc<[IpNet]>) -> Self {
        Self { inner, inside }
    }
}

impl<T: Transport + Unpin> Transport for Screened<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        if !is_outside(&address, &self.inside) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_inside_and_nothing_without_a_host_is_dialled() {
        let inside = ["10.7.0.0/16".parse().unwrap(), "fd07::/64".parse().unwrap()];
        let outside = |text: &str| is_outside(&text.parse().unwrap(), &inside);
        assert!(outside("/ip4/192.0.2.1/udp/1/quic-v1"));
        assert!(outside("/ip6/2001:db8::1/tcp/1"));
        for wrong in [
            "/ip4/10.7.3.4/udp/1/quic-v1",
            "/ip6/fd07::2/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/224.0.0.1/udp/1/quic-v1",
            "/dns4/example.org/tcp/1",
            "/p2p-circuit",
        ] {
            assert!(!outside(wrong), "{wrong}");
        }
    }
}
