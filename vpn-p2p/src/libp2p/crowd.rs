//! Decides how many may be connected who have not proven that they are members: strangers, and newcomers
//! that are about to. Pure.
//!
//! Where a network's key admits, anybody may connect to show what it has. A newcomer shows it within
//! round trips, so the one that has waited longest makes room, and one place cannot take all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::screen::{ip_of, relay_of};

/// Strangers of one IPv4 address or one IPv6 network of 64 bits: a few members behind one NAT that start
/// together; further ones come again.
const OF_ONE_PLACE: usize = 16;

/// Strangers that come through one relay.
const OF_ONE_RELAY: usize = 64;

/// Connections from one place that are being made: their keys have not been looked at yet.
const BEGUN: usize = 32;

/// Where a connection comes from, as far as that can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// An IPv4 address, or the first 64 bits of an IPv6 address.
    Ip(IpAddr),
    /// A relay of libp2p.
    Relay(PeerId),
    Unknown,
}

impl Place {
    /// `local`: where it came in. A circuit names its relay there, and the other end is only a name.
    pub(super) fn of(local: &Multiaddr, remote: &Multiaddr) -> Self {
        if let Some(relay) = relay_of(local) {
            return Self::Relay(relay);
        }
        match ip_of(remote) {
            Some(IpAddr::V6(ip)) => Self::Ip(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into()),
            Some(ip) => Self::Ip(ip),
            None => Self::Unknown,
        }
    }

    const fn most(self) -> usize {
        match self {
            Self::Relay(_) => OF_ONE_RELAY,
            Self::Ip(_) | Self::Unknown => OF_ONE_PLACE,
        }
    }
}

/// Who has not proven itself.
#[derive(Debug)]
pub(super) struct Crowd {
    most: usize,
    proven: BTreeSet<PeerId>,
    /// In the order in which they came.
    strangers: BTreeMap<ConnectionId, (PeerId, Place)>,
    begun: HashMap<ConnectionId, Place>,
}

impl Crowd {
    /// A quarter of so many connections may be strangers'.
    pub(super) fn new(max_connections: u32) -> Self {
        let most = usize::try_from(max_connections / 4).unwrap_or(usize::MAX);
        Self {
            most,
            proven: BTreeSet::new(),
            strangers: BTreeMap::new(),
            begun: HashMap::new(),
        }
    }

    /// Somebody begins to connect. False: too many do from there.
    pub(super) fn begins(&mut self, id: ConnectionId, place: Place) -> bool {
        let from_there = self.begun.values().filter(|other| **other == place);
        let may = from_there.count() < BEGUN;
        if may {
            self.begun.insert(id, place);
        }
        may
    }

    /// A connection is there, or did not come about.
    pub(super) fn begun(&mut self, id: ConnectionId) {
        self.begun.remove(&id);
    }

    /// Whether this peer may come from there.
    pub(super) fn may_enter(&self, peer: &PeerId, place: Place) -> bool {
        if self.proven.contains(peer) {
            return true;
        }
        let from_there = self.strangers.values().filter(|(_, other)| *other == place);
        from_there.count() < place.most()
    }

    /// Somebody is connected. Who has to go for it.
    pub(super) fn enter(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        place: Place,
    ) -> Option<(ConnectionId, PeerId)> {
        if self.proven.contains(&peer) {
            return None;
        }
        self.strangers.insert(id, (peer, place));
        if self.strangers.len() <= self.most {
            return None;
        }
        let (oldest, (peer, _)) = self.strangers.pop_first()?;
        Some((oldest, peer))
    }

    /// A connection ended.
    pub(super) fn leave(&mut self, id: ConnectionId) {
        self.strangers.remove(&id);
    }

    /// A peer has proven that it is a member.
    pub(super) fn prove(&mut self, peer: PeerId) {
        self.strangers.retain(|_, (stranger, _)| *stranger != peer);
        self.proven.insert(peer);
    }

    /// Whether a peer has proven that it is a member.
    pub(super) fn has_proven(&self, peer: &PeerId) -> bool {
        self.proven.contains(peer)
    }

    /// It is gone, or is a member no longer.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.proven.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn place(remote: &str) -> Place {
        let local = "/ip4/192.0.2.9/tcp/1".parse().unwrap();
        Place::of(&local, &remote.parse().unwrap())
    }

    fn at(n: usize) -> Place {
        Place::Ip([10, 0, (n >> 8) as u8, n as u8].into())
    }

    #[test]
    fn a_place_is_an_address_a_network_or_a_relay() {
        let relay = PeerId::random();
        let through = format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit");
        let other = format!("/p2p/{}", PeerId::random());
        assert_eq!(
            Place::of(&through.parse().unwrap(), &other.parse().unwrap()),
            Place::Relay(relay)
        );
        assert_eq!(place("/ip4/192.0.2.1/tcp/1"), place("/ip4/192.0.2.1/tcp/2"));
        assert_eq!(
            place("/ip6/2001:db8::1/udp/1/quic-v1"),
            place("/ip6/2001:db8::ffff/tcp/1")
        );
        assert_ne!(
            place("/ip6/2001:db8::1/tcp/1"),
            place("/ip6/2001:db8:0:1::1/tcp/1")
        );
    }

    #[test]
    fn strangers_have_a_quarter_the_oldest_makes_room_and_one_place_has_little() {
        let mut crowd = Crowd::new(400);
        let first = PeerId::random();
        assert_eq!(crowd.enter(id(0), first, at(0)), None);
        for n in 1..100 {
            assert_eq!(crowd.enter(id(n), PeerId::random(), at(n)), None);
        }
        assert_eq!(
            crowd.enter(id(100), PeerId::random(), at(100)),
            Some((id(0), first))
        );
        assert_eq!(crowd.strangers.len(), 100);
        for n in 0..OF_ONE_PLACE {
            let peer = PeerId::random();
            assert!(crowd.may_enter(&peer, at(500)));
            crowd.enter(id(200 + n), peer, at(500));
        }
        assert!(!crowd.may_enter(&PeerId::random(), at(500)));
        assert!(crowd.may_enter(&PeerId::random(), at(501)));
    }

    #[test]
    fn who_has_proven_itself_takes_no_strangers_place() {
        let mut crowd = Crowd::new(16);
        let member = PeerId::random();
        crowd.enter(id(0), member, at(0));
        crowd.prove(member);
        for n in 1..9 {
            crowd.enter(id(n), member, at(0));
        }
        assert!(crowd.strangers.is_empty());
        crowd.forget(&member);
        crowd.enter(id(10), member, at(0));
        assert_eq!(crowd.strangers.len(), 1);
        crowd.leave(id(10));
        assert!(crowd.strangers.is_empty());
    }

    #[test]
    fn what_is_begun_from_one_place_is_bounded_and_settled() {
        let mut crowd = Crowd::new(16);
        assert!((0..BEGUN).all(|n| crowd.begins(id(n), at(0))));
        assert!(!crowd.begins(id(BEGUN), at(0)));
        assert!(crowd.begins(id(BEGUN + 1), at(1)));
        crowd.begun(id(0));
        assert!(crowd.begins(id(BEGUN + 2), at(0)));
    }
}
