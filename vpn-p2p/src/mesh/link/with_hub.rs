//! The link against the hub itself, on invented time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::PeerId;

use super::*;
use crate::mesh::hub::{Admitted, Hub, HubConfig, Origin};
use crate::mesh::identity::Identity;
use crate::mesh::keys::NoiseKeys;
use crate::mesh::record::Record;
use crate::mesh::way::HubId;
use crate::mesh::wire::frame::is_frame;
use crate::wg_quick::PrivateKey;

const UNIX: u64 = 1_000_000;
const ONE_WAY: Duration = Duration::from_millis(5);

/// Two members and a hub.
struct World {
    hub: Hub,
    hub_identity: Identity,
    config: HubConfig,
    at: SocketAddr,
    members: Vec<Node>,
    now: Instant,
    start: Instant,
    udp: bool,
    /// Of what comes by UDP only the answers to Hellos arrive.
    deaf: bool,
}

struct Node {
    link: Link,
    keys: NoiseKeys,
    identity: Identity,
    address: SocketAddr,
    tls: bool,
    events: Vec<LinkEvent>,
    to: Vec<(Instant, Carrier, Vec<u8>)>,
    from: Vec<(Instant, Carrier, SocketAddr, Vec<u8>)>,
    sent: usize,
}

fn keys() -> NoiseKeys {
    NoiseKeys::new(&PrivateKey::generate().unwrap())
}

fn record(identity: &Identity, keys: &NoiseKeys, host: u8, sequence: u64) -> SignedRecord {
    Record {
        peer: PeerId([0; 32]),
        name: format!("m{host}"),
        session: keys.public(),
        addresses: vec![SocketAddr::from(([10, 77, 0, host], 0)).ip()],
        routes: Vec::new(),
        candidates: Vec::new(),
        sequence,
        expires: UNIX + 3_600,
    }
    .sign(identity)
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let at: SocketAddr = "192.0.2.1:51820".parse().unwrap();
        let hub_identity = Identity::generate().unwrap();
        let identities = [(); 2].map(|()| Identity::generate().unwrap());
        let config = HubConfig {
            members: identities
                .iter()
                .zip(2..)
                .map(|(identity, host)| {
                    let address = SocketAddr::from(([10, 77, 0, host], 0)).ip();
                    Admitted::new(identity.id(), vec![address])
                })
                .collect(),
            ..HubConfig::default()
        };
        let hub = Hub::new(config.clone(), &hub_identity, Box::new(keys()), now, UNIX).unwrap();
        let members = identities.into_iter().zip(2..).map(|(identity, host)| {
            let keys = keys();
            let config = LinkConfig::new(hub_identity.id(), HubId(0));
            let mut link = Link::new(config, u64::from(host), now);
            link.set_endpoints(vec![at], now);
            link.set_record(record(&identity, &keys, host, 1), now);
            Node {
                link,
                keys,
                identity,
                address: SocketAddr::from(([198, 51, 100, host], 4_000)),
                tls: false,
                events: Vec::new(),
                to: Vec::new(),
                from: Vec::new(),
                sent: 0,
            }
        });
        Self {
            members: members.collect(),
            hub,
            hub_identity,
            config,
            at,
            now,
            start: now,
            udp: true,
            deaf: false,
        }
    }

    fn unix(&self) -> u64 {
        UNIX + (self.now - self.start).as_secs()
    }

    fn restart_hub(&mut self) {
        let keys = Box::new(keys());
        let (config, unix) = (self.config.clone(), self.unix());
        self.hub = Hub::new(config, &self.hub_identity, keys, self.now, unix).unwrap();
    }

    fn flush(&mut self) {
        let (now, unix) = (self.now, self.unix());
        for (at, member) in (0..).zip(&mut self.members) {
            while let Some(out) = member.link.poll() {
                match out {
                    LinkOut::Udp(_, bytes) => {
                        member.sent += 1;
                        if self.udp {
                            member
                                .from
                                .push((now + ONE_WAY, Carrier::Udp, member.address, bytes));
                        }
                    }
                    LinkOut::Tls(bytes) => {
                        member
                            .from
                            .push((now + ONE_WAY, Carrier::Tls, member.address, bytes));
                    }
                    LinkOut::OpenTls(_) => {
                        member.tls = true;
                        member.link.tls_opened(now);
                    }
                    LinkOut::CloseTls => {
                        member.tls = false;
                        self.hub.closed(at, now);
                    }
                }
            }
            while let Some(event) = member.link.poll_event() {
                member.events.push(event);
            }
            let mut from = std::mem::take(&mut member.from);
            from.retain(|(due, via, address, bytes)| {
                if *due > now {
                    return true;
                }
                let origin = match via {
                    Carrier::Udp => Origin::Udp(*address),
                    Carrier::Tls => Origin::Tls(at),
                };
                self.hub
                    .datagram(origin, BytesMut::from(&bytes[..]), now, unix);
                false
            });
            member.from = from;
        }
        while let Some((origin, bytes)) = self.hub.poll() {
            let (index, via) = match origin {
                Origin::Tls(at) => (usize::try_from(at).ok(), Carrier::Tls),
                Origin::Udp(address) => {
                    let index = self.members.iter().position(|it| it.address == address);
                    (index, Carrier::Udp)
                }
            };
            // One whose address changed is not there any more.
            let Some(member) = index.and_then(|index| self.members.get_mut(index)) else {
                continue;
            };
            let is_welcome = bytes.first() == Some(&0x82);
            if via == Carrier::Tls || (self.udp && (is_welcome || !self.deaf)) {
                member.to.push((now + ONE_WAY, via, bytes));
            }
        }
    }

    fn run(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        loop {
            // As long as one hears of the other at the same moment.
            for _ in 0..4 {
                self.flush();
            }
            let mut next: Vec<Instant> = self.hub.next_timeout().into_iter().collect();
            for member in &self.members {
                next.extend(member.link.next_timeout());
                next.extend(member.to.iter().map(|it| it.0));
                next.extend(member.from.iter().map(|it| it.0));
            }
            let Some(next) = next.into_iter().min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let (now, unix, hub) = (self.now, self.unix(), self.at);
            for member in &mut self.members {
                for (due, via, bytes) in std::mem::take(&mut member.to) {
                    if due > now {
                        member.to.push((due, via, bytes));
                        continue;
                    }
                    let from = (via == Carrier::Udp).then_some(hub);
                    if is_frame(&bytes) {
                        let frame = Frame::read(&bytes).unwrap();
                        member
                            .link
                            .frame(via, from, &frame, &member.keys, now, unix);
                    } else {
                        let bytes = BytesMut::from(&bytes[..]);
                        let _ = member
                            .link
                            .datagram(via, from, bytes, &member.keys, now, unix);
                    }
                }
                member.link.handle_timeout(now);
            }
            self.hub.handle_timeout(now, unix);
        }
        self.now = end;
    }

    fn carriers(&self) -> Vec<Option<Carrier>> {
        let carrier = |it: &Node| it.link.way().map(|(via, _)| via);
        self.members.iter().map(carrier).collect()
    }

    fn downs(&self, at: usize) -> usize {
        let down = |it: &&LinkEvent| matches!(it, LinkEvent::Down { .. });
        self.members[at].events.iter().filter(down).count()
    }
}

