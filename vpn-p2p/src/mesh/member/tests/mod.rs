//! A hub and members with real sessions on a network without NATs: whatever is sent arrives.

mod belief;
mod packets;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::testing::build;
use vpn_core::{DropReason, Packet, PeerId};

use super::*;
use crate::mesh::Way;
use crate::mesh::hub::{Admitted, Hub, HubConfig, Origin, Relayed};
use crate::mesh::keys::NoiseKeys;
use crate::mesh::link::LinkConfig;
use crate::mesh::peer::Stage;
use crate::mesh::wire::frame::{RELAY_HEADER, is_frame, relay_header};
use crate::wg_quick::PrivateKey;

const UNIX: u64 = 1_700_000_000;

fn hub_at() -> SocketAddr {
    "198.51.100.1:51820".parse().unwrap()
}

/// What goes from where to where.
type OnTheWay = (SocketAddr, SocketAddr, Vec<u8>);

struct World {
    hub: Option<Hub>,
    members: Vec<(SocketAddr, Member)>,
    wire: VecDeque<OnTheWay>,
    now: Instant,
    /// Members that no datagram reaches directly, as if behind NATs that do not let it in.
    closed: Vec<SocketAddr>,
    /// What came out for the router, by member.
    received: HashMap<usize, Vec<Vec<u8>>>,
    drops: Vec<DropReason>,
    relayed: usize,
}

fn keys() -> Box<NoiseKeys> {
    Box::new(NoiseKeys::new(&PrivateKey::generate().unwrap()))
}

fn address(member: usize) -> IpAddr {
    format!("10.77.0.{}", member + 2).parse().unwrap()
}

fn address6(member: usize) -> IpAddr {
    format!("fd77::{}", member + 2).parse().unwrap()
}

impl World {
    fn new(count: usize, change: impl Fn(usize, &mut MemberConfig)) -> Self {
        let now = Instant::now();
        let hub = Identity::generate().unwrap();
        let people: Vec<Identity> = (0..count).map(|_| Identity::generate().unwrap()).collect();
        let config = HubConfig {
            members: (people.iter().enumerate())
                .map(|(place, who)| Admitted::new(who.id(), vec![address(place), address6(place)]))
                .collect(),
            ..HubConfig::default()
        };
        let mut members = Vec::new();
        for (place, who) in people.iter().enumerate() {
            let mut config = MemberConfig {
                name: format!("m{place}"),
                addresses: vec![
                    format!("{}/24", address(place)).parse().unwrap(),
                    format!("{}/64", address6(place)).parse().unwrap(),
                ],
                hubs: vec![LinkConfig::new(hub.id(), HubId(0))],
                seed: Some(place as u64),
                ..MemberConfig::default()
            };
            change(place, &mut config);
            let mut member = Member::new(config, who.clone(), keys(), now, UNIX);
            let at: SocketAddr = format!("198.51.100.{}:4000", place + 10).parse().unwrap();
            member.set_endpoints(HubId(0), vec![hub_at()], now);
            member.set_local(vec![at], now, UNIX);
            members.push((at, member));
        }
        Self {
            hub: Some(Hub::new(config, &hub, keys(), now, UNIX).unwrap()),
            members,
            wire: VecDeque::new(),
            now,
            closed: Vec::new(),
            received: HashMap::new(),
            drops: Vec::new(),
            relayed: 0,
        }
    }

    /// Delivers until nothing is on the way.
    fn deliver(&mut self) {
        loop {
            for (at, member) in &mut self.members {
                while let Some(transmit) = member.poll(self.now, UNIX) {
                    if let Transmit::Udp(to, bytes) | Transmit::Packet(to, bytes) = transmit {
                        self.wire.push_back((*at, to, bytes));
                    }
                }
            }
            if let Some(hub) = &mut self.hub {
                while let Some((to, bytes)) = hub.poll() {
                    if let Origin::Udp(to) = to {
                        self.wire.push_back((hub_at(), to, bytes));
                    }
                }
            }
            let Some((from, to, bytes)) = self.wire.pop_front() else {
                return;
            };
            if to == hub_at() {
                self.at_hub(from, bytes);
            } else if let Some(place) = self.members.iter().position(|(at, _)| *at == to) {
                if from != hub_at() && (self.closed.contains(&to) || self.closed.contains(&from)) {
                    continue;
                }
                let bytes = BytesMut::from(&bytes[..]);
                match self.members[place].1.udp(from, bytes, self.now, UNIX) {
                    Arrived::Packet(_, packet) => {
                        self.received
                            .entry(place)
                            .or_default()
                            .push(packet.to_vec());
                    }
                    Arrived::Dropped(reason) => self.drops.push(reason),
                    _ => {}
                }
            }
        }
    }

