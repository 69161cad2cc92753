//! When a host that cannot change its interface in place builds a new one. Pure: time is an
//! argument.
//!
//! Linux changes an interface step by step. Other systems fix addresses, routes, resolvers and MTU
//! when the interface is established (Android's `VpnService.Builder`), so each change costs a new
//! interface: flows stall, and if it is done in the wrong order packets leak or are lost. [`Rebuild`]
//! says when that is worth it:
//!
//! * What makes no difference yet waits for the next time: an address too many, a route that is
//!   covered by another, a narrower MTU (the router tells senders what fits).
//! * What comes in a burst is done once: after [`QUIET`], or [`LOUDEST`] if it never pauses.
//! * What the host does not do as asked is not asked again: an address that it leaves out, changes
//!   or refuses because another interface has it.
//!
//! The host drives it: every plan goes to [`want`](Rebuild::want); when
//! [`next_timeout`](Rebuild::next_timeout) is reached, [`poll`](Rebuild::poll) says what to do, and
//! [`done`](Rebuild::done) takes how that went. For [`Step::Rebuild`] the order is always: establish
//! the new interface, take its descriptor in, close the old one last (`SwapTun` of `vpn-tun` does the
//! latter two). Nothing is closed before the new one stands, so nothing goes direct in between.
//!
//! ```
//! use std::time::Instant;
//! use vpn_core::InterfacePlan;
//! use vpn_core::rebuild::{Abilities, Outcome, Rebuild, Step, QUIET};
//!
//! let mut now = Instant::now();
//! let mut rebuild = Rebuild::new(Abilities::NONE);
//! let plan = InterfacePlan { addresses: ["10.5.0.2/32".parse()?].into(), ..Default::default() };
//! rebuild.want(now, plan.clone());
//! now += QUIET;
//! // The host establishes it, and says what came of it.
//! assert_eq!(rebuild.poll(now), Some(Step::Rebuild(plan.clone())));
//! rebuild.done(now, Outcome::Applied);
//! assert_eq!(rebuild.next_timeout(), None);
//! # Ok::<(), ipnet::AddrParseError>(())
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::plan::{Bypass, InterfacePlan, PlanChange, Way};

/// How long plans have to stay the same before something is done.
pub const QUIET: Duration = Duration::from_millis(100);

/// Done after this time even if plans never stay the same.
pub const LOUDEST: Duration = Duration::from_secs(1);

/// First wait after a host failed; it doubles up to [`LONGEST_WAIT`].
pub const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longest wait between two attempts of a host that fails.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What a host can change on an interface that is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abilities {
    /// Addresses.
    pub addresses: bool,
    /// Routes.
    pub routes: bool,
    /// Resolvers.
    pub dns: bool,
    /// MTU.
    pub mtu: bool,
    /// What goes around the device.
    pub bypass: bool,
}

impl Abilities {
    /// Nothing: every change is a new interface. Android.
    pub const NONE: Self = Self {
        addresses: false,
        routes: false,
        dns: false,
        mtu: false,
        bypass: false,
    };

    /// Everything. Linux.
    pub const ALL: Self = Self {
        addresses: true,
        routes: true,
        dns: true,
        mtu: true,
        bypass: true,
    };

    const fn can(self, change: &PlanChange) -> bool {
        match change {
            PlanChange::AddAddress(_) | PlanChange::RemoveAddress(_) => self.addresses,
            PlanChange::AddRoute(_) | PlanChange::RemoveRoute(_) => self.routes,
            PlanChange::SetDns(_) => self.dns,
            PlanChange::SetMtu(_) => self.mtu,
            PlanChange::SetBypass(_) => self.bypass,
        }
    }
}

/// What a host is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Change the interface as it is, in this order.
    InPlace(Vec<PlanChange>),
    /// Establish a new interface like this; then take it in; then close the old one.
    Rebuild(InterfacePlan),
}

/// What came of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was done. A host that left an address out, or took another in its place, says so too: it
    /// would do the same again.
    Applied,
    /// Nothing was done, because of this address: another interface has it, say. The rest is tried
    /// without it.
    Refused(IpNet),
    /// Nothing was done. It is tried again, later and later.
    Failed,
}

/// Decides when to change an interface in place, when to build a new one, and when to do nothing.
/// See the [module](self).
#[derive(Debug)]
pub struct Rebuild {
    abilities: Abilities,
    /// What the host was last asked for and did; `None` while there is no interface.
    stands: Option<InterfacePlan>,
    wanted: InterfacePlan,
    /// The first and the last change of `wanted` since something was done.
    changed: Option<(Instant, Instant)>,
    /// What the host is doing.
    under_way: Option<InterfacePlan>,
    refused: BTreeSet<IpNet>,
    /// No attempt before this, and how long the wait was.
    wait: Option<(Instant, Duration)>,
}

impl Rebuild {
    /// A host with these abilities, that has no interface yet.
    pub fn new(abilities: Abilities) -> Self {
        Self {
            abilities,
            stands: None,
            wanted: InterfacePlan::default(),
            changed: None,
            under_way: None,
            refused: BTreeSet::new(),
            wait: None,
        }
    }

