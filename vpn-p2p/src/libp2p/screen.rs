//! Decides which addresses are dialled: none inside the network that the node itself is the way to, or
//! its packets would go round in circles; and none of the machine or the link that others only say.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ipnet::IpNet;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::config::NodeConfig;

/// The IP address that an address of libp2p begins with.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The relay of a circuit's address.
pub(super) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut last = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => last = Some(peer),
            Protocol::P2pCircuit => return last,
            _ => {}
        }
    }
    None
}

/// Whether an address can be a node's: it begins with an IP address (names are
/// resolved by who configures them) that is a host's and in none of these networks.
fn is_outside(address: &Multiaddr, inside: &[IpNet]) -> bool {
    ip_of(address).is_some_and(|ip| {
        !ip.is_unspecified() && !ip.is_multicast() && !inside.iter().any(|net| net.contains(&ip))
    })
}

/// What a node's addresses must not be.
#[derive(Debug)]
pub(super) struct Screen {
    inside: Vec<IpNet>,
    loopback: bool,
    /// Hosts of bootstrap nodes: who configured them knows what they are.
    configured: Vec<IpAddr>,
}

impl Screen {
    pub(super) fn of(config: &NodeConfig) -> Self {
        Self {
            inside: config.inside.clone(),
            loopback: config.loopback,
            configured: config.bootstrap.iter().filter_map(ip_of).collect(),
        }
    }

    /// Whether an address is worth telling others, and dialling because others told it: one of this
    /// machine or of a link leads each to another host, or makes it knock where somebody else wants.
    pub(super) fn may_tell(&self, address: &Multiaddr) -> bool {
        let Some(ip) = ip_of(address) else {
            return false;
        };
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        is_outside(address, &self.inside) && !link_local && (self.loopback || !ip.is_loopback())
    }

    /// Whether an address may be dialled.
    pub(super) fn may_dial(&self, address: &Multiaddr) -> bool {
        let is_configured = ip_of(address).is_some_and(|ip| self.configured.contains(&ip));
        self.may_tell(address) || (is_configured && is_outside(address, &self.inside))
    }
}

/// A transport that does not dial what must not be.
#[derive(Debug)]
pub(super) struct Screened<T> {
    inner: T,
    screen: Arc<Screen>,
}

impl<T> Screened<T> {
    pub(super) const fn new(inner: T, screen: Arc<Screen>) -> Self {
        Self { inner, screen }
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
        if !self.screen.may_dial(&address) {
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
    fn a_circuit_names_its_relay() {
        let [relay, peer] = [(); 2].map(|()| PeerId::random());
        let of = |text: String| relay_of(&text.parse().unwrap());
        let place = "/ip4/192.0.2.1/tcp/1/p2p";
        let circuit = format!("{place}/{relay}/p2p-circuit/p2p/{peer}");
        assert_eq!(of(circuit), Some(relay));
        assert_eq!(of(format!("{place}/{peer}")), None);
    }

    fn screen(loopback: bool) -> Screen {
        let mut config = NodeConfig::new(crate::libp2p::Admission::list([]));
        config.inside = vec!["10.7.0.0/16".parse().unwrap(), "fd07::/64".parse().unwrap()];
        config.bootstrap = vec!["/ip4/169.254.1.1/tcp/1".parse().unwrap()];
        config.loopback = loopback;
        Screen::of(&config)
    }

    #[test]
    fn nothing_inside_and_nothing_without_a_host_is_dialled() {
        let may = |text: &str| screen(true).may_dial(&text.parse().unwrap());
        assert!(may("/ip4/192.0.2.1/udp/1/quic-v1"));
        assert!(may("/ip6/2001:db8::1/tcp/1"));
        for wrong in [
            "/ip4/10.7.3.4/udp/1/quic-v1",
            "/ip6/fd07::2/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/224.0.0.1/udp/1/quic-v1",
            "/dns4/example.org/tcp/1",
            "/p2p-circuit",
        ] {
            assert!(!may(wrong), "{wrong}");
        }
    }

    #[test]
    fn what_others_say_leads_neither_to_the_machine_nor_to_its_link() {
        let [own, link, configured] = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip4/169.254.1.1/udp/1/quic-v1",
        ]
        .map(|text| text.parse::<Multiaddr>().unwrap());
        for (address, usual, testing) in [
            (&own, false, true),
            (&link, false, false),
            (&configured, true, true),
        ] {
            assert_eq!(screen(false).may_dial(address), usual, "{address}");
            assert_eq!(screen(true).may_dial(address), testing, "{address}");
        }
        assert!(!screen(true).may_tell(&configured));
    }
}
