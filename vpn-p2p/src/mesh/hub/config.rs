//! What a hub is told: who may be a member, with which addresses, and how much of everything.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use vpn_core::PeerId;

use super::neighbours::{Neighbour, NeighbourLimits};
use crate::mesh::limit::Rate;
use crate::mesh::link::{KEEPALIVE, TRIES, UNANSWERED};
use crate::mesh::wire::{Tag, Token};

/// A key that is admitted, and what is its own alone.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Whose.
    pub key: PeerId,
    /// What people call it; for status and refusals.
    pub name: String,
    /// Its virtual addresses: it may use these only, and nobody else may. None: any of
    /// [`networks`](HubConfig::networks) that nobody has.
    pub addresses: Vec<IpAddr>,
    /// Networks that may be behind it, whole or in part.
    pub routes: Vec<IpNet>,
    /// With [`isolation`](HubConfig::isolation): reaches every member, and every member reaches it.
    pub reaches_all: bool,
}

impl Admitted {
    /// A key that may have these addresses.
    pub fn new(key: PeerId, addresses: Vec<IpAddr>) -> Self {
        Self {
            key,
            name: String::new(),
            addresses,
            routes: Vec::new(),
            reaches_all: false,
        }
    }
}

/// See [`Limits::silent_after`].
const SILENT_AFTER: Duration = Duration::from_secs(90);

/// The longest that a member is silent which is there: from the last that arrived to the end of the
/// second keepalive after it, in seconds.
const SILENCE: u64 = 2 * (KEEPALIVE.as_secs() + TRIES as u64 * UNANSWERED.as_secs());
const _: () = assert!(
    SILENCE + 15 <= SILENT_AFTER.as_secs(),
    "who is there is taken for gone"
);

/// How much one client, and all together, may have. Whatever is beyond is dropped and counted.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Who joined and is not registered yet, all together; one more ends the oldest. Default 1024:
    /// a handshake takes a round trip, so that is ten thousand joins per second at 100 ms.
    pub provisional: usize,
    /// How long that may take. Default 10 s.
    pub provisional_time: Duration,
    /// After how long without a sign of life a member is taken for gone. Default 90 s: two keepalives
    /// of 34 s, each with its repetitions, may be lost, and there is a quarter of a minute to spare.
    pub silent_after: Duration,
    /// Joins of one address (IPv6: one /64); each costs a signature to check and a session. Default
    /// 20 per second, 200 at once: a hundred nodes behind one NAT that start together.
    pub joins: Rate,
    /// Hints to strangers, per address. Default 100 per second, 200 at once: a hundred nodes behind one
    /// NAT whose hub was started again.
    pub strangers: Rate,
    /// Control messages of one member. Default 100 per second, 500 at once: who starts asks for
    /// every peer it has.
    pub control: Rate,
    /// Questions of one member that other hubs are asked: each is a message to all of them. One that is
    /// beyond is not answered: its member repeats it. Default 10 per second, 100 at once: who starts asks
    /// for every peer it has.
    pub questions: Rate,
    /// Records of one member, the first one and those after it: each is a signature to check, and is
    /// told to everybody who asked for it. One that is beyond is not answered: its member repeats it.
    /// Default 1 per second, 20 at once: who starts says two, and may be started again and again.
    pub registrations: Rate,
    /// Bytes relayed for one member, as sender. Default 125 MB per second (1 Gbit/s), a quarter of a
    /// second at once.
    pub relay_bytes: Rate,
    /// Datagrams relayed for one member, as sender. Default 200,000 per second, a quarter of a second
    /// at once.
    pub relay_packets: Rate,
    /// Of each other hub.
    pub neighbours: NeighbourLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            provisional: 1024,
            provisional_time: Duration::from_secs(10),
            silent_after: SILENT_AFTER,
            joins: Rate::new(20, 200),
            strangers: Rate::new(100, 200),
            control: Rate::new(100, 500),
            questions: Rate::new(10, 100),
            registrations: Rate::new(1, 20),
            relay_bytes: Rate::new(125_000_000, 31_250_000),
            relay_packets: Rate::new(200_000, 50_000),
            neighbours: NeighbourLimits::default(),
        }
    }
}

