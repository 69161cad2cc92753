//! Decides whether one more flow or packet may wait: shares of tunnels, applications and flows whose
//! owner is not known yet. Pure.

use std::collections::hash_map::Entry;
use std::hash::Hash;

use foldhash::quality::RandomState;
use vpn_core::{Owner, TunnelId};

use super::config::{HoldLimits, HoldQuota};
use super::hold::Awaits;

/// What waits of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    flows: usize,
    bytes: usize,
}

impl Load {
    fn fits(self, more: Self, quota: HoldQuota) -> bool {
        self.flows + more.flows <= quota.flows && self.bytes + more.bytes <= quota.bytes
    }

    fn add(&mut self, more: Self) {
        self.flows += more.flows;
        self.bytes += more.bytes;
    }

    fn remove(&mut self, less: Self) {
        self.flows -= less.flows;
        self.bytes -= less.bytes;
    }
}

type Loads<K> = std::collections::HashMap<K, Load, RandomState>;

/// What waits, by whom it counts against. Who has nothing waiting has no entry.
#[derive(Debug)]
pub(super) struct Quotas {
    limits: HoldLimits,
    for_owners: Load,
    for_tunnels: Load,
    by_tunnel: Loads<TunnelId>,
    /// By application: without the socket.
    by_owner: Loads<Owner>,
}

impl Quotas {
    pub(super) fn new(limits: HoldLimits) -> Self {
        Self {
            limits,
            for_owners: Load::default(),
            for_tunnels: Load::default(),
            by_tunnel: Loads::default(),
            by_owner: Loads::default(),
        }
    }

    /// Counts a flow with its first packet; `false` if it may not wait. `unanswered` flows have
    /// given up waiting for their owners and still occupy a place.
    pub(super) fn take_flow(&mut self, awaits: &Awaits, bytes: usize, unanswered: usize) -> bool {
        self.take(awaits, Load { flows: 1, bytes }, unanswered)
    }

    /// Counts a packet of a flow that waits; `false` if it may not.
    pub(super) fn take_bytes(&mut self, awaits: &Awaits, bytes: usize) -> bool {
        self.take(awaits, Load { flows: 0, bytes }, 0)
    }

    /// A flow waits no longer, with all its bytes.
    pub(super) fn give_back(&mut self, awaits: &Awaits, bytes: usize) {
        let less = Load { flows: 1, bytes };
        match awaits {
            Awaits::Owner(_) => self.for_owners.remove(less),
            Awaits::Tunnel(tunnel, owner) => {
                self.for_tunnels.remove(less);
                remove(&mut self.by_tunnel, *tunnel, less);
                if let Some(owner) = owner {
                    remove(&mut self.by_owner, application(owner), less);
                }
            }
        }
    }

    fn take(&mut self, awaits: &Awaits, more: Load, unanswered: usize) -> bool {
        let limits = &self.limits;
        let all = HoldQuota {
            flows: limits.flows,
            bytes: limits.bytes,
        };
        let mut for_owners = self.for_owners;
        for_owners.flows += unanswered;
        let mut waiting = for_owners;
        waiting.add(self.for_tunnels);
        if !waiting.fits(more, all) {
            return false;
        }
        let Awaits::Tunnel(tunnel, owner) = awaits else {
            let fits = for_owners.fits(more, limits.unknown_owner);
            if fits {
                self.for_owners.add(more);
            }
            return fits;
        };
        // Of small limits not everything is kept free.
        let rest = HoldQuota {
            flows: all.flows - limits.unknown_owner.flows.min(all.flows / 2),
            bytes: all.bytes - limits.unknown_owner.bytes.min(all.bytes / 2),
        };
        let owner = owner.as_ref().map(application);
        let load = |load: Option<&Load>| load.copied().unwrap_or_default();
        let of_tunnel = load(self.by_tunnel.get(tunnel));
        let of_owner = load(owner.as_ref().and_then(|owner| self.by_owner.get(owner)));
        let fits = self.for_tunnels.fits(more, rest)
            && of_tunnel.fits(more, limits.per_tunnel)
            && (owner.is_none() || of_owner.fits(more, limits.per_owner));
        if fits {
            self.for_tunnels.add(more);
            self.by_tunnel.entry(*tunnel).or_default().add(more);
            if let Some(owner) = owner {
                self.by_owner.entry(owner).or_default().add(more);
            }
        }
        fits
    }
}

/// Sockets of one application count together.
fn application(owner: &Owner) -> Owner {
    Owner {
        socket: 0,
        ..owner.clone()
    }
}

