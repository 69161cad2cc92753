//! A NAT, as RFC 4787 sorts them: which address a datagram gets on its way out, and which datagrams
//! pass on their way in.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::keys::mix;

/// What stands between a site and the network outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// Nothing: addresses inside are addresses outside.
    Open,
    /// Endpoint-independent mapping, address-and-port-dependent filtering: one port outside for each
    /// inside, and nothing passes that was not asked for. Most routers at home.
    Easy,
    /// Address-and-port-dependent mapping with random ports: another port for each destination.
    Symmetric,
    /// No UDP at all. TCP gets out.
    NoUdp,
}

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    /// Where datagrams may come from, and when the last one went there.
    allowed: HashMap<SocketAddr, Instant>,
}

/// A NAT between one site and the network outside. No hairpin: what is sent from inside to an address
/// of its own outside is lost.
#[derive(Debug)]
pub struct Nat {
    kind: NatKind,
    outside: IpAddr,
    timeout: Duration,
    /// By port outside.
    mappings: HashMap<u16, Mapping>,
    /// Ports by what they are given for: the address inside, and for symmetric ones the destination.
    ports: HashMap<(SocketAddr, Option<SocketAddr>), u16>,
    random: u64,
}

impl Nat {
    /// A NAT of this kind with this address outside. A mapping ends so long after the last datagram
    /// out (RFC 4787 REQ-5 wants two minutes, many have less).
    pub fn new(kind: NatKind, outside: IpAddr, timeout: Duration, seed: u64) -> Self {
        Self {
            kind,
            outside,
            timeout,
            mappings: HashMap::new(),
            ports: HashMap::new(),
            random: seed,
        }
    }

    /// What kind it is.
    pub const fn kind(&self) -> NatKind {
        self.kind
    }

    /// Its address outside.
    pub const fn outside(&self) -> IpAddr {
        self.outside
    }

    /// A datagram goes out: its source as it is seen outside. `None`: it does not get out.
    pub fn out(&mut self, inside: SocketAddr, to: SocketAddr, now: Instant) -> Option<SocketAddr> {
        if to.ip() == self.outside {
            return None;
        }
        let target = match self.kind {
            NatKind::Open => return Some(inside),
            NatKind::NoUdp => return None,
            NatKind::Easy => None,
            NatKind::Symmetric => Some(to),
        };
        let known = self.ports.get(&(inside, target)).copied();
        let port = match known.filter(|port| self.is_alive(*port, now)) {
            Some(port) => port,
            None => self.map(inside, target, now),
        };
        let mapping = self.mappings.get_mut(&port)?;
        mapping.allowed.insert(to, now);
        Some(SocketAddr::new(self.outside, port))
    }

    /// A datagram comes from outside: to whom it goes inside. `None`: it does not get in.
    pub fn take(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) -> Option<SocketAddr> {
        match self.kind {
            NatKind::Open => return Some(to),
            NatKind::NoUdp => return None,
            NatKind::Easy | NatKind::Symmetric => {}
        }
        let mapping = self.mappings.get(&to.port())?;
        let asked = mapping.allowed.get(&from)?;
        let is_open = now.saturating_duration_since(*asked) < self.timeout;
        is_open.then_some(mapping.inside)
    }

    /// It forgets everything, as if it had been restarted; new mappings have other ports.
    pub fn restart(&mut self) {
        self.mappings.clear();
        self.ports.clear();
    }

    fn is_alive(&self, port: u16, now: Instant) -> bool {
        let recent = |asked: &Instant| now.saturating_duration_since(*asked) < self.timeout;
        let mapping = self.mappings.get(&port);
        mapping.is_some_and(|mapping| mapping.allowed.values().any(recent))
    }

    fn map(&mut self, inside: SocketAddr, target: Option<SocketAddr>, now: Instant) -> u16 {
        if let Some(old) = self.ports.remove(&(inside, target)) {
            self.mappings.remove(&old);
        }
        let port = loop {
            self.random = mix(self.random);
            // The ports that are for nobody in particular (RFC 6335 §6), and some more.
            let port = 20_000 + (self.random % 45_000) as u16;
            if !self.is_alive(port, now) {
                break port;
            }
        };
        self.ports.insert((inside, target), port);
        let mapping = Mapping {
            inside,
            allowed: HashMap::new(),
        };
        self.mappings.insert(port, mapping);
        port
    }
}
