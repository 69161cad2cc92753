//! From what rules decide to the tunnel that carries it: groups, and where to while that is down.

use vpn_core::{DropReason, FlowKey, GroupId, Owner, TransportState, TunnelId};

use super::Router;
use crate::group::{Reason, Standing};
use crate::rules::{Decision, Target};

/// Where a flow goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through this tunnel, which is up or may soon be.
    Through(TunnelId),
    /// Nowhere while this tunnel, or its whole group, is down.
    Down(Option<TunnelId>),
    /// Nowhere.
    Block(DropReason),
}

/// How a way was found, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) group: Option<(GroupId, Option<Reason>)>,
    pub(super) fell_back: bool,
}

impl Router {
    /// Where a flow that was decided so goes now.
    pub(super) fn resolve(
        &self,
        decision: &Decision,
        flow: &FlowKey,
        owner: Option<&Owner>,
    ) -> Way {
        self.resolve_with(decision, flow, owner).0
    }

    /// As [`resolve`](Self::resolve), and how that was found. What a fallback leads to does not
    /// fall back any further.
    pub(super) fn resolve_with(
        &self,
        decision: &Decision,
        flow: &FlowKey,
        owner: Option<&Owner>,
    ) -> (Way, Found) {
        let first = self.target_now(decision.action, flow, owner);
        match (first, decision.on_down) {
            ((Way::Down(_), _), Some(target)) => {
                let (way, mut found) = self.target_now(target, flow, owner);
                found.fell_back = true;
                (way, found)
            }
            _ => first,
        }
    }

    fn target_now(&self, target: Target, flow: &FlowKey, owner: Option<&Owner>) -> (Way, Found) {
        match target {
            Target::Block(reason) => (Way::Block(reason), Found::default()),
            Target::Tunnel(tunnel) => (self.tunnel_now(tunnel), Found::default()),
            Target::Group(id) => {
                let Some(group) = self.groups.get(id) else {
                    return (Way::Block(DropReason::NoSuchTunnel), Found::default());
                };
                let choice = group.choose(flow, owner);
                let found = Found {
                    group: Some((id, choice.map(|choice| choice.reason))),
                    fell_back: false,
                };
                match choice {
                    Some(choice) => (self.tunnel_now(choice.tunnel), found),
                    None => (Way::Down(None), found),
                }
            }
        }
    }

    fn tunnel_now(&self, tunnel: TunnelId) -> Way {
        let state = self.tunnels.get(tunnel).map(|slot| &slot.state);
        match state.map(Standing::of) {
            Some(Standing::Up | Standing::Waiting) => Way::Through(tunnel),
            Some(Standing::Down) => Way::Down(Some(tunnel)),
            None => Way::Block(DropReason::NoSuchTunnel),
        }
    }

    /// Whether the decision names this tunnel in one way or another, so that a flow in it is where
    /// it belongs, and waits for it if it is down.
    pub(super) fn names(&self, decision: &Decision, tunnel: TunnelId) -> bool {
        let named = |target: Target| match target {
            Target::Tunnel(named) => named == tunnel,
            Target::Group(id) => self
                .groups
                .get(id)
                .is_some_and(|group| group.config().members.contains(&tunnel)),
            Target::Block(_) => false,
        };
        named(decision.action) || decision.on_down.is_some_and(named)
    }

    /// Whether packets for this tunnel wait for it now.
    pub(super) fn is_awaited(state: &TransportState) -> bool {
        Standing::of(state) == Standing::Waiting
    }
}
