//! Groups on virtual time.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use vpn_core::{FlowKey, Owner, Protocol, TunnelId};

use super::{Choice, Group, GroupConfig, GroupError, HashBy, Policy, Reason, Standing};
use Standing::{Down, Up, Waiting};

const SECOND: Duration = Duration::from_secs(1);

fn id(index: u16) -> TunnelId {
    TunnelId::new(index)
}

fn flow(number: u32) -> FlowKey {
    let dst = std::net::Ipv4Addr::from_bits(0xc000_0200 | number);
    let port = 1024 + (number % 60_000) as u16;
    FlowKey::new(
        Protocol::TCP,
        ([10, 5, 0, 2].into(), port),
        (dst.into(), 443),
    )
}

struct Bench {
    group: Group,
    now: Instant,
}

impl Bench {
    fn new(members: u16, policy: Policy) -> Self {
        let config = GroupConfig::new("any", (0..members).map(id)).policy(policy);
        assert_eq!(config.check(|_| true), Ok(()));
        let now = Instant::now();
        Self {
            group: Group::new(now, config, |_| Down),
            now,
        }
    }

    fn set(&mut self, member: u16, standing: Standing) -> bool {
        self.group.set_standing(self.now, id(member), standing)
    }

    fn up(&mut self, members: impl IntoIterator<Item = u16>) {
        for member in members {
            self.set(member, Up);
        }
    }

    /// Lets time pass, with every timeout on the way at its time.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(at) = self.group.next_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.group.handle_timeout(at);
            assert_ne!(self.group.next_timeout(), Some(at), "time stands still");
        }
        self.now = end;
    }

    fn trip(&mut self, member: u16, millis: u64) {
        let measured = Duration::from_millis(millis);
        self.group.set_round_trip(self.now, id(member), measured);
    }

    fn of(&self, number: u32) -> Option<usize> {
        let choice = self.group.choose(&flow(number), None);
        choice.map(|choice| choice.tunnel.index())
    }
}

#[test]
fn the_first_that_is_up_is_used_and_comes_back_after_a_while() {
    let mut b = Bench::new(3, Policy::Ordered);
    assert_eq!(b.of(1), None);
    b.up([0, 1, 2]);
    assert_eq!(b.of(1), Some(0));
    assert!(b.set(0, Down), "flows move at once");
    assert_eq!(b.of(1), Some(1));
    b.advance(60 * SECOND);
    assert!(!b.set(0, Up), "nothing moves yet");
    b.advance(10 * SECOND - Duration::from_millis(1));
    assert_eq!(b.of(1), Some(1));
    b.advance(Duration::from_millis(1));
    assert_eq!(b.of(1), Some(0), "back after the delay");
    assert_eq!(b.group.next_timeout(), None, "nothing left to wait for");
}

#[test]
fn a_member_that_flaps_moves_its_flows_once() {
    let mut b = Bench::new(2, Policy::Ordered);
    b.up([0, 1]);
    let mut moves = 0;
    let mut before = b.of(1);
    for _ in 0..100 {
        for standing in [Down, Up] {
            b.set(0, standing);
            b.advance(4 * SECOND);
            moves += u32::from(b.of(1) != before);
            before = b.of(1);
        }
    }
    assert_eq!((moves, before), (1, Some(1)));
    b.set(1, Down);
    assert_eq!(b.of(1), Some(0), "better one that flapped than none");
}

/// Where two come back, the steady one is taken when the one in use fails.
#[test]
fn a_steady_member_is_preferred_to_one_that_just_came_back() {
    let mut b = Bench::new(3, Policy::Ordered);
    b.up([0, 1, 2]);
    b.advance(20 * SECOND);
    b.set(0, Down);
    b.set(0, Up);
    b.set(1, Down);
    assert_eq!(b.of(1), Some(2));
}

#[test]
fn none_up_waits_on_the_one_that_would_be_chosen_and_all_down_is_no_choice() {
    let mut b = Bench::new(2, Policy::Ordered);
    b.set(1, Waiting);
    let waited = Choice {
        tunnel: id(1),
        reason: Reason::Waiting,
    };
    assert_eq!(b.group.choose(&flow(1), None), Some(waited));
    assert!(b.set(0, Waiting));
    assert_eq!(b.of(1), Some(0));
    assert!(b.set(1, Up), "one that is up beats one that is waited for");
    assert_eq!(b.of(1), Some(1));
    b.set(1, Down);
    b.set(0, Down);
    assert_eq!(b.of(1), None);
}

