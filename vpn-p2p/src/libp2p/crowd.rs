//! Decides how many may be connected who have not proven that they are members: strangers, and newcomers
//! that are about to. Pure.
//!
//! Where a network's key admits, anybody may connect to show what it has. A newcomer shows it within
//! round trips, so the one that has waited longest makes room, and one place cannot take all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use libp2p::multiaddr::Protocol;
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

/// How a connection comes in. libp2p asks nobody who begins with QUIC to answer from where it says it is, so
/// whoever can forge sources has as many places as it likes, for a packet each: it takes none of TCP's and
/// of circuits', which have to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Quic,
    Tcp,
    Circuit,
}

impl Carrier {
    /// `local`: where it came in.
    pub(super) fn of(local: &Multiaddr) -> Self {
        let has = |wanted: fn(&Protocol<'_>) -> bool| local.iter().any(|part| wanted(&part));
        if has(|part| matches!(part, Protocol::P2pCircuit)) {
            Self::Circuit
        } else if has(|part| matches!(part, Protocol::Udp(_))) {
            Self::Quic
        } else {
            Self::Tcp
        }
    }

    /// Connections that are being made by it, from all places. Each of QUIC's is waited for, for
    /// [`HANDSHAKE`](super::network::HANDSHAKE): to fill them takes 200 packets a second.
    const fn most(self) -> usize {
        match self {
            Self::Quic => 1024,
            Self::Tcp => 512,
            Self::Circuit => 256,
        }
    }
}

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
    begun: HashMap<ConnectionId, (Carrier, Place)>,
    begun_by: [usize; 3],
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
            begun_by: [0; 3],
        }
    }

    /// Somebody begins to connect. False: too many do, from there or by this.
    pub(super) fn begins(&mut self, id: ConnectionId, carrier: Carrier, place: Place) -> bool {
        if self.begun_by[carrier as usize] >= carrier.most() {
            return false;
        }
        // A forged source must not take its owner's places by what cannot be forged.
        let begun = self.begun.values();
        let from_there = begun.filter(|begun| **begun == (carrier, place));
        let may = from_there.count() < BEGUN;
        if may {
            self.begun_by[carrier as usize] += 1;
            self.begun.insert(id, (carrier, place));
        }
        may
    }

    /// A connection is there, or did not come about.
    pub(super) fn begun(&mut self, id: ConnectionId) {
        if let Some((carrier, _)) = self.begun.remove(&id) {
            self.begun_by[carrier as usize] -= 1;
        }
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
        assert!((0..BEGUN).all(|n| crowd.begins(id(n), Carrier::Tcp, at(0))));
        assert!(!crowd.begins(id(BEGUN), Carrier::Tcp, at(0)));
        assert!(crowd.begins(id(BEGUN + 1), Carrier::Tcp, at(1)));
        crowd.begun(id(0));
        assert!(crowd.begins(id(BEGUN + 2), Carrier::Tcp, at(0)));
    }

    /// The defect: as many packets from forged sources, and nobody could connect, by whatever.
    #[test]
    fn forged_sources_take_the_places_of_quic_alone() {
        let mut crowd = Crowd::new(16);
        let forged = |n: usize| Place::Ip(std::net::Ipv4Addr::from_bits(n as u32).into());
        let most = Carrier::Quic.most();
        assert!((0..most).all(|n| crowd.begins(id(n), Carrier::Quic, forged(n))));
        assert!(!crowd.begins(id(most), Carrier::Quic, forged(most)));
        // All of them from one, and who is there comes by TCP.
        let mut one = Crowd::new(16);
        assert!((0..BEGUN).all(|n| one.begins(id(n), Carrier::Quic, at(0))));
        assert!(!one.begins(id(BEGUN), Carrier::Quic, at(0)));
        assert!(one.begins(id(BEGUN), Carrier::Tcp, at(0)));
        let relay = Place::Relay(PeerId::random());
        assert!(crowd.begins(id(most + 1), Carrier::Tcp, forged(most)));
        assert!(crowd.begins(id(most + 2), Carrier::Circuit, relay));
        // Each gives its place back once.
        crowd.begun(id(0));
        crowd.begun(id(0));
        assert!(crowd.begins(id(most + 3), Carrier::Quic, forged(most)));
        assert!(!crowd.begins(id(most + 4), Carrier::Quic, forged(most)));
        for n in 0..most + 5 {
            crowd.begun(id(n));
        }
        assert_eq!(crowd.begun_by, [0; 3]);
    }

    #[test]
    fn what_carries_a_connection_is_known_by_where_it_came_in() {
        let of = |local: &str| Carrier::of(&local.parse().unwrap());
        assert_eq!(of("/ip4/192.0.2.1/udp/1/quic-v1"), Carrier::Quic);
        assert_eq!(of("/ip6/2001:db8::1/tcp/1"), Carrier::Tcp);
        let relay = PeerId::random();
        let circuit = format!("/ip4/192.0.2.1/udp/1/quic-v1/p2p/{relay}/p2p-circuit");
        assert_eq!(of(&circuit), Carrier::Circuit);
    }
}
