//! What may happen to a router, for the [model](super::model).

use proptest::prelude::*;
use proptest::sample::Index;

pub(super) const PORTS: u16 = 4;
pub(super) const USERS: u32 = 3;
pub(super) const TUNNELS: usize = 3;

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Packets of one flow: port, kind, where to, how many.
    Send(u16, u8, u8, u8),
    /// The far end answers something that came through a tunnel, or another tunnel does.
    Reply(Index, bool, u8),
    Rule(u32, u8),
    /// Another user's socket gets the port.
    Take(u16, u32),
    Up(usize, u8),
    Down(usize),
    Connecting(usize),
    /// Removed, and added again under its name.
    Replace(usize),
    Advance(u16),
    SlowOwners(bool),
    /// One of the questions is answered; possibly twice.
    Answer(Index, bool),
    /// The tunnel takes no more, or takes again; and how it drops what it takes.
    Block(usize, bool),
    Lose(usize, u8),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let t = 0..TUNNELS;
    prop_oneof![
        12 => (0..PORTS, 0..6u8, 0..4u8, 1..4u8).prop_map(|(p, k, d, n)| Step::Send(p, k, d, n)),
        4 => (any::<Index>(), prop::bool::weighted(0.2), 0..4u8)
            .prop_map(|(i, wrong, k)| Step::Reply(i, wrong, k)),
        3 => (0..USERS, 0..4u8).prop_map(|(u, a)| Step::Rule(u, a)),
        3 => (0..PORTS, 0..USERS).prop_map(|(p, u)| Step::Take(p, u)),
        2 => (t.clone(), 0..4u8).prop_map(|(t, v)| Step::Up(t, v)),
        1 => t.clone().prop_map(Step::Down),
        1 => t.clone().prop_map(Step::Connecting),
        1 => t.clone().prop_map(Step::Replace),
        3 => prop::sample::select(vec![0u16, 1, 2, 300, 499, 501, 5000, 60_000])
            .prop_map(Step::Advance),
        1 => any::<bool>().prop_map(Step::SlowOwners),
        5 => (any::<Index>(), prop::bool::weighted(0.2)).prop_map(|(i, d)| Step::Answer(i, d)),
        1 => (t.clone(), any::<bool>()).prop_map(|(t, b)| Step::Block(t, b)),
        1 => (t, 0..5u8).prop_map(|(t, n)| Step::Lose(t, n)),
    ]
}

/// One port that goes from hand to hand while its owners are slowly found.
pub(super) fn quarrel() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8).prop_map(|kind| Step::Send(0, kind, 0, 1)),
        2 => (0..USERS).prop_map(|user| Step::Take(0, user)),
        2 => prop::sample::select(vec![1u16, 499, 501]).prop_map(Step::Advance),
        2 => any::<Index>().prop_map(|which| Step::Answer(which, false)),
        1 => any::<bool>().prop_map(Step::SlowOwners),
        1 => (0..TUNNELS, 0..2u8).prop_map(|(tunnel, variant)| Step::Up(tunnel, variant)),
        1 => (0..TUNNELS).prop_map(Step::Connecting),
    ]
}