/// What a hub is told.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// What people call it; part of its record.
    pub name: String,
    /// Where it is reached, as far as it knows; part of its record, as many as fit.
    pub endpoints: Vec<SocketAddr>,
    /// Keys that are admitted. Each has a place kept for it.
    pub members: Vec<Admitted>,
    /// Admits any key that knows it. Default: nobody.
    pub token: Option<Token>,
    /// Networks of the mesh: members without addresses of their own may choose one there, and no
    /// wider network behind a member leads there, such as that of an exit. With neighbours, it has the
    /// addresses of their members as well. Default: none.
    pub networks: Vec<IpNet>,
    /// Members, with those that are away and whose record is still good. Default 1000.
    pub max_members: usize,
    /// Members reach each other only where one of them [reaches all](Admitted::reaches_all).
    pub isolation: bool,
    /// Other hubs, whose members ours reach, and which ours are told of. Default none.
    pub neighbours: Vec<Neighbour>,
    /// Most hops from one member to another, 2 to [`MAX_HOPS`](super::MAX_HOPS): from member to hub,
    /// from hub to hub, from hub to member. What needs more is not found, and dropped. Default 3: two
    /// hubs in a line.
    pub max_hops: u8,
    /// How much of everything.
    pub limits: Limits,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            endpoints: Vec::new(),
            members: Vec::new(),
            token: None,
            networks: Vec::new(),
            max_members: 1000,
            isolation: false,
            neighbours: Vec::new(),
            max_hops: 3,
            limits: Limits::default(),
        }
    }
}

/// Why there is no hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Two members of the list have one key, or keys that begin with the same eight bytes.
    #[error("two members have the key {0}, or keys that begin alike")]
    Key(PeerId),
    /// Two members of the list are given one address.
    #[error("{0} is given to two members")]
    Address(IpAddr),
    /// A list that is longer than the members there may be.
    #[error("max_members is {most}, and {listed} keys are listed")]
    Members {
        /// `max_members`.
        most: usize,
        /// Keys of the list.
        listed: usize,
    },
    /// Hops that no member can make, or too many.
    #[error("max_hops is {0}: 2 is this hub alone, and 8 is the most")]
    Hops(u8),
    /// A question would go to too many.
    #[error("{0} neighbours: 16 is the most")]
    Neighbours(usize),
    /// Another hub that is listed twice, is a member as well, or is this one.
    #[error("the neighbour {0} is listed twice, as a member as well, or is this hub")]
    Neighbour(PeerId),
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    Random(#[source] std::io::Error),
}

/// The list of admitted keys, to be looked up.
#[derive(Debug)]
pub(super) struct List {
    by_tag: HashMap<Tag, Admitted>,
    pinned: HashMap<IpAddr, Tag>,
    routes: Vec<(IpNet, Tag)>,
}

impl List {
    pub(super) fn new(config: &HubConfig) -> Result<Self, HubError> {
        let listed = config.members.len();
        if listed > config.max_members {
            let most = config.max_members;
            return Err(HubError::Members { most, listed });
        }
        let (mut by_tag, mut pinned) = (HashMap::new(), HashMap::new());
        let mut routes = Vec::new();
        for admitted in &config.members {
            let tag = Tag::from(admitted.key);
            for &address in &admitted.addresses {
                if pinned.insert(address, tag).is_some() {
                    return Err(HubError::Address(address));
                }
            }
            routes.extend(admitted.routes.iter().map(|route| (*route, tag)));
            if by_tag.insert(tag, admitted.clone()).is_some() {
                return Err(HubError::Key(admitted.key));
            }
        }
        Ok(Self {
            by_tag,
            pinned,
            routes,
        })
    }

    /// What the list says of this key.
    pub(super) fn of(&self, peer: PeerId) -> Option<&Admitted> {
        self.by_tag
            .get(&Tag::from(peer))
            .filter(|admitted| admitted.key == peer)
    }

    /// The listed key that begins so.
    pub(super) fn by_tag(&self, tag: Tag) -> Option<&Admitted> {
        self.by_tag.get(&tag)
    }

    /// To whom an address is given.
    pub(super) fn pinned(&self, address: IpAddr) -> Option<Tag> {
        self.pinned.get(&address).copied()
    }

    /// Whether an address is in a network that may be behind somebody else. One that leads everywhere
    /// says nothing about whose an address is.
    pub(super) fn is_behind_another(&self, address: IpAddr, tag: Tag) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|(route, owner)| {
            *owner != tag && route.prefix_len() > 0 && route.contains(&address)
        })
    }

    pub(super) fn len(&self) -> usize {
        self.by_tag.len()
    }
}