#[test]
fn the_fastest_is_used_with_hysteresis() {
    let tolerance = Duration::from_millis(10);
    let mut b = Bench::new(3, Policy::Latency { tolerance });
    b.up([0, 1, 2]);
    b.advance(20 * SECOND);
    assert_eq!(b.of(1), Some(0), "nothing is known: by order");
    b.trip(1, 50);
    assert_eq!(b.of(1), Some(1), "known beats unknown");
    b.trip(2, 41);
    assert_eq!(b.of(1), Some(1), "not enough better");
    b.trip(2, 39);
    assert_eq!(b.of(1), Some(2));
    b.trip(1, 30);
    assert_eq!(b.of(1), Some(2));
    b.set(2, Down);
    assert_eq!(b.of(1), Some(1), "at once, whatever the tolerance");
    b.set(2, Up);
    b.trip(2, 1);
    assert_eq!(b.of(1), Some(1), "not steady yet");
    b.advance(10 * SECOND);
    assert_eq!(b.of(1), Some(2));
}

#[test]
fn shares_are_in_proportion_to_weights() {
    let weights = vec![1, 2, 5];
    let mut b = Bench::new(3, Policy::Weighted(weights.clone()));
    b.up([0, 1, 2]);
    let mut shares = [0u32; 3];
    let flows = 20_000;
    for number in 0..flows {
        shares[b.of(number).unwrap()] += 1;
    }
    for (share, weight) in shares.iter().zip(weights) {
        let expected = flows * weight / 8;
        let off = share.abs_diff(expected);
        assert!(off < expected / 10, "{shares:?}");
    }
}

#[test]
fn an_owner_hash_keeps_an_application_together() {
    let mut b = Bench::new(4, Policy::Hash(HashBy::Owner));
    b.up(0..4);
    let mut members = std::collections::HashSet::new();
    for uid in 0..40 {
        let owner = Owner::user(uid);
        let of = |number| {
            b.group
                .choose(&flow(number), Some(&owner))
                .map(|c| c.tunnel)
        };
        assert!((1..100).all(|number| of(number) == of(0)));
        members.insert(of(0));
    }
    assert_eq!(members.len(), 4, "and applications apart");
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let check = |config: GroupConfig| config.check(|tunnel| tunnel.index() < 3);
    let group = || "any".to_owned();
    let members = |members: &[u16]| GroupConfig::new("any", members.iter().map(|&m| id(m)));
    assert_eq!(check(members(&[0, 2])), Ok(()));
    let none = GroupError::Members {
        group: group(),
        count: 0,
    };
    assert_eq!(check(members(&[])), Err(none));
    let missing = GroupError::NoSuchTunnel {
        group: group(),
        tunnel: id(3),
    };
    assert_eq!(check(members(&[0, 3])), Err(missing));
    let twice = GroupError::MemberTwice {
        group: group(),
        tunnel: id(1),
    };
    assert_eq!(check(members(&[1, 0, 1])), Err(twice));
    for weights in [vec![1], vec![1, 0]] {
        let config = members(&[0, 1]).policy(Policy::Weighted(weights));
        assert_eq!(check(config), Err(GroupError::Weights { group: group() }));
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Ordered),
        Just(Policy::Latency {
            tolerance: Duration::from_millis(5)
        }),
        Just(Policy::Weighted(vec![3, 1, 2, 9])),
        Just(Policy::Hash(HashBy::Addresses)),
        Just(Policy::Hash(HashBy::Owner)),
    ]
}

fn standings() -> impl Strategy<Value = Standing> {
    prop_oneof![Just(Up), Just(Waiting), Just(Down)]
}

