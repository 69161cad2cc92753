//! A world of hubs, NATs and members on virtual time: everything that happens comes from a seed, and
//! between two events no time passes for anybody.
//!
//! ```text
//!  member ── its site's NAT ── loss, delay ── the NAT of the other's site ── member
//!        └── TLS: no loss, in order ── hub ──────────────────────────────────┘
//! ```

mod network;
mod node;
mod queue;
mod traffic;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::keys::mix;
use super::nat::{Nat, NatKind};
use crate::mesh::way::Way;

pub use node::{HubNode, MemberNode};
pub use traffic::Flow;

use queue::{Event, Queue};

/// A member, by the order in which it was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At(pub usize);

/// A site, by the order in which it was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteAt(pub usize);

/// What the network outside does to datagrams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// The part (0 to 1) of datagrams that are lost.
    pub loss: f64,
    /// Shortest and longest time between two places; each pair of places has its own.
    pub delay: (Duration, Duration),
    /// By how much one datagram may be later than another: they overtake each other.
    pub jitter: Duration,
    /// How long NATs keep a mapping by which nothing goes out.
    pub mapping: Duration,
}

impl Default for Weather {
    /// No loss, 5 to 60 ms with 2 ms of jitter, mappings of 60 s.
    fn default() -> Self {
        Self {
            loss: 0.0,
            delay: (Duration::from_millis(5), Duration::from_millis(60)),
            jitter: Duration::from_millis(2),
            mapping: Duration::from_secs(60),
        }
    }
}

#[derive(Debug)]
struct Site {
    nat: Nat,
    members: u8,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    clock: Clock,
    weather: Weather,
    random: u64,
    queue: Queue,
    hubs: Vec<HubNode>,
    sites: Vec<Site>,
    members: Vec<MemberNode>,
    /// Who has an address inside.
    inside: HashMap<SocketAddr, At>,
    /// Which site has an address outside.
    outside: HashMap<IpAddr, SiteAt>,
    /// Directions in which nothing passes directly.
    cut: Vec<(At, At)>,
    /// Who hears nothing of hubs by UDP but answers to Hellos.
    deaf: Vec<At>,
    flows: HashMap<(At, At), Flow>,
    next_stream: u64,
    /// Datagrams that were lost on the way, or let in nowhere.
    lost: u64,
}

impl World {
    /// An empty one.
    pub fn new(weather: Weather, seed: u64) -> Self {
        Self {
            clock: Clock::default(),
            weather,
            random: mix(seed),
            queue: Queue::default(),
            hubs: Vec::new(),
            sites: Vec::new(),
            members: Vec::new(),
            inside: HashMap::new(),
            outside: HashMap::new(),
            cut: Vec::new(),
            deaf: Vec::new(),
            flows: HashMap::new(),
            next_stream: 0,
            lost: 0,
        }
    }

    /// What time it is.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Another weather from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// A new site behind a NAT of this kind.
    pub fn add_site(&mut self, kind: NatKind) -> SiteAt {
        let at = SiteAt(self.sites.len());
        let outside = IpAddr::from(Ipv4Addr::from(0x0b00_0001 + at.0 as u32));
        let seed = self.draw();
        self.sites.push(Site {
            nat: Nat::new(kind, outside, self.weather.mapping, seed),
            members: 0,
        });
        self.outside.insert(outside, at);
        at
    }

    /// The NAT of a site forgets its mappings.
    pub fn restart_nat(&mut self, site: SiteAt) {
        self.sites[site.0].nat.restart();
    }

    /// From now on nothing passes directly from one to the other; `false`: everything again.
    pub fn cut(&mut self, from: At, to: At, is_cut: bool) {
        self.cut.retain(|pair| *pair != (from, to));
        if is_cut {
            self.cut.push((from, to));
        }
    }

    /// From now on a member hears nothing of hubs by UDP but the answers to its Hellos, as behind a
    /// firewall that lets a first answer in; `false`: everything again.
    pub fn deafen(&mut self, at: At, is_deaf: bool) {
        self.deaf.retain(|other| *other != at);
        if is_deaf {
            self.deaf.push(at);
        }
    }

    /// By which way packets go from one to the other, if they know each other.
    pub fn way(&self, from: At, to: At) -> Option<Way> {
        self.members[from.0].way(self.members[to.0].id())
    }

    /// Whether packets go directly, both ways.
    pub fn is_direct(&self, a: At, b: At) -> bool {
        let direct = |from, to| self.way(from, to).is_some_and(Way::is_direct);
        direct(a, b) && direct(b, a)
    }

    /// Behind what a member is.
    pub fn kind(&self, at: At) -> NatKind {
        self.sites[self.members[at.0].site().0].nat.kind()
    }

    /// One member.
    pub fn member(&self, at: At) -> &MemberNode {
        &self.members[at.0]
    }

    /// One hub.
    pub fn hub(&self, at: usize) -> &HubNode {
        &self.hubs[at]
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = At> + use<> {
        (0..self.members.len()).map(At)
    }

    /// Lets this much time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now() + time;
        while let Some((at, event)) = self.queue.pop(end) {
            self.clock.set(at);
            self.happen(event);
        }
        self.clock.set(end);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Member(at) => self.wake_member(at),
            Event::Hub(hub) => self.wake_hub(hub),
            Event::Datagram {
                sender,
                from,
                to,
                bytes,
            } => self.arrive(sender, from, to, bytes),
            Event::Inside { from, to, bytes } => self.deliver(to, from, bytes),
            Event::ToHub { stream, bytes } => self.stream_to_hub(stream, bytes),
            Event::ToMember { stream, bytes } => self.stream_to_member(stream, bytes),
            Event::Opened { stream } => self.stream_opened(stream),
            Event::Packet { from, to } => self.packet_due(from, to),
        }
    }

    /// Datagrams that were lost on the way so far, or let in nowhere.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// A number from the seed.
    pub fn draw(&mut self) -> u64 {
        self.random = mix(self.random);
        self.random
    }

    /// A number from 0 to 1.
    fn chance(&mut self) -> f64 {
        self.draw() as f64 / u64::MAX as f64
    }
}
