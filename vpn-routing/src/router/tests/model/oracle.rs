//! The naive router: facts in lists, and every question answered by searching all of them.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;
use vpn_core::{
    Action, Assigned, DomainName, DownCause, Family, FlowKey, OnChange, OnDown, OwnerMatch,
    PortRange, Rule, RuleId, RuleMatch, TransportState,
};

use super::super::world::{SITE, SITE6, addr};
use super::transition::*;
use crate::rules::tests::oracle::rank;

pub(super) const RESOLVER: &str = "10.99.0.1";
pub(super) const GROUP: &str = "both";
/// The first two tunnels, in this order.
pub(super) const MEMBERS: [u8; 2] = [0, 1];
/// How long a member has to be up to be preferred again.
pub(super) const FAIL_BACK: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) state: State,
    /// What it was last assigned.
    pub(super) set: Option<u8>,
    up_since: Duration,
}

/// Who held a port from which step on: user and socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) port: u8,
    pub(super) from: usize,
    pub(super) user: u8,
    pub(super) socket: u64,
}

/// Where a flow goes now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through one of these, all of them up.
    Through(Vec<u8>),
    /// It waits, or goes nowhere until something comes up.
    Nowhere,
    Blocked,
}

/// What happened, and nothing that follows from it.
#[derive(Clone, Debug)]
pub(super) struct Oracle {
    pub(super) step: usize,
    pub(super) now: Duration,
    pub(super) rules: [Option<Short>; RULES as usize],
    pub(super) tunnels: [Facts; TUNNELS as usize],
    pub(super) holders: Vec<Holder>,
    pub(super) slow: bool,
    pub(super) stalled: [bool; TUNNELS as usize],
    /// Removed in this step: for a moment it is a tunnel that is down.
    pub(super) removed: Option<u8>,
}

/// A name that is known for an address, and the tunnel whose resolver said so; `None` stands for
/// every tunnel.
pub(super) type Known = (Option<u8>, IpAddr, DomainName);

impl ReferenceStateMachine for Oracle {
    type State = Self;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::new()).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Transition> {
        any_transition().boxed()
    }

    fn apply(mut state: Self, transition: &Transition) -> Self {
        state.happened(transition);
        state
    }
}

impl Oracle {
    pub(super) fn new() -> Self {
        let up = Facts {
            state: State::Up(0),
            set: Some(0),
            up_since: Duration::ZERO,
        };
        let mut oracle = Self {
            step: 0,
            now: Duration::ZERO,
            rules: [None; RULES as usize],
            tunnels: [up; TUNNELS as usize],
            holders: Vec::new(),
            slow: false,
            stalled: [false; TUNNELS as usize],
            removed: None,
        };
        for user in 0..USERS {
            let lead = Lead::Tunnel(user % TUNNELS);
            oracle.rules[usize::from(user)] = Some(Short::of_user(user, lead));
        }
        for port in 0..PORTS {
            oracle.take(port, port % USERS);
        }
        oracle
    }

    pub(super) fn happened(&mut self, transition: &Transition) {
        self.step += 1;
        self.removed = None;
        match transition {
            Transition::Rule { place, rule } => self.rules[usize::from(*place)] = *rule,
            Transition::Take { port, user } => {
                // Two system calls and a wake-up.
                self.now += Duration::from_millis(1);
                self.take(*port, *user);
            }
            Transition::Tunnel { tunnel, state } => {
                let facts = &mut self.tunnels[usize::from(*tunnel)];
                if !matches!(facts.state, State::Up(_)) {
                    facts.up_since = self.now;
                }
                facts.state = *state;
                if let State::Up(set) = state {
                    facts.set = Some(*set);
                }
            }
            Transition::Replace { tunnel } => {
                let facts = &mut self.tunnels[usize::from(*tunnel)];
                (facts.state, facts.set) = (State::Connecting, None);
                self.removed = Some(*tunnel);
            }
            Transition::Advance { ms } => self.now += Duration::from_millis((*ms).into()),
            Transition::SlowOwners(slow) => self.slow = *slow,
            Transition::Stall { tunnel, stalled } => self.stalled[usize::from(*tunnel)] = *stalled,
            _ => {}
        }
    }

    fn take(&mut self, port: u8, user: u8) {
        self.holders.push(Holder {
            port,
            from: self.step,
            user,
            socket: self.holders.len() as u64 + 1,
        });
    }

    pub(super) fn holder(&self, port: u8) -> Holder {
        let held = self.holders.iter().rfind(|held| held.port == port);
        *held.unwrap()
    }

    /// Who may have sent something in `step` that is routed now: whoever held the port then or
    /// since.
    pub(super) fn holders_since(&self, port: u8, step: usize) -> &[Holder] {
        let then = |held: &Holder| held.port == port && held.from <= step;
        let first = self.holders.iter().rposition(then).unwrap();
        &self.holders[first..]
    }

    /// The rules as people write them.
    pub(super) fn written(&self) -> Vec<Rule> {
        let places = self.rules.iter().enumerate();
        places
            .filter_map(|(place, rule)| Some(written(place as u64 + 1, &(*rule)?)))
            .collect()
    }

    /// The rule that decides for this user, whose flow's address is known by these names: the
    /// highest of all that match. What nobody owns is decided by rules that name its source, and
    /// no owner.
    pub(super) fn decide(&self, user: Option<u8>, flow: &FlowKey, known: &[Known]) -> Option<Rule> {
        let meant = |rule: &Rule| {
            let m = &rule.matches;
            let owned = match &m.owner {
                Some(OwnerMatch::Uid(uid)) => user.is_some_and(|user| *uid == u32::from(user)),
                _ => user.is_some() || m.source.is_some(),
            };
            let named = m.domain.as_ref().is_none_or(|pattern| {
                known.iter().any(|(said, at, name)| {
                    let counts = match (said, &rule.action) {
                        (Some(said), Action::Tunnel(to)) => *to == said.to_string(),
                        _ => true,
                    };
                    counts && *at == flow.dst() && pattern.matches(name)
                })
            });
            owned && named && m.matches_flow(flow)
        };
        self.written().into_iter().filter(meant).max_by_key(rank)
    }