proptest! {
    /// Whatever happens: never a member that is down, never one that waits while another is up,
    /// and never none while there is one.
    #[test]
    fn the_member_chosen_is_the_best_there_is(
        policy in policies(),
        steps in prop::collection::vec((0u16..4, standings(), 0u64..15_000, 1u64..80), 1..60),
    ) {
        let mut b = Bench::new(4, policy);
        let mut model = [Down; 4];
        for (member, standing, millis, trip) in steps {
            let before: Vec<_> = (0..20).map(|n| b.of(n)).collect();
            let told = b.set(member, standing);
            let after: Vec<_> = (0..20).map(|n| b.of(n)).collect();
            prop_assert!(told || before == after, "a move nobody was told of");
            model[usize::from(member)] = standing;
            if standing == Up {
                b.trip(member, trip);
            }
            b.advance(Duration::from_millis(millis));
            let best = [Up, Waiting].into_iter().find(|s| model.contains(s));
            for number in 0..20 {
                prop_assert_eq!(b.of(number).map(|place| model[place]), best);
            }
        }
    }

    /// A member that leaves moves its own flows only, and so does one that comes back.
    #[test]
    fn spread_load_moves_no_more_than_it_must(
        weighted in any::<bool>(),
        members in 2u16..8,
        leaving in any::<prop::sample::Index>(),
    ) {
        let policy = match weighted {
            true => Policy::Weighted((1..=u32::from(members)).collect()),
            false => Policy::Hash(HashBy::Addresses),
        };
        let leaving = leaving.index(usize::from(members)) as u16;
        let mut b = Bench::new(members, policy);
        b.up(0..members);
        let all: Vec<_> = (0..200).map(|n| b.of(n)).collect();
        b.set(leaving, Down);
        for (number, before) in (0..).zip(&all) {
            if *before != Some(usize::from(leaving)) {
                prop_assert_eq!(b.of(number), *before);
            }
        }
        b.set(leaving, Up);
        b.advance(9 * SECOND);
        prop_assert!((0..200).all(|n| b.of(n) != Some(usize::from(leaving))));
        b.advance(SECOND);
        let again: Vec<_> = (0..200).map(|n| b.of(n)).collect();
        prop_assert_eq!(all, again);
    }

    /// From one that is up, flows go to another only if that was up for the whole delay, or is up
    /// for the first time.
    #[test]
    fn only_a_steady_member_takes_over_from_one_that_is_up(
        latency in any::<bool>(),
        steps in prop::collection::vec((0u16..3, standings(), 0u64..6_000), 1..80),
    ) {
        let policy = match latency {
            true => Policy::Latency { tolerance: Duration::from_millis(5) },
            false => Policy::Ordered,
        };
        let mut b = Bench::new(3, policy);
        for member in 0..3 {
            b.trip(member, 10 * u64::from(member + 1));
        }
        let mut since: [Option<Instant>; 3] = [None; 3];
        let (mut stood, mut fell) = ([Down; 3], [false; 3]);
        for (member, standing, millis) in steps {
            let place = usize::from(member);
            let mut before = b.of(0);
            b.set(member, standing);
            fell[place] |= stood[place] != standing && (stood[place] == Up || standing == Down);
            stood[place] = standing;
            since[place] = match standing {
                Up => since[place].or(Some(b.now)),
                _ => None,
            };
            let end = b.now + Duration::from_millis(millis);
            loop {
                let after = b.of(0);
                if let (Some(old), Some(new)) = (before, after)
                    && old != new
                    && since[old].is_some()
                {
                    let steady = since[new].map(|s| b.now - s);
                    prop_assert!(!fell[new] || steady >= Some(10 * SECOND), "{steady:?}");
                }
                before = after;
                match b.group.next_timeout().filter(|at| *at <= end) {
                    Some(at) => {
                        b.now = at;
                        b.group.handle_timeout(at);
                    }
                    None => break,
                }
            }
            b.now = end;
        }
    }
}

/// A new configuration is no reason to move flows that need not.
#[test]
fn what_is_known_of_members_survives_a_new_configuration() {
    let mut b = Bench::new(3, Policy::Ordered);
    b.up([0, 1, 2]);
    b.advance(20 * SECOND);
    b.set(0, Down);
    b.set(0, Up);
    assert_eq!(b.of(1), Some(1));
    let config = GroupConfig::new("any", [0, 2, 1].map(id));
    b.group = b.group.clone().reconfigured(b.now, config, |_| Up);
    assert_eq!(b.of(1), Some(2), "the first that is steady");
    b.advance(10 * SECOND);
    assert_eq!(b.of(1), Some(0));
}