    fn at_hub(&mut self, from: SocketAddr, bytes: Vec<u8>) {
        let Some(hub) = &mut self.hub else { return };
        let relay = is_frame(&bytes) && bytes[0] == relay_header(Tag([0; 8]), 0)[0];
        let tag = relay.then(|| Tag(*bytes[4..].first_chunk().unwrap()));
        match tag {
            Some(tag) if !is_frame(&bytes[RELAY_HEADER..]) => {
                let origin = Origin::Udp(from);
                if let Relayed::To {
                    origin: Origin::Udp(to),
                    tag,
                } = hub.relay(origin, tag, bytes.len(), 1, self.now)
                {
                    self.relayed += 1;
                    let frame = [&relay_header(tag, 0)[..], &bytes[RELAY_HEADER..]].concat();
                    self.wire.push_back((hub_at(), to, frame));
                }
            }
            _ => hub.datagram(
                Origin::Udp(from),
                BytesMut::from(&bytes[..]),
                self.now,
                UNIX,
            ),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.deliver();
        loop {
            let hub = self.hub.as_ref().and_then(Hub::next_timeout);
            let members = self
                .members
                .iter()
                .filter_map(|(_, member)| member.next_timeout())
                .min();
            let Some(next) = [hub, members]
                .into_iter()
                .flatten()
                .min()
                .filter(|at| *at <= end)
            else {
                break;
            };
            assert!(next >= self.now || next + Duration::from_secs(1) > self.now);
            self.now = self.now.max(next);
            if let Some(hub) = &mut self.hub {
                hub.handle_timeout(self.now, UNIX);
            }
            for (_, member) in &mut self.members {
                if member.next_timeout().is_some_and(|at| at <= self.now) {
                    member.handle_timeout(self.now, UNIX);
                    let next = member.next_timeout();
                    assert!(next.is_none_or(|at| at > self.now), "due again at once");
                }
            }
            self.deliver();
        }
        self.now = end;
    }

    /// One packet; what it came to.
    fn send(&mut self, from: usize, to: usize, text: &[u8]) -> Outlet {
        self.send_packet(from, &packet(from, to, text))
    }

    fn send_packet(&mut self, from: usize, packet: &Packet) -> Outlet {
        let (at, member) = &mut self.members[from];
        let outlet = member.outlet(packet, self.now);
        if let Outlet::Open(slot, way, wire) = outlet {
            let mut out = Vec::new();
            assert!(member.seal(slot, &wire, BytesMut::from(packet.bytes()), &mut out));
            member.sent(slot, way, 1, packet.len() as u64, self.now);
            match wire {
                Wire::Direct(to) | Wire::Relay(to, _) => self.wire.push_back((*at, to, out)),
                Wire::Stream(..) => unreachable!(),
            }
        }
        self.deliver();
        outlet
    }

    fn got(&mut self, place: usize) -> Vec<Vec<u8>> {
        self.received.remove(&place).unwrap_or_default()
    }

    fn stage(&self, place: usize, of: usize) -> Option<Stage> {
        let status = self.members[place].1.status(self.now);
        let id = self.members[of].1.id();
        status
            .peers
            .iter()
            .find(|peer| peer.peer == id)
            .map(|peer| peer.stage)
    }
}

fn packet(from: usize, to: usize, text: &[u8]) -> Packet {
    let (from, to) = (
        SocketAddr::new(address(from), 7),
        SocketAddr::new(address(to), 9),
    );
    Packet::from_slice(&build::udp(from, to, text))
}