    /// The interface should look like this now.
    pub fn want(&mut self, now: Instant, plan: InterfacePlan) {
        if plan == self.wanted {
            return;
        }
        // An address that goes and comes back may be free by then.
        self.refused.retain(|net| plan.addresses.contains(net));
        self.wanted = plan;
        self.note(now);
    }

    /// When to [`poll`](Self::poll); `None`: not before something else happens.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.under_way.is_some() {
            return None;
        }
        let (first, last) = self.changed?;
        let settled = (last + QUIET).min(first + LOUDEST);
        Some(match self.wait {
            Some((until, _)) => settled.max(until),
            None => settled,
        })
    }

    /// What to do now, if anything. The host answers with [`done`](Self::done) before it is told
    /// more.
    pub fn poll(&mut self, now: Instant) -> Option<Step> {
        if self.next_timeout().is_none_or(|at| now < at) {
            return None;
        }
        self.changed = None;
        let plan = self.acceptable();
        let Some(stands) = &self.stands else {
            // Without an interface, nothing is captured: an empty one is not worth having.
            if plan.addresses.is_empty() && plan.routes.is_empty() {
                return None;
            }
            self.under_way = Some(plan.clone());
            return Some(Step::Rebuild(plan));
        };
        let changes = stands.changes_to(&plan);
        let (here, not): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| self.abilities.can(change));
        if not.iter().any(|change| is_pressing(stands, change)) {
            self.under_way = Some(plan.clone());
            return Some(Step::Rebuild(plan));
        }
        if here.is_empty() {
            return None;
        }
        let mut next = stands.clone();
        for change in &here {
            apply(&mut next, change);
        }
        self.under_way = Some(next);
        Some(Step::InPlace(here))
    }

    /// What came of the last step.
    pub fn done(&mut self, now: Instant, outcome: Outcome) {
        let Some(plan) = self.under_way.take() else {
            return;
        };
        match outcome {
            Outcome::Applied => {
                self.stands = Some(plan);
                self.wait = None;
            }
            Outcome::Refused(net) if plan.addresses.contains(&net) => {
                self.refused.insert(net);
                self.note(now);
            }
            // An address that was not asked for cannot be left out.
            Outcome::Failed | Outcome::Refused(_) => {
                let last = self.wait.map_or(FIRST_WAIT / 2, |(_, wait)| wait);
                let wait = (last * 2).min(LONGEST_WAIT);
                self.wait = Some((now + wait, wait));
                self.note(now);
            }
        }
    }

    /// The interface is gone without our doing: the system took it away.
    pub fn gone(&mut self, now: Instant) {
        self.stands = None;
        self.note(now);
    }

    /// Addresses the host refused. Tunnels that need them carry nothing until they have others.
    pub const fn refused(&self) -> &BTreeSet<IpNet> {
        &self.refused
    }

    /// What stands now, as it was asked for.
    pub const fn stands(&self) -> Option<&InterfacePlan> {
        self.stands.as_ref()
    }

    fn note(&mut self, now: Instant) {
        let first = self.changed.map_or(now, |(first, _)| first);
        self.changed = Some((first, now));
    }

    /// What is wanted, without what the host refused.
    fn acceptable(&self) -> InterfacePlan {
        let mut plan = self.wanted.clone();
        plan.addresses.retain(|net| !self.refused.contains(net));
        plan
    }
}

/// Whether a change cannot wait: traffic would be lost, or leave where it should not, until it is
/// made.
fn is_pressing(stands: &InterfacePlan, change: &PlanChange) -> bool {
    match change {
        PlanChange::AddAddress(_) => true,
        PlanChange::AddRoute(net) => !stands.routes.iter().any(|wider| wider.contains(net)),
        PlanChange::SetDns(dns) => !dns.is_subset(&stands.dns),
        // Less goes around: until then, what should be captured is not.
        PlanChange::SetBypass(list) => leads_around(&stands.bypass) && stands.bypass != *list,
        // Too much is captured, or the sender is told what fits.
        PlanChange::RemoveAddress(_) | PlanChange::RemoveRoute(_) | PlanChange::SetMtu(_) => false,
    }
}

fn leads_around(list: &[Bypass]) -> bool {
    list.iter().any(|entry| entry.way == Way::Main)
}

fn apply(plan: &mut InterfacePlan, change: &PlanChange) {
    match change {
        PlanChange::AddAddress(net) => drop(plan.addresses.insert(*net)),
        PlanChange::RemoveAddress(net) => drop(plan.addresses.remove(net)),
        PlanChange::AddRoute(net) => drop(plan.routes.insert(*net)),
        PlanChange::RemoveRoute(net) => drop(plan.routes.remove(net)),
        PlanChange::SetDns(dns) => plan.dns.clone_from(dns),
        PlanChange::SetMtu(mtu) => plan.mtu = *mtu,
        PlanChange::SetBypass(bypass) => plan.bypass.clone_from(bypass),
    }
}

#[cfg(test)]
mod tests;
