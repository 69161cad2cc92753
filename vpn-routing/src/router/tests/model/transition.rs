//! What may happen to a router, for the [model](super).

use proptest::prelude::*;
use vpn_core::rule::RuleProtocol;

pub(super) const PORTS: u8 = 4;
pub(super) const USERS: u8 = 3;
pub(super) const TUNNELS: u8 = 3;
/// Places of rules; the first ones are those of users.
pub(super) const RULES: u8 = 8;
pub(super) const NAMES: [&str; 3] = ["example.com", "www.example.com", "other.test"];
pub(super) const PATTERNS: [&str; 4] =
    ["example.com", ".example.com", "*.example.com", "other.test"];

/// A packet's protocol and message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Udp,
    Syn,
    Ack,
    Fin,
    Rst,
    Echo,
}

/// Where a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Site,
    Site443,
    Site6,
    /// The virtual resolver; in UDP, a query for one of [`NAMES`].
    Resolver(u8),
}

/// Where a rule leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    Tunnel(u8),
    Group,
    Block,
}

/// What a live connection does when its rule leads elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Keep,
    Reset,
    Drop,
}

/// A rule, written short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) user: Option<u8>,
    pub(super) to: Option<To>,
    pub(super) from: Option<bool>,
    pub(super) port: Option<u16>,
    pub(super) protocol: Option<RuleProtocol>,
    pub(super) v6: Option<bool>,
    pub(super) domain: Option<u8>,
    pub(super) lead: Lead,
    pub(super) fallback: Option<u8>,
    pub(super) change: Change,
}

impl Short {
    /// All that a user does.
    pub(super) const fn of_user(user: u8, lead: Lead) -> Self {
        Self {
            user: Some(user),
            to: None,
            from: None,
            port: None,
            protocol: None,
            v6: None,
            domain: None,
            lead,
            fallback: None,
            change: Change::Keep,
        }
    }
}

/// A tunnel's state; up with one of four sets of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up(u8),
    Down,
    Connecting,
    Dormant,
}

#[derive(Clone, Debug)]
pub(super) enum Transition {
    Send {
        port: u8,
        kind: Kind,
        to: To,
        count: u8,
    },
    /// A datagram in pieces, from this piece on and round again, or the other way.
    Fragments {
        port: u8,
        to: To,
        first: u8,
        backwards: bool,
    },
    /// Bytes that are nobody's, from the device or a tunnel.
    Noise {
        bytes: Vec<u8>,
        tunnel: Option<u8>,
    },
    /// The far end answers something that came through a tunnel, or another tunnel does.
    Reply {
        which: u16,
        wrong: bool,
        kind: u8,
    },
    /// A router behind a tunnel says that something that came through it did not arrive; or one
    /// behind another tunnel says so.
    ErrorIn {
        which: u16,
        wrong: bool,
    },
    /// This host says so of an answer.
    ErrorOut {
        which: u16,
    },
    Rule {
        place: u8,
        rule: Option<Short>,
    },
    /// Another user's socket gets the port.
    Take {
        port: u8,
        user: u8,
    },
    Tunnel {
        tunnel: u8,
        state: State,
    },
    /// Removed, and added again under its name.
    Replace {
        tunnel: u8,
    },
    Advance {
        ms: u32,
    },
    /// Owners are found later from now on, or at once.
    SlowOwners(bool),
    /// One of the questions is answered; possibly twice, or with "nobody".
    Answer {
        which: u16,
        twice: bool,
        nobody: bool,
    },
    /// The tunnel takes no more, or takes again.
    Stall {
        tunnel: u8,
        stalled: bool,
    },
    /// What it takes is lost.
    Lose {
        tunnel: u8,
        count: u8,
    },
}

impl Transition {
    /// For the count of what was run.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Send { .. } => "send",
            Self::Fragments { .. } => "fragments",
            Self::Noise { .. } => "noise",
            Self::Reply { .. } => "reply",
            Self::ErrorIn { .. } => "error in",
            Self::ErrorOut { .. } => "error out",
            Self::Rule { .. } => "rule",
            Self::Take { .. } => "take",
            Self::Tunnel { .. } => "tunnel",
            Self::Replace { .. } => "replace",
            Self::Advance { .. } => "advance",
            Self::SlowOwners(_) => "slow owners",
            Self::Answer { .. } => "answer",
            Self::Stall { .. } => "stall",
            Self::Lose { .. } => "lose",
        }
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::Udp,
        Kind::Udp,
        Kind::Syn,
        Kind::Ack,
        Kind::Fin,
        Kind::Rst,
        Kind::Echo,
    ])
}

fn to() -> impl Strategy<Value = To> {
    prop_oneof![
        2 => Just(To::Site),
        1 => Just(To::Site443),
        1 => Just(To::Site6),
        2 => (0..NAMES.len() as u8).prop_map(To::Resolver),
    ]
}

fn lead() -> impl Strategy<Value = Lead> {
    prop_oneof![
        4 => (0..TUNNELS).prop_map(Lead::Tunnel),
        1 => Just(Lead::Group),
        1 => Just(Lead::Block),
    ]
}

