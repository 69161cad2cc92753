//! The network below is another one, or gone: what the transport forgets, and whom it asks again.
//!
//! A session outlives a change of address: the peer learns where we are from the next authentic
//! message (whitepaper §2.1). So nothing is forgotten but the sockets, whose ports a translator on
//! the old network knew, and a handshake starts at once. It proves the new way, and a session that
//! was dead without anybody having noticed is replaced by it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use vpn_core::{DownCause, NetworkEvent, TransportState};

use super::driver::Shared;

impl Shared {
    /// Called from outside the task: what takes time is left to it.
    pub(super) fn network_changed(&self, event: NetworkEvent) {
        if self.is_dormant() || self.closing.is_cancelled() {
            return;
        }
        if event.calls_for_reconnect() {
            self.moved.store(true, Ordering::Relaxed);
            self.woken.notify_one();
        } else if event == NetworkEvent::Lost {
            let cause = DownCause::Network("there is no network".to_owned());
            self.obstacle().replace(cause.clone());
            let mut core = self.core();
            core.cut_off();
            self.set_state(TransportState::Down(cause));
        }
    }

    /// Follows a change of the network, if there was one; whether there was. Sockets stay where
    /// clients know the port; they are bound to no address unless that was asked for.
    pub(super) fn follow(&self) -> bool {
        if !self.moved.swap(false, Ordering::Relaxed) || self.is_dormant() {
            return false;
        }
        let mut core = self.core();
        let any = core.moved(Instant::now());
        let keep = core.listens() || self.listen_port.is_some();
        drop(core);
        if any && !keep {
            self.forget_sockets();
        }
        any
    }
}
