//! Members and hubs of a world: how they are made, started and stopped, and what is theirs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net};
use vpn_core::PeerId;
use zeroize::Zeroizing;

use super::queue::{Event, Stream};
use super::{At, SiteAt, World};
use crate::mesh::hub::{Hub, HubConfig, HubStatus, Neighbour, NeighbourStatus, Origin};
use crate::mesh::identity::Identity;
use crate::mesh::link::LinkConfig;
use crate::mesh::member::{Arrived, Member, MemberConfig, MemberStatus, Transmit};
use crate::mesh::record::Record;
use crate::mesh::testing::keys::{FakeKeys, mix};
use crate::mesh::testing::nat::NatKind;
use crate::mesh::way::{HubId, Way};
use crate::mesh::wire::Token;

/// The mesh's network: room for a million members.
const MESH: (Ipv4Addr, u8) = (Ipv4Addr::new(100, 64, 0, 0), 10);

/// What admits here.
const TOKEN: &str = "world";

/// The port of hubs.
const PORT: u16 = 51820;

/// What a member sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages to hubs, relayed ones among them, and their bytes.
    pub to_hubs: [u64; 2],
    /// Messages straight to others, or to where others may be, and their bytes.
    pub direct: [u64; 2],
}

impl Counters {
    pub(super) fn sent(&mut self, to_hub: bool, bytes: usize) {
        let [messages, total] = if to_hub {
            &mut self.to_hubs
        } else {
            &mut self.direct
        };
        *messages += 1;
        *total += bytes as u64;
    }

    /// All messages.
    pub const fn messages(&self) -> u64 {
        self.to_hubs[0] + self.direct[0]
    }

    /// All bytes.
    pub const fn bytes(&self) -> u64 {
        self.to_hubs[1] + self.direct[1]
    }
}

/// A member and where it is.
#[derive(Debug)]
pub struct MemberNode {
    /// What it sent so far.
    pub counters: Counters,
    pub(super) streams: BTreeMap<HubId, Stream>,
    member: Option<Member>,
    identity: Identity,
    site: SiteAt,
    inside: SocketAddr,
    wake: Option<Instant>,
}

impl MemberNode {
    /// Its key.
    pub fn id(&self) -> PeerId {
        self.identity.id()
    }

    pub(super) const fn inside(&self) -> SocketAddr {
        self.inside
    }

    /// Where it is.
    pub const fn site(&self) -> SiteAt {
        self.site
    }

    pub(super) fn way(&self, to: PeerId) -> Option<Way> {
        self.member.as_ref()?.way(to)
    }

    /// Whether it runs.
    pub const fn is_up(&self) -> bool {
        self.member.is_some()
    }

    /// How it stands, if it runs.
    pub fn status(&self, now: Instant) -> Option<MemberStatus> {
        Some(self.member.as_ref()?.status(now))
    }
}

/// A hub and where it is.
#[derive(Debug)]
pub struct HubNode {
    /// Datagrams and stream messages that came to it, and that it sent.
    pub handled: [u64; 2],
    pub(super) streams: BTreeMap<Stream, (At, HubId)>,
    hub: Option<Hub>,
    identity: Identity,
    at: SocketAddr,
    wake: Option<Instant>,
    starts: u64,
    neighbours: Vec<Neighbour>,
    max_hops: u8,
    isolation: bool,
}

impl HubNode {
    pub(super) const fn at(&self) -> SocketAddr {
        self.at
    }

    pub(super) const fn is_up(&self) -> bool {
        self.hub.is_some()
    }

    /// What it knows of a member.
    pub fn known(&self, peer: PeerId, now: Instant) -> Option<Record> {
        let members = self.hub.as_ref()?.members(now);
        let mut records = members.iter().map(|member| member.record.record());
        records.find(|record| record.peer == peer).cloned()
    }

    /// How its neighbours stand, if it runs.
    pub fn neighbours(&self) -> Vec<NeighbourStatus> {
        self.hub.as_ref().map(Hub::neighbours).unwrap_or_default()
    }

    /// What it counted since it was started, if it runs.
    pub fn status(&self) -> Option<HubStatus> {
        Some(self.hub.as_ref()?.status())
    }
}