fn short() -> impl Strategy<Value = Short> {
    let protocols = vec![RuleProtocol::Tcp, RuleProtocol::Udp, RuleProtocol::Icmp];
    let who = (
        prop::option::weighted(0.7, 0..USERS),
        prop::option::weighted(0.3, to()),
        prop::option::weighted(0.1, any::<bool>()),
        prop::option::weighted(0.2, prop::sample::select(vec![80u16, 443, 53])),
    );
    let what = (
        prop::option::weighted(0.2, prop::sample::select(protocols)),
        prop::option::weighted(0.1, any::<bool>()),
        prop::option::weighted(0.3, 0..PATTERNS.len() as u8),
    );
    let change = prop::sample::select(vec![Change::Keep, Change::Reset, Change::Drop]);
    let then = (lead(), prop::option::weighted(0.2, 0..TUNNELS), change);
    (who, what, then).prop_map(|(who, what, then)| Short {
        user: who.0,
        to: who.1,
        from: who.2,
        port: who.3,
        protocol: what.0,
        v6: what.1,
        domain: what.2,
        lead: then.0,
        // A rule that falls back to itself is a load error.
        fallback: then.1.filter(|tunnel| then.0 != Lead::Tunnel(*tunnel)),
        change: then.2,
    })
}

fn rule() -> impl Strategy<Value = Transition> {
    prop_oneof![
        2 => (0..USERS, lead()).prop_map(|(user, lead)| Transition::Rule {
            place: user,
            rule: Some(Short::of_user(user, lead)),
        }),
        1 => (USERS..RULES, prop::option::weighted(0.6, short()))
            .prop_map(|(place, rule)| Transition::Rule { place, rule }),
    ]
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        4 => (0..4u8).prop_map(State::Up),
        2 => Just(State::Down),
        2 => Just(State::Connecting),
        1 => Just(State::Dormant),
    ]
}

fn packets() -> impl Strategy<Value = Transition> {
    let noise = (
        prop::collection::vec(any::<u8>(), 0..64),
        prop::option::of(0..TUNNELS),
    );
    prop_oneof![
        12 => (0..PORTS, kind(), to(), 1..4u8)
            .prop_map(|(port, kind, to, count)| Transition::Send { port, kind, to, count }),
        2 => (0..PORTS, to(), 0..4u8, any::<bool>()).prop_map(|(port, to, first, backwards)| {
            Transition::Fragments { port, to, first, backwards }
        }),
        1 => noise.prop_map(|(bytes, tunnel)| Transition::Noise { bytes, tunnel }),
        5 => (any::<u16>(), prop::bool::weighted(0.2), 0..4u8)
            .prop_map(|(which, wrong, kind)| Transition::Reply { which, wrong, kind }),
        1 => (any::<u16>(), prop::bool::weighted(0.2))
            .prop_map(|(which, wrong)| Transition::ErrorIn { which, wrong }),
        1 => any::<u16>().prop_map(|which| Transition::ErrorOut { which }),
    ]
}

pub(super) fn any_transition() -> impl Strategy<Value = Transition> {
    let t = 0..TUNNELS;
    let ms = vec![0u32, 1, 2, 300, 499, 501, 5000, 10_001, 60_000, 300_000];
    prop_oneof![
        22 => packets(),
        4 => rule(),
        3 => (0..PORTS, 0..USERS).prop_map(|(port, user)| Transition::Take { port, user }),
        4 => (t.clone(), state()).prop_map(|(tunnel, state)| Transition::Tunnel { tunnel, state }),
        1 => t.clone().prop_map(|tunnel| Transition::Replace { tunnel }),
        3 => prop::sample::select(ms).prop_map(|ms| Transition::Advance { ms }),
        1 => any::<bool>().prop_map(Transition::SlowOwners),
        5 => (any::<u16>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(which, twice, nobody)| Transition::Answer { which, twice, nobody }),
        1 => (t.clone(), any::<bool>())
            .prop_map(|(tunnel, stalled)| Transition::Stall { tunnel, stalled }),
        1 => (t, 0..5u8).prop_map(|(tunnel, count)| Transition::Lose { tunnel, count }),
    ]
}

/// One port that goes from hand to hand while its owners are slowly found.
pub(super) fn quarrel() -> impl Strategy<Value = Transition> {
    let kinds = prop::sample::select(vec![Kind::Udp, Kind::Syn, Kind::Ack]);
    let ms = prop::sample::select(vec![1u32, 499, 501]);
    prop_oneof![
        4 => kinds.prop_map(|kind| Transition::Send { port: 0, kind, to: To::Site, count: 1 }),
        2 => (0..USERS).prop_map(|user| Transition::Take { port: 0, user }),
        2 => ms.prop_map(|ms| Transition::Advance { ms }),
        2 => any::<u16>().prop_map(|which| {
            Transition::Answer { which, twice: false, nobody: false }
        }),
        1 => any::<bool>().prop_map(Transition::SlowOwners),
        1 => (0..TUNNELS, 0..2u8).prop_map(|(tunnel, set)| {
            Transition::Tunnel { tunnel, state: State::Up(set) }
        }),
        1 => (0..TUNNELS).prop_map(|tunnel| {
            Transition::Tunnel { tunnel, state: State::Connecting }
        }),
    ]
}
