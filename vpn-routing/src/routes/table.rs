//! The admitted routes of all tunnels, found by longest prefix.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use vpn_core::TunnelId;

use super::policy::{RoutePolicy, RouteRefusal};

/// Routes of one tunnel that are remembered: more than any provider pushes.
pub const MAX_ROUTES_OF_TUNNEL: usize = 4096;

/// Routes of all tunnels together.
pub const MAX_ROUTES: usize = 65_536;

/// Refusals, and conflicts, that one report lists; the rest is only counted.
pub const MAX_REPORTED: usize = 64;

/// Two tunnels advertise one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteConflict {
    /// The prefix.
    pub route: IpNet,
    /// Who has it: the tunnel that was added first.
    pub winner: TunnelId,
    /// Who would have it, were the other not there.
    pub loser: TunnelId,
}

/// What became of the routes that a tunnel advertises.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteReport {
    /// How many were admitted.
    pub admitted: usize,
    /// How many were refused.
    pub refused: usize,
    /// The first [`MAX_REPORTED`] of these, and why.
    pub refusals: Vec<(IpNet, RouteRefusal)>,
    /// The first [`MAX_REPORTED`] prefixes that another tunnel advertises as well.
    pub conflicts: Vec<RouteConflict>,
}

impl RouteReport {
    fn refuse(&mut self, route: IpNet, why: RouteRefusal) {
        self.refused += 1;
        if self.refusals.len() < MAX_REPORTED {
            self.refusals.push((route, why));
        }
    }

    /// Whether there is nothing that people should know: what the policy leaves out is left out on
    /// purpose.
    pub fn is_clean(&self) -> bool {
        let on_purpose = [RouteRefusal::Policy, RouteRefusal::Default];
        let mut why = self.refusals.iter().map(|(_, why)| why);
        self.conflicts.is_empty() && why.all(|why| on_purpose.contains(why))
    }
}

/// What one tunnel claims, and what of it is believed.
#[derive(Debug, Default)]
struct Claim {
    policy: RoutePolicy,
    advertised: Vec<IpNet>,
    admitted: Vec<IpNet>,
}

/// Who has a prefix: tunnels in the order they were added.
type Claimants = Vec<TunnelId>;

/// The routes that tunnels advertise and policies admit.
#[derive(Debug, Default)]
pub struct RouteTable {
    v4: PrefixMap<Ipv4Net, Claimants>,
    v6: PrefixMap<Ipv6Net, Claimants>,
    claims: BTreeMap<TunnelId, Claim>,
    count: usize,
}

impl RouteTable {
    /// An empty table, in which no tunnel's routes are admitted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which of a tunnel's routes are admitted from now on, those it advertised before included.
    /// `None`: nothing changed.
    pub fn set_policy(&mut self, tunnel: TunnelId, policy: RoutePolicy) -> Option<RouteReport> {
        let claim = self.claims.entry(tunnel).or_default();
        if claim.policy == policy {
            return None;
        }
        claim.policy = policy;
        Some(self.admit(tunnel))
    }

    /// A tunnel advertises these routes, in place of those before. `None`: nothing changed.
    pub fn advertise(&mut self, tunnel: TunnelId, routes: &[IpNet]) -> Option<RouteReport> {
        let claim = self.claims.entry(tunnel).or_default();
        if claim.advertised == routes {
            return None;
        }
        // One more than is admitted, so that a report can say that there were too many.
        let kept = routes.iter().take(MAX_ROUTES_OF_TUNNEL + 1);
        claim.advertised = kept.copied().collect();
        let mut report = self.admit(tunnel);
        report.refused += routes.len().saturating_sub(MAX_ROUTES_OF_TUNNEL + 1);
        Some(report)
    }

    /// A tunnel is gone, and its routes and policy with it. Returns whether it had routes.
    pub fn withdraw(&mut self, tunnel: TunnelId) -> bool {
        let claim = self.claims.remove(&tunnel);
        let admitted = claim.map(|claim| claim.admitted).unwrap_or_default();
        self.remove(tunnel, &admitted);
        !admitted.is_empty()
    }

    /// The tunnel behind which an address lies, and by which route.
    #[inline]
    pub fn lookup(&self, addr: IpAddr) -> Option<(IpNet, TunnelId)> {
        if self.count == 0 {
            return None;
        }
        let (route, claimants) = match addr {
            IpAddr::V4(addr) => {
                let (route, claimants) = self.v4.get_lpm(&Ipv4Net::from(addr))?;
                (IpNet::V4(route), claimants)
            }
            IpAddr::V6(addr) => {
                let (route, claimants) = self.v6.get_lpm(&Ipv6Net::from(addr))?;
                (IpNet::V6(route), claimants)
            }
        };
        Some((route, *claimants.first()?))
    }

    /// A tunnel's admitted routes.
    pub fn admitted(&self, tunnel: TunnelId) -> &[IpNet] {
        self.claims
            .get(&tunnel)
            .map_or(&[], |claim| &claim.admitted)
    }

    /// How many routes there are, those of losers included.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Admits anew what a tunnel advertises.
    fn admit(&mut self, tunnel: TunnelId) -> RouteReport {
        let mut report = RouteReport::default();
        let Some(claim) = self.claims.get_mut(&tunnel) else {
            return report;
        };
        let before = std::mem::take(&mut claim.admitted);
        let (policy, advertised) = (claim.policy.clone(), claim.advertised.clone());
        self.remove(tunnel, &before);
        let mut admitted = Vec::new();
        for route in advertised.into_iter().map(|route| route.trunc()) {
            if let Err(why) = policy.admits(route) {
                report.refuse(route, why);
                continue;
            }
            if admitted.len() >= MAX_ROUTES_OF_TUNNEL || self.count >= MAX_ROUTES {
                report.refuse(route, RouteRefusal::TooMany);
                continue;
            }
            let claimants = match route {
                IpNet::V4(net) => self.v4.entry(net).or_default(),
                IpNet::V6(net) => self.v6.entry(net).or_default(),
            };
            let Err(place) = claimants.binary_search(&tunnel) else {
                // Advertised twice.
                continue;
            };
            claimants.insert(place, tunnel);
            if let [winner, second, ..] = claimants[..]
                && report.conflicts.len() < MAX_REPORTED
            {
                let loser = if place == 0 { second } else { tunnel };
                report.conflicts.push(RouteConflict {
                    route,
                    winner,
                    loser,
                });
            }
            self.count += 1;
            admitted.push(route);
        }
        report.admitted = admitted.len();
        if let Some(claim) = self.claims.get_mut(&tunnel) {
            claim.admitted = admitted;
        }
        report
    }

    fn remove(&mut self, tunnel: TunnelId, routes: &[IpNet]) {
        for route in routes {
            let left = match route {
                IpNet::V4(net) => self.v4.get_mut(net),
                IpNet::V6(net) => self.v6.get_mut(net),
            };
            let Some(claimants) = left else { continue };
            claimants.retain(|claimant| *claimant != tunnel);
            self.count -= 1;
            if claimants.is_empty() {
                match route {
                    IpNet::V4(net) => drop(self.v4.remove(net)),
                    IpNet::V6(net) => drop(self.v6.remove(net)),
                }
            }
        }
    }
}
