//! A pool's report as samples.

use vpn_core::metrics;

use super::status::{PoolStatus, Traffic};

impl PoolStatus {
    /// Puts what it says into a snapshot: a pool, and the breaker of opening its streams, both by this
    /// name of the peer.
    pub fn measure(&self, peer: &str, into: &mut metrics::Snapshot) {
        let counters = &self.counters;
        let both = |traffic: Traffic| [traffic.packets, traffic.bytes];
        into.pools.push(metrics::Pool {
            peer: peer.to_owned(),
            streams: self.streams as u64,
            opening: self.opening as u64,
            events: vec![
                ("opened", counters.opened),
                ("not_opened", counters.open_failed),
                ("accepted", counters.accepted),
                ("broke", counters.broken),
                ("stalled", counters.stalled),
                ("retired", counters.retired),
            ],
            taken: both(counters.taken),
            delivered: both(counters.delivered),
            received: both(counters.received),
            drops: counters.drops.clone(),
            waiting: self.waiting,
            in_flight: self.in_flight,
            uncertain: self.uncertain,
            waiting_bytes: self.waiting_bytes as u64,
            silences: counters.silences,
            round_trip: self.round_trip,
        });
        let transitions = self.breaker_transitions;
        into.breakers.push(metrics::Breaker {
            name: peer.to_owned(),
            state: self.breaker.name(),
            opened: transitions.opened,
            half_opened: transitions.half_opened,
            closed: transitions.closed,
            admitted: self.breaker_permits[0],
            refused: self.breaker_permits[1],
        });
    }
}