#[test]
fn members_are_up_find_each_other_and_hear_of_changes() {
    let mut world = World::new();
    world.run(0.2);
    assert_eq!(world.carriers(), [Some(Carrier::Udp); 2]);
    assert_eq!(
        world.members[0].events,
        [LinkEvent::Up {
            carrier: Carrier::Udp,
            observed: Some(world.members[0].address)
        }]
    );
    let other = What::Address("10.77.0.3".parse().unwrap());
    let now = world.now;
    world.members[0].link.find(7, other, now);
    world.members[0]
        .link
        .find(8, What::Address("10.77.0.9".parse().unwrap()), now);
    world.run(0.2);
    let expected = record(&world.members[1].identity, &world.members[1].keys, 3, 1);
    let events = &world.members[0].events;
    let found = |it: &&LinkEvent| matches!(it, LinkEvent::Found { id: 7, record, online: true } if *record == expected);
    assert_eq!(events.iter().filter(found).count(), 1);
    assert!(events.contains(&LinkEvent::NotFound { id: 8 }));
    let new = record(&world.members[1].identity, &world.members[1].keys, 3, 2);
    let now = world.now;
    world.members[1].link.set_record(new.clone(), now);
    world.run(5.0);
    let changed = |it: &&LinkEvent| **it == LinkEvent::Changed(new.clone());
    let events = &world.members[0].events;
    assert_eq!(events.iter().filter(changed).count(), 1, "had at once");
}