/// The virtual address of a member.
pub(super) fn address(at: At) -> Ipv4Addr {
    Ipv4Addr::from_bits(MESH.0.to_bits() + 1 + at.0 as u32)
}

fn network() -> IpNet {
    Ipv4Net::new(MESH.0, MESH.1).map_or_else(|_| IpNet::from(IpAddr::from(MESH.0)), IpNet::from)
}

fn identity(kind: u64, number: usize) -> Identity {
    let mut secret = [0; 32];
    for (at, part) in secret.chunks_exact_mut(8).enumerate() {
        let word = mix(mix(kind << 32 | number as u64) ^ at as u64);
        part.copy_from_slice(&word.to_le_bytes());
    }
    Identity::from_bytes(&secret)
}

impl World {
    /// Another hub, which runs. Add hubs before members: each member uses all there are.
    pub fn add_hub(&mut self) -> usize {
        let number = self.hubs.len();
        let ip = Ipv4Addr::new(9, 0, 0, 1 + number as u8);
        self.hubs.push(HubNode {
            handled: [0; 2],
            streams: BTreeMap::new(),
            hub: None,
            identity: identity(1, number),
            at: (ip, PORT).into(),
            wake: None,
            starts: 0,
            neighbours: Vec::new(),
            max_hops: 3,
            isolation: false,
        });
        self.start_hub(number);
        number
    }

    /// Two hubs are neighbours from now on: the first one joins the other, which does so too if that
    /// was said before. Both start anew.
    pub fn join_hubs(&mut self, from: usize, to: usize) {
        let mut there = Neighbour::new(self.hubs[to].identity.id());
        there.endpoints.push(self.hubs[to].at);
        let here = Neighbour::new(self.hubs[from].identity.id());
        let known = &mut self.hubs[from].neighbours;
        match known.iter_mut().find(|known| known.key == there.key) {
            Some(known) => known.endpoints = there.endpoints,
            None => {
                known.push(there);
                self.hubs[to].neighbours.push(here);
            }
        }
        self.start_hub(to);
        self.start_hub(from);
    }

    /// Most hops that a hub allows, and whether its members are isolated, from its next start on.
    pub fn limit_hub(&mut self, number: usize, max_hops: u8, isolation: bool) {
        let hub = &mut self.hubs[number];
        (hub.max_hops, hub.isolation) = (max_hops, isolation);
    }

    /// Starts a hub that knows nothing.
    pub fn start_hub(&mut self, number: usize) {
        let (now, unix) = (self.now(), self.clock.unix());
        let config = HubConfig {
            token: Some(Token(Zeroizing::new(TOKEN.into()))),
            networks: vec![network()],
            max_members: 1_000_000,
            neighbours: self.hubs[number].neighbours.clone(),
            max_hops: self.hubs[number].max_hops,
            isolation: self.hubs[number].isolation,
            ..HubConfig::default()
        };
        let node = &mut self.hubs[number];
        node.wake = None;
        node.starts += 1;
        let keys = FakeKeys::new(
            1 << 48 | node.starts << 32 | number as u64,
            self.clock.clone(),
        );
        node.hub = Hub::new(config, &node.identity, Box::new(keys), now, unix).ok();
        self.flush_hub(number);
    }

    /// A hub is gone, with all its streams. It says nothing.
    pub fn stop_hub(&mut self, number: usize) {
        let node = &mut self.hubs[number];
        (node.hub, node.wake) = (None, None);
        let streams = std::mem::take(&mut node.streams);
        for (stream, (member, hub)) in streams {
            self.stream_is(member, hub, stream, false);
        }
    }

    /// Another member in this site. It does not run yet.
    pub fn add_member(&mut self, site: SiteAt) -> At {
        let at = At(self.members.len());
        let here = &mut self.sites[site.0];
        here.members += 1;
        let inside = match here.nat.kind() {
            NatKind::Open => here.nat.outside(),
            _ => {
                Ipv4Addr::from_bits(0x0a00_0000 + ((site.0 as u32) << 8) + u32::from(here.members))
                    .into()
            }
        };
        let inside = SocketAddr::new(inside, 4000 + u16::from(here.members));
        self.inside.insert(inside, at);
        self.members.push(MemberNode {
            counters: Counters::default(),
            streams: BTreeMap::new(),
            member: None,
            identity: identity(2, at.0),
            site,
            inside,
            wake: None,
        });
        at
    }

