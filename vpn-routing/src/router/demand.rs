//! Tunnels on demand: woken by the first packet that has to wait, at rest after a while without.

use std::time::{Duration, Instant};

use vpn_core::{TransportState, TunnelId};

use super::{Event, Router};

/// What is known of the demand for one tunnel.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// After how long without packets it rests; `None`: never.
    pub(super) idle_limit: Option<Duration>,
    /// Packets of both directions that were counted, and since when they are that many.
    seen: Option<(u64, Instant)>,
    /// It was asked to wake, and has not said anything since.
    woken: bool,
}

impl Demand {
    /// The tunnel changed its state.
    pub(super) fn changed(&mut self, now: Instant) {
        self.woken = false;
        if let Some((_, since)) = &mut self.seen {
            *since = now;
        }
    }
}

impl Router {
    /// Lets a tunnel rest after this long without packets, seen once a second;
    /// [`Event::Rest`] then says so. Default `None`: never.
    pub fn set_idle_limit(&mut self, tunnel: TunnelId, limit: Option<Duration>) {
        if let Some(slot) = self.tunnels.get_mut(tunnel) {
            slot.demand.idle_limit = limit;
        }
    }

    /// A packet begins to wait for a tunnel: if that is dormant, it has to be woken.
    pub(super) fn wake(&mut self, tunnel: Option<TunnelId>) {
        let Some(tunnel) = tunnel else { return };
        if let Some(slot) = self.tunnels.get_mut(tunnel)
            && slot.state == TransportState::Dormant
            && !std::mem::replace(&mut slot.demand.woken, true)
        {
            self.events.push_back(Event::Wake(tunnel));
        }
    }

    /// Once a second: which tunnels had no packet for long enough. It costs packets nothing, for
    /// they are counted anyway.
    pub(super) fn look_for_idle(&mut self, now: Instant) {
        for (tunnel, slot) in self.tunnels.iter_mut() {
            // Whoever did not hear it is told again by the next packet.
            slot.demand.woken = false;
            let Some(limit) = slot.demand.idle_limit else {
                continue;
            };
            let packets = slot.counters.tx_packets + slot.counters.rx_packets;
            let since = match slot.demand.seen {
                Some((seen, since)) if seen == packets => since,
                _ => {
                    slot.demand.seen = Some((packets, now));
                    now
                }
            };
            let idle = now.saturating_duration_since(since) >= limit;
            let up = matches!(slot.state, TransportState::Up(_));
            if idle && up && slot.queue.is_empty() {
                slot.demand.seen = Some((packets, now));
                self.events.push_back(Event::Rest(tunnel));
            }
        }
    }
}