#[test]
fn an_idle_member_costs_one_packet_in_34_seconds_and_stays() {
    let mut world = World::new();
    world.run(1.0);
    let before = world.members[0].sent;
    world.run(100.0);
    assert_eq!(world.members[0].sent - before, 2);
    world.run(300.0);
    assert_eq!(
        (world.downs(0), world.carriers()),
        (0, vec![Some(Carrier::Udp); 2])
    );
}

#[test]
fn a_new_address_of_ours_is_told_by_the_next_keepalive() {
    let mut world = World::new();
    world.run(1.0);
    let moved: SocketAddr = "203.0.113.5:999".parse().unwrap();
    world.members[0].address = moved;
    world.run(36.0);
    assert_eq!(world.downs(0), 0);
    assert_eq!(
        world.members[0].events.last(),
        Some(&LinkEvent::Observed(moved))
    );
}

#[test]
fn it_moves_to_tls_and_back_and_the_hub_moves_along() {
    let mut world = World::new();
    world.run(1.0);
    world.udp = false;
    for member in &mut world.members {
        member.link.network_changed(world.now);
    }
    world.run(4.0);
    assert_eq!(world.carriers(), [Some(Carrier::Tls); 2]);
    world.udp = true;
    world.run(70.0);
    assert_eq!(world.carriers(), [Some(Carrier::Udp); 2]);
    assert_eq!(world.downs(0), 1, "the way back has no gap");
    assert!(!world.members[0].tls);
    // What was closed was not the member's place any more.
    world.run(60.0);
    assert_eq!(world.downs(0), 1);
    let now = world.now;
    let other = What::Tag(Tag::from(world.members[1].identity.id()).0);
    world.members[0].link.find(9, other, now);
    world.run(0.2);
    assert!(matches!(
        world.members[0].events.last(),
        Some(LinkEvent::Found {
            id: 9,
            online: true,
            ..
        })
    ));
}

/// A network that lets a first answer in and nothing after it: the hub goes to UDP with a registration
/// whose answer never arrives, and comes back.
#[test]
fn a_return_to_udp_that_fails_leaves_the_hub_where_the_member_is() {
    let mut world = World::new();
    world.udp = false;
    world.run(4.0);
    assert_eq!(world.carriers(), [Some(Carrier::Tls); 2]);
    (world.udp, world.deaf) = (true, true);
    let mut by_udp = 0;
    for _ in 0..1800 {
        world.run(0.1);
        let members = world.hub.members(world.now);
        let strayed =
            |it: &&crate::mesh::hub::MemberStatus| matches!(it.origin, Some(Origin::Udp(_)));
        by_udp += members.iter().filter(strayed).count();
    }
    // Three attempts of each, of 1.5 s at most.
    assert!((2..=2 * 3 * 16).contains(&by_udp), "{by_udp} of 3600");
    assert_eq!(world.carriers(), [Some(Carrier::Tls); 2]);
    let members = world.hub.members(world.now);
    assert!(
        members
            .iter()
            .all(|it| matches!(it.origin, Some(Origin::Tls(_))))
    );
    assert_eq!(world.downs(0), 0);
    // A registration that was late by more than its attempt.
    let (id, address) = (4_000_000, world.members[0].address);
    world.members[0].link.register(id, Carrier::Udp, world.at);
    world.deaf = false;
    world.run(0.1);
    let stays = world.hub.members(world.now);
    assert!(
        stays
            .iter()
            .all(|it| it.origin != Some(Origin::Udp(address)))
    );
}

#[test]
fn a_restarted_hub_has_its_members_again_when_they_next_say_something() {
    let mut world = World::new();
    world.run(10.0);
    world.restart_hub();
    world.run(40.0);
    assert_eq!(world.carriers(), [Some(Carrier::Udp); 2]);
    for (at, member) in world.members.iter().enumerate() {
        assert_eq!(world.downs(at), 1, "{:?}", member.events);
    }
    // At once, where something is said.
    world.restart_hub();
    let frame = Frame::Relay {
        tag: Tag([1; 8]),
        hops: 0,
        datagram: &[4; 32],
    }
    .to_bytes();
    let (now, address) = (world.now, world.members[0].address);
    world.members[0].link.relayed(Tag([1; 8]), now);
    let unix = world.unix();
    world
        .hub
        .datagram(Origin::Udp(address), BytesMut::from(&frame[..]), now, unix);
    world.run(0.2);
    assert_eq!(world.downs(0), 2);
    assert_eq!(world.carriers()[0], Some(Carrier::Udp));
}
