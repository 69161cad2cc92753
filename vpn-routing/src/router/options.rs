//! What is set per tunnel, and flows that are sent by their destination: those to mapped prefixes.

use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use vpn_core::{DropReason, FlowKey, TransportState, TunnelId};

use super::Router;
use crate::conn::{Conn, Origin};
use crate::nat::{Claim, Claimant, Overlap, PrefixMap, PrefixMaps};
use crate::rules::{Decision, Target};

/// Settings of one tunnel, beyond what its transport was assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunnelOptions {
    /// Networks behind the tunnel that are reached under other addresses. Each local prefix is a
    /// route to this tunnel as well: it decides flows that no rule decides. Default none.
    pub prefix_maps: PrefixMaps,
    /// Whether its addresses stay off the device, because the host routes them itself: as its own
    /// it would deliver what is sent to them, and refuse what comes from them. Set it before the
    /// tunnel is up. Default no.
    pub off_device: bool,
}

impl Router {
    /// Sets a tunnel's options, in place of those it had. Flows that would be translated otherwise
    /// now end; flows that are sent elsewhere now move like on a change of rules.
    pub fn set_tunnel_options(&mut self, now: Instant, tunnel: TunnelId, options: TunnelOptions) {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        if slot.options == options {
            return;
        }
        let before = std::mem::replace(&mut slot.options, options);
        let maps = slot.options.prefix_maps.clone();
        let off_device = slot.options.off_device;
        let changed = |c: &Conn| {
            let old = before.prefix_maps.to_remote(c.device.dst());
            let new = maps.to_remote(c.device.dst());
            let was_mapped = c.origin == Origin::Tunnel || old == c.wire.dst();
            was_mapped && new != c.wire.dst()
        };
        self.conns
            .remove_where(&mut self.removed, |c| c.tunnel == tunnel && changed(c));
        self.release_removed();
        self.fragments.forget_ways(|way| way.uses(tunnel));
        self.allocator.keep_off_device(tunnel, off_device);
        self.update_plan();
        self.ways_changed(now);
    }

    /// A tunnel's options; `None` if there is no such tunnel.
    pub fn tunnel_options(&self, tunnel: TunnelId) -> Option<&TunnelOptions> {
        self.tunnels.get(tunnel).map(|slot| &slot.options)
    }

    /// The networks that more than one tunnel, or a tunnel and the host, lay claim to. Looks at
    /// all of them: for status and checks.
    pub fn overlaps(&self) -> Vec<Overlap> {
        let mut claims = Vec::new();
        for (id, slot) in self.tunnels.iter() {
            let locals = slot.options.prefix_maps.iter().map(PrefixMap::local);
            claims.extend(locals.map(|net| Claim {
                by: Claimant::Map(id),
                net,
            }));
            let routes = self.routes.admitted(id).iter().map(|net| Claim {
                by: Claimant::Route(id),
                net: net.trunc(),
            });
            claims.extend(routes);
            let assigned = slot.assigned.iter().flat_map(|a| &a.addresses);
            // A single address is no network: several tunnels may have the same.
            let subnets = assigned.filter(|net| net.prefix_len() < net.max_prefix_len());
            claims.extend(subnets.map(|net| Claim {
                by: Claimant::Subnet(id),
                net: net.trunc(),
            }));
        }
        let host = self.allocator.host_networks().iter().map(|net| Claim {
            by: Claimant::Host,
            net: net.trunc(),
        });
        claims.extend(host);
        Overlap::among(&claims)
    }

    /// After rules, and before the default: a destination that a tunnel maps is behind it. The
    /// longest prefix wins, among equal ones the tunnel that was added first; what no map covers
    /// goes where a route leads.
    pub(super) fn routed(&self, decision: Decision, flow: &FlowKey) -> Decision {
        let undecided = matches!(
            decision.action,
            Target::Block(DropReason::OwnerUnknown | DropReason::RulesCold)
        );
        if decision.rule.is_some() || undecided {
            return decision;
        }
        let mut best: Option<(IpNet, TunnelId)> = None;
        for (id, slot) in self.tunnels.iter() {
            let Some(local) = slot.options.prefix_maps.local_of(flow.dst()) else {
                continue;
            };
            if slot.state != TransportState::Closed
                && best.is_none_or(|(net, _)| local.prefix_len() > net.prefix_len())
            {
                best = Some((local, id));
            }
        }
        match best {
            Some((_, tunnel)) => Decision::default_of(Target::Tunnel(tunnel)),
            // What is configured here comes before what the other end claims.
            None => self.routed_as_advertised(decision, flow),
        }
    }

    /// What applications call an address behind a tunnel; `None` if none of them could mean it: it
    /// is in the local prefix of a map.
    pub(super) fn local_address(&self, tunnel: TunnelId, addr: IpAddr) -> Option<IpAddr> {
        let maps = &self.tunnels.get(tunnel)?.options.prefix_maps;
        let local = maps.to_local(addr);
        (maps.to_remote(local) == addr).then_some(local)
    }
}