    /// Starts a member: it knows its hubs and nothing else.
    pub fn start(&mut self, at: At) {
        self.start_with(at, |_| {});
    }

    /// The same with other settings.
    pub fn start_with(&mut self, at: At, change: impl FnOnce(&mut MemberConfig)) {
        let all: Vec<usize> = (0..self.hubs.len()).collect();
        self.start_at(at, &all, change);
    }

    /// The same with some of the hubs.
    pub fn start_at(&mut self, at: At, hubs: &[usize], change: impl FnOnce(&mut MemberConfig)) {
        let (now, unix, seed) = (self.now(), self.clock.unix(), self.draw());
        let address = IpNet::new(address(at).into(), MESH.1).unwrap_or_else(|_| network());
        let theirs: Vec<&HubNode> = hubs.iter().map(|number| &self.hubs[*number]).collect();
        let link = |(number, hub): (usize, &HubNode)| LinkConfig {
            token: Some(Token(Zeroizing::new(TOKEN.into()))),
            ..LinkConfig::new(hub.identity.id(), HubId(number as u8))
        };
        let mut config = MemberConfig {
            name: format!("m{}", at.0),
            addresses: vec![address],
            hubs: theirs.iter().copied().enumerate().map(link).collect(),
            seed: Some(seed),
            ..MemberConfig::default()
        };
        change(&mut config);
        let keys = FakeKeys::new(seed, self.clock.clone());
        let endpoints: Vec<_> = theirs.iter().map(|hub| hub.at).collect();
        let node = &mut self.members[at.0];
        let mut member = Member::new(config, node.identity.clone(), Box::new(keys), now, unix);
        for (number, endpoint) in endpoints.into_iter().enumerate() {
            member.set_endpoints(HubId(number as u8), vec![endpoint], now);
        }
        member.set_local(vec![node.inside], now, unix);
        node.member = Some(member);
        self.flush(at);
    }

    /// Stops a member; with a good-bye or without.
    pub fn stop(&mut self, at: At, politely: bool) {
        let now = self.now();
        if politely && let Some(member) = &mut self.members[at.0].member {
            member.bye(now);
            self.flush(at);
        }
        let hubs: Vec<HubId> = self.members[at.0].streams.keys().copied().collect();
        for hub in hubs {
            self.close_stream(at, hub);
        }
        let node = &mut self.members[at.0];
        (node.member, node.wake) = (None, None);
    }

    /// Wants two members to be connected.
    pub fn connect(&mut self, from: At, to: At) {
        self.connect_to(from, self.members[to.0].id());
    }

    /// Wants a member to be connected to whoever has this key.
    pub fn connect_to(&mut self, from: At, peer: PeerId) {
        let now = self.now();
        if let Some(member) = &mut self.members[from.0].member {
            member.connect(peer, now);
        }
        self.flush(from);
    }

    /// Takes the members out, for who wants to know what they cost.
    pub fn take_members(&mut self) -> Vec<Member> {
        let members = self.members.iter_mut();
        members.filter_map(|node| node.member.take()).collect()
    }

    /// Takes the hubs out.
    pub fn take_hubs(&mut self) -> Vec<Hub> {
        let hubs = self.hubs.iter_mut();
        hubs.filter_map(|node| node.hub.take()).collect()
    }

    pub(super) fn with<T>(&mut self, at: At, f: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let done = f(self.members[at.0].member.as_mut()?);
        self.flush(at);
        Some(done)
    }

    /// Sends what a member has to send, and plans its next wake-up.
    pub(super) fn flush(&mut self, at: At) {
        let (now, unix) = (self.now(), self.clock.unix());
        loop {
            let Some(member) = &mut self.members[at.0].member else {
                return;
            };
            while member.poll_event().is_some() {}
            match member.poll(now, unix) {
                Some(Transmit::Udp(to, bytes) | Transmit::Packet(to, bytes)) => {
                    self.send_udp(at, to, &bytes);
                }
                Some(Transmit::Tls(hub, bytes)) => self.send_stream(at, hub, &bytes),
                Some(Transmit::OpenTls(hub, to)) => self.open_stream(at, hub, &to),
                Some(Transmit::CloseTls(hub)) => self.close_stream(at, hub),
                None => break,
            }
        }
        let node = &mut self.members[at.0];
        let next = node.member.as_ref().and_then(Member::next_timeout);
        if let Some(next) = next
            && node.wake.is_none_or(|wake| next < wake || wake <= now)
        {
            node.wake = Some(next);
            self.queue.push(next.max(now), Event::Member(at));
        }
    }