fn remove<K: Eq + Hash>(loads: &mut Loads<K>, key: K, less: Load) {
    if let Entry::Occupied(mut entry) = loads.entry(key) {
        entry.get_mut().remove(less);
        if *entry.get() == Load::default() {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vpn_core::OwnerDetail;

    const LIMITS: HoldLimits = HoldLimits {
        flow_packets: 16,
        flows: 12,
        bytes: 1200,
        per_tunnel: HoldQuota {
            flows: 4,
            bytes: 400,
        },
        per_owner: HoldQuota {
            flows: 3,
            bytes: 300,
        },
        unknown_owner: HoldQuota {
            flows: 6,
            bytes: 600,
        },
        owner: std::time::Duration::ZERO,
        connecting: std::time::Duration::ZERO,
    };

    const ALL: HoldQuota = HoldQuota {
        flows: LIMITS.flows,
        bytes: LIMITS.bytes,
    };

    fn awaits() -> impl Strategy<Value = Awaits> {
        let tunnel = (0u16..4, proptest::option::of(0u32..3), 0u64..5);
        prop_oneof![
            Just(Awaits::Owner(OwnerDetail::Uid)),
            tunnel.prop_map(|(tunnel, uid, socket)| {
                let owner = uid.map(|uid| Owner {
                    socket,
                    ..Owner::user(uid)
                });
                Awaits::Tunnel(TunnelId::new(tunnel), owner)
            }),
        ]
    }

    proptest! {
        /// However flows come, grow and go: no share is exceeded, and nothing is left behind.
        #[test]
        fn shares_hold_and_everything_is_given_back(
            steps in proptest::collection::vec((awaits(), 1usize..90, 0u8..4), 0..200),
        ) {
            let mut quotas = Quotas::new(LIMITS);
            let mut waiting: Vec<(Awaits, usize)> = Vec::new();
            for (awaits, bytes, kind) in steps {
                match kind {
                    0 | 1 => if quotas.take_flow(&awaits, bytes, 0) {
                        waiting.push((awaits, bytes));
                    },
                    2 => if let Some((awaits, held)) = waiting.first_mut() {
                        *held += match quotas.take_bytes(awaits, bytes) {
                            true => bytes,
                            false => 0,
                        };
                    },
                    _ => if !waiting.is_empty() {
                        let (awaits, held) = waiting.remove(bytes % waiting.len());
                        quotas.give_back(&awaits, held);
                    },
                }
                let sum = |chosen: &dyn Fn(&Awaits) -> bool| {
                    let mut load = Load::default();
                    for (_, bytes) in waiting.iter().filter(|(awaits, _)| chosen(awaits)) {
                        load.add(Load { flows: 1, bytes: *bytes });
                    }
                    load
                };
                let within = |load: Load, quota| load.fits(Load::default(), quota);
                let for_owners = sum(&|a| matches!(a, Awaits::Owner(_)));
                prop_assert_eq!(for_owners, quotas.for_owners);
                prop_assert!(within(for_owners, LIMITS.unknown_owner));
                prop_assert!(within(sum(&|_| true), ALL));
                for tunnel in (0..4).map(TunnelId::new) {
                    let load = sum(&|a| matches!(a, Awaits::Tunnel(t, _) if *t == tunnel));
                    prop_assert!(within(load, LIMITS.per_tunnel));
                }
                for uid in 0..3 {
                    let of = |a: &Awaits| matches!(a, Awaits::Tunnel(_, Some(o)) if o.uid == uid);
                    prop_assert!(within(sum(&of), LIMITS.per_owner));
                }
            }
            for (awaits, held) in waiting {
                quotas.give_back(&awaits, held);
            }
            prop_assert_eq!(quotas.for_owners, Load::default());
            prop_assert_eq!(quotas.for_tunnels, Load::default());
            prop_assert!(quotas.by_tunnel.is_empty() && quotas.by_owner.is_empty());
        }
    }

    #[test]
    fn what_waits_for_owners_finds_its_share_free_whatever_tunnels_do() {
        let mut quotas = Quotas::new(LIMITS);
        for n in 0..100 {
            let owner = Some(Owner::user(n));
            quotas.take_flow(&Awaits::Tunnel(TunnelId::new(n as u16), owner), 90, 0);
        }
        let unknown = Awaits::Owner(OwnerDetail::Process);
        let waiting = (0..100).filter(|_| quotas.take_flow(&unknown, 90, 0));
        assert_eq!(waiting.count(), LIMITS.unknown_owner.flows);
        // Those that gave up and are still asked about count as well.
        let mut quotas = Quotas::new(LIMITS);
        assert!(quotas.take_flow(&unknown, 90, LIMITS.unknown_owner.flows - 1));
        assert!(!quotas.take_flow(&unknown, 90, LIMITS.unknown_owner.flows - 1));
    }
}
