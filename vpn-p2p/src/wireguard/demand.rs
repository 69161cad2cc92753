//! A tunnel on demand: silent without sockets or sessions until it is woken.

use std::time::{Duration, Instant};

use vpn_core::TransportState;

use super::driver::Shared;

impl Shared {
    /// After how long without packets it rests; `None` if it is not on demand. Who waits for peers
    /// is never: they would find nobody.
    pub(super) fn idle_limit(&self) -> Option<Duration> {
        self.options.on_demand.filter(|_| !self.waits_for_peers)
    }

    pub(super) fn is_dormant(&self) -> bool {
        self.state.get() == TransportState::Dormant
    }

    /// Connects, if it is dormant.
    pub(super) fn wake(&self) {
        if !self.is_dormant() {
            return;
        }
        self.demand_all();
        self.state.set(TransportState::Connecting);
        self.changed.notify_waiters();
        self.woken.notify_one();
    }

    /// Becomes dormant, if it is on demand and up: nothing is sent any more, and the peer is not
    /// heard.
    pub(super) fn rest(&self) {
        let up = matches!(self.state.get(), TransportState::Up(_));
        if !up || self.idle_limit().is_none() {
            return;
        }
        self.core().forget_sessions(Instant::now());
        self.forget_sockets();
        self.state.set(TransportState::Dormant);
        self.changed.notify_waiters();
    }

    /// Every peer with an endpoint is to be approached.
    pub(super) fn demand_all(&self) {
        let now = Instant::now();
        let mut core = self.core();
        let mut index = 0;
        while let Some(peer) = core.peer_mut(index) {
            peer.health.demand(now);
            index += 1;
        }
    }
}
