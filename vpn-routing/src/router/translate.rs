//! New flows: the key they have in their tunnel, and what leads there and back.

use vpn_core::{DropReason, FlowKey, Protocol, TunnelId};

use super::Router;
use crate::conn::{Conn, Origin, UsageSlot};
use crate::nat::{Endpoint, MappingId};

impl Router {
    /// The key of a new flow in its tunnel: `wanted`, or with another port if that is taken.
    /// Once per flow; see [`nat`](crate::nat) for which protocol is translated how.
    pub(super) fn wire_key(
        &mut self,
        tunnel: TunnelId,
        device: &FlowKey,
        wanted: FlowKey,
    ) -> Result<(FlowKey, Option<MappingId>), DropReason> {
        let protocol = device.protocol();
        let source = |wire: Endpoint| wanted.with_source(wire.addr, wire.port);
        match protocol {
            Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 => {
                let space = (tunnel, protocol);
                let app = Endpoint::new(device.src(), device.src_port());
                let published = self.rules.inbound().published(tunnel, protocol, app.port);
                let port = published.unwrap_or(wanted.src_port());
                let to = Endpoint::new(wanted.src(), port);
                let rules = &self.rules;
                let allowed = |port| rules.inbound().may_use(tunnel, protocol, port, app.port);
                let (id, wire) = self.nat.acquire(space, app, to, allowed)?;
                let key = source(wire);
                if self.conns.find_wire(tunnel, &key).is_none() {
                    return Ok((key, Some(id)));
                }
                // The same socket asks two resolvers that are steered to one.
                self.nat.release(id);
                let (id, wire) = self.nat.acquire_apart(space, app, to.addr, allowed)?;
                Ok((source(wire), Some(id)))
            }
            Protocol::TCP => {
                let (conns, rules, local) = (&self.conns, &self.rules, device.src_port());
                let key = |port| source(Endpoint::new(wanted.src(), port));
                let free = |port| {
                    conns.find_wire(tunnel, &key(port)).is_none()
                        && rules.inbound().may_use(tunnel, protocol, port, local)
                };
                let port = match wanted.src_port() {
                    port if free(port) => port,
                    _ => self.nat.ports().draw(free)?,
                };
                Ok((key(port), None))
            }
            // Addresses only: there is nothing to tell two flows apart by.
            _ => match self.conns.find_wire(tunnel, &wanted) {
                None => Ok((wanted, None)),
                Some(_) => Err(DropReason::MappingTaken),
            },
        }
    }

    /// A mapping that was had for a flow which was not entered after all.
    pub(super) fn unmap(&mut self, mapping: Option<MappingId>) {
        if let Some(id) = mapping {
            self.nat.release(id);
        }
    }

    /// A flow does not count any more under this application, nor in its account.
    pub(super) fn account_gone(&mut self, usage: UsageSlot) {
        let owner = self.usages.owner(usage);
        self.usages.release(usage);
        self.owners.release(owner);
    }

    /// A flow was removed: what it counted in elsewhere.
    pub(super) fn flow_gone(&mut self, conn: &Conn) {
        self.dns.flow_gone(conn);
        self.let_go(&conn.device);
        self.account_gone(conn.usage);
        self.unmap(conn.mapping);
        if let (Origin::Tunnel, Some(rule)) = (conn.origin, conn.rule) {
            self.guests.left(rule);
        }
    }
}
