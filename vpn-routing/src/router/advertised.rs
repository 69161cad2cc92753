//! Routes that tunnels advertise, between the rules and the default.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;
use vpn_core::{Family, FlowKey, TunnelId};

use super::{Event, Router};
use crate::routes::{RoutePolicy, RouteReport};
use crate::rules::{Decision, Target};

impl Router {
    /// Which of the routes that a tunnel advertises are admitted. Default none.
    pub fn set_route_policy(&mut self, now: Instant, tunnel: TunnelId, policy: RoutePolicy) {
        if self.tunnels.get(tunnel).is_none() {
            return;
        }
        let report = self.routes.set_policy(tunnel, policy);
        if self.routes_changed(tunnel, report) {
            self.ways_changed(now);
        }
    }

    /// What a tunnel advertises now. Returns whether flows may have to move.
    pub(super) fn advertised(&mut self, tunnel: TunnelId, routes: &[IpNet]) -> bool {
        let report = self.routes.advertise(tunnel, routes);
        self.routes_changed(tunnel, report)
    }

    fn routes_changed(&mut self, tunnel: TunnelId, report: Option<RouteReport>) -> bool {
        let Some(report) = report else {
            return false;
        };
        self.events.push_back(Event::Routes(tunnel, report));
        true
    }

    /// The tunnel behind which a flow's destination lies. An address that stands for a resolver lies
    /// nowhere: a tunnel that advertises it must not get the queries of others. Only a route to
    /// everywhere takes them, with everything else.
    fn lies_behind(&self, flow: &FlowKey) -> Option<(IpNet, TunnelId)> {
        if !self.steers(flow) {
            return self.routes.lookup(flow.dst());
        }
        let nowhere = match flow.family() {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let found = self.routes.lookup(nowhere);
        found.filter(|(route, _)| route.prefix_len() == 0)
    }

    /// What was decided, or, where that is the default, what advertised routes say.
    pub(super) fn routed_as_advertised(&self, decision: Decision, flow: &FlowKey) -> Decision {
        match self.lies_behind(flow) {
            Some((_, tunnel)) => Decision::default_of(Target::Tunnel(tunnel)),
            None => decision,
        }
    }

    /// The advertised route that made a decision, if one did.
    pub(super) fn route_of(&self, decision: &Decision, flow: &FlowKey) -> Option<IpNet> {
        let (route, tunnel) = self.lies_behind(flow)?;
        let made = decision.rule.is_none() && decision.action == Target::Tunnel(tunnel);
        made.then_some(route)
    }
}