    pub(super) fn wake_member(&mut self, at: At) {
        let (now, unix) = (self.now(), self.clock.unix());
        let node = &mut self.members[at.0];
        if node.wake.is_none_or(|wake| now < wake) {
            return;
        }
        node.wake = None;
        if let Some(member) = &mut node.member {
            if member.next_timeout().is_some_and(|next| next <= now) {
                member.handle_timeout(now, unix);
            }
            self.flush(at);
        }
    }

    /// A datagram came to a member's socket.
    pub(super) fn deliver(&mut self, at: At, from: SocketAddr, bytes: BytesMut) {
        let (now, unix) = (self.now(), self.clock.unix());
        let arrived = self.with(at, |member| member.udp(from, bytes, now, unix));
        self.arrived(at, arrived);
    }

    pub(super) fn deliver_stream(&mut self, at: At, hub: HubId, bytes: BytesMut) {
        let (now, unix) = (self.now(), self.clock.unix());
        let arrived = self.with(at, |member| member.stream(hub, bytes, now, unix));
        self.arrived(at, arrived);
    }

    fn arrived(&mut self, at: At, arrived: Option<Arrived>) {
        if let Some(Arrived::Packet(_, packet)) = arrived {
            self.packet_arrived(at, &packet);
        }
    }

    /// A stream is there, or gone.
    pub(super) fn stream_is(&mut self, at: At, hub: HubId, stream: Stream, is_open: bool) {
        let now = self.now();
        let streams = &mut self.members[at.0].streams;
        if streams.get(&hub) != Some(&stream) {
            return;
        }
        if !is_open {
            streams.remove(&hub);
        }
        self.with(at, |member| member.tls(hub, is_open, now));
    }

    /// Something came to a hub.
    pub(super) fn hub_takes(&mut self, number: usize, from: Origin, bytes: BytesMut) {
        let (now, unix) = (self.now(), self.clock.unix());
        let node = &mut self.hubs[number];
        if let Some(hub) = &mut node.hub {
            node.handled[0] += 1;
            hub.datagram(from, bytes, now, unix);
            self.flush_hub(number);
        }
    }

    pub(super) fn hub_loses(&mut self, number: usize, stream: Stream) {
        let now = self.now();
        if let Some(hub) = &mut self.hubs[number].hub {
            hub.closed(stream.0, now);
            self.flush_hub(number);
        }
    }

    fn flush_hub(&mut self, number: usize) {
        let now = self.now();
        while let Some((to, bytes)) = self.hubs[number].hub.as_mut().and_then(Hub::poll) {
            self.hubs[number].handled[1] += 1;
            match to {
                Origin::Udp(to) => {
                    let from = self.hubs[number].at;
                    self.fly(None, from, to, BytesMut::from(&bytes[..]));
                }
                Origin::Tls(stream) => self.hub_sends_stream(number, Stream(stream), &bytes),
            }
        }
        let node = &mut self.hubs[number];
        let next = node.hub.as_ref().and_then(Hub::next_timeout);
        if let Some(next) = next
            && node.wake.is_none_or(|wake| next < wake || wake <= now)
        {
            node.wake = Some(next);
            self.queue.push(next.max(now), Event::Hub(number));
        }
    }

    pub(super) fn wake_hub(&mut self, number: usize) {
        let (now, unix) = (self.now(), self.clock.unix());
        let node = &mut self.hubs[number];
        if node.wake.is_none_or(|wake| now < wake) {
            return;
        }
        node.wake = None;
        if let Some(hub) = &mut node.hub {
            if hub.next_timeout().is_some_and(|next| next <= now) {
                hub.handle_timeout(now, unix);
            }
            self.flush_hub(number);
        }
    }
}
