//! Live flows whose way is another one now: kept, moved or ended.
//!
//! Everything but a live TCP connection moves with its next packet. A connection cannot survive a
//! change of address, so its rule says what becomes of it: it keeps its tunnel, it is reset, or its
//! packets go nowhere. An entry that was ended stays in the table and answers for the connection,
//! so that what is left of it on either side cannot be taken for a new flow. A SYN makes a new one.

use vpn_core::{DropReason, Generation, OnChange};

use super::Router;
use super::dns::Asking;
use super::outbound::{Known, Outcome};
use super::resolve::Way;
use crate::conn::{ConnId, Phase, Stamp};
use crate::rules::Decision;

impl Router {
    /// A flow in the table was decided again, and its way is not its tunnel any more, or its
    /// tunnel is down. `None`: it goes on as it was.
    pub(super) fn moved(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Asking<'_>,
        known: Known,
        decision: &Decision,
        way: Way,
    ) -> Option<Outcome> {
        let conn = self.conns.get(id)?;
        let tunnel = conn.tunnel;
        if conn.phase.is_live_tcp() {
            let at_home = matches!(way, Way::Down(_)) && self.names(decision, tunnel);
            return match (decision.on_change, at_home) {
                // Nothing else carries it: it waits for the tunnel it is in.
                (_, true) => Some(Outcome::Drop(DropReason::TunnelDown, Some(tunnel))),
                (OnChange::Reset, _) => {
                    self.end_by_reset(now, id);
                    Some(Outcome::Reset(tunnel))
                }
                (OnChange::Drop, _) => {
                    self.end(now, id, Phase::TcpDropped);
                    Some(Outcome::Drop(DropReason::FlowEnded, Some(tunnel)))
                }
                _ => None,
            };
        }
        match way {
            Way::Down(at) => Some(Outcome::Drop(DropReason::TunnelDown, at)),
            _ => Some(self.replace_flow(now, id, parsed, known)),
        }
    }

    /// From now on this entry only answers for a connection that was.
    pub(super) fn end(&mut self, now: Stamp, id: ConnId, phase: Phase) {
        self.conns.change(id, |conn| {
            conn.phase = phase;
            conn.last_seen = now;
            // Never that of rules in force: each packet is looked at.
            conn.generation = Generation::COLD;
        });
    }

    /// A packet of a connection that was ended, from the app.
    pub(super) fn after_the_end(&mut self, now: Stamp, id: ConnId) -> Option<Outcome> {
        let conn = self.conns.get(id)?;
        let outcome = match conn.phase {
            Phase::TcpReset => Outcome::Reset(conn.tunnel),
            Phase::TcpDropped => Outcome::Drop(DropReason::FlowEnded, Some(conn.tunnel)),
            _ => return None,
        };
        self.conns.change(id, |conn| conn.last_seen = now);
        Some(outcome)
    }
}