    /// Where that leads now.
    pub(super) fn way(&self, rule: Option<&Rule>) -> Way {
        let Some(rule) = rule else {
            return Way::Blocked;
        };
        let first = match &rule.action {
            Action::Tunnel(name) => self.through(name),
            Action::Group(_) => self.through_group(),
            _ => return Way::Blocked,
        };
        match (first, &rule.on_down) {
            (None, OnDown::Fallback(name)) => self.through(name).unwrap_or(Way::Nowhere),
            (first, _) => first.unwrap_or(Way::Nowhere),
        }
    }

    /// As it is while a tunnel is being removed.
    pub(super) fn during_removal(&self) -> Option<Self> {
        let removed = self.removed?;
        let mut then = self.clone();
        then.tunnels[usize::from(removed)].state = State::Down;
        Some(then)
    }

    /// `None`: down.
    fn through(&self, name: &str) -> Option<Way> {
        let tunnel: u8 = name.parse().unwrap();
        match self.tunnels[usize::from(tunnel)].state {
            State::Up(_) => Some(Way::Through(vec![tunnel])),
            State::Connecting | State::Dormant => Some(Way::Nowhere),
            State::Down => None,
        }
    }

    fn through_group(&self) -> Option<Way> {
        let state = |member: &u8| self.tunnels[usize::from(*member)];
        let up = |member: &u8| matches!(state(member).state, State::Up(_));
        let members: Vec<u8> = MEMBERS.into_iter().filter(up).collect();
        match members.first() {
            // It is preferred again, or was never left.
            Some(first) if state(first).up_since + FAIL_BACK <= self.now => {
                Some(Way::Through(vec![*first]))
            }
            Some(_) => Some(Way::Through(members)),
            None if MEMBERS.iter().all(|m| state(m).state == State::Down) => None,
            None => Some(Way::Nowhere),
        }
    }

    pub(super) fn is_up(&self, tunnel: u8) -> bool {
        matches!(self.tunnels[usize::from(tunnel)].state, State::Up(_))
    }

    pub(super) fn assigned(&self, tunnel: u8) -> Option<Assigned> {
        self.tunnels[usize::from(tunnel)]
            .set
            .map(|set| assigned(tunnel, set))
    }

    pub(super) fn transport_state(&self, tunnel: u8) -> TransportState {
        match self.tunnels[usize::from(tunnel)].state {
            State::Up(set) => TransportState::Up(assigned(tunnel, set).into()),
            State::Down => TransportState::Down(DownCause::NoAnswer),
            State::Connecting => TransportState::Connecting,
            State::Dormant => TransportState::Dormant,
        }
    }
}

fn written(id: u64, short: &Short) -> Rule {
    let net = |addr: IpAddr| IpNet::from(addr);
    let matches = RuleMatch {
        owner: short.user.map(|user| OwnerMatch::Uid(user.into())),
        source: short.from.map(|wide| match wide {
            true => "10.0.0.0/8".parse().unwrap(),
            false => "10.5.0.2/32".parse().unwrap(),
        }),
        destination: short.to.map(|to| net(to.addr())),
        domain: short
            .domain
            .map(|at| PATTERNS[usize::from(at)].parse().unwrap()),
        family: short.v6.map(|v6| if v6 { Family::V6 } else { Family::V4 }),
        ports: short.port.map(PortRange::single),
        protocol: short.protocol,
        ..RuleMatch::default()
    };
    let action = match short.lead {
        Lead::Tunnel(tunnel) => Action::Tunnel(tunnel.to_string()),
        Lead::Group => Action::Group(GROUP.to_owned()),
        Lead::Block => Action::Block,
    };
    let rule = Rule::new(RuleId(id), matches, action).on_change(match short.change {
        Change::Keep => OnChange::Keep,
        Change::Reset => OnChange::Reset,
        Change::Drop => OnChange::Drop,
    });
    match short.fallback {
        Some(tunnel) => rule.on_down(OnDown::Fallback(tunnel.to_string())),
        None => rule,
    }
}

fn assigned(tunnel: u8, set: u8) -> Assigned {
    let nets: Vec<String> = match set {
        0 => vec!["10.5.0.2/32".into(), "fd00:5::2/128".into()],
        1 => vec![
            format!("10.6.{tunnel}.2/24"),
            format!("fd00:6:{tunnel}::2/64"),
        ],
        2 => vec!["10.5.0.9/16".into()],
        _ => vec!["fd00:5::2/128".into(), "10.5.0.2/32".into()],
    };
    Assigned {
        addresses: nets.iter().map(|n| n.parse().unwrap()).collect(),
        dns: vec![IpAddr::from([10, 64, tunnel, set])],
        mtu: [1420, 1400, 1280, 1440][usize::from(set)],
        ..Assigned::default()
    }
}

impl To {
    pub(super) fn addr(self) -> IpAddr {
        match self {
            Self::Site | Self::Site443 => addr(SITE),
            Self::Site6 => addr(SITE6),
            Self::Resolver(_) => addr(RESOLVER),
        }
    }

    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Site | Self::Site6 => 80,
            Self::Site443 => 443,
            Self::Resolver(_) => 53,
        }
    }
}
