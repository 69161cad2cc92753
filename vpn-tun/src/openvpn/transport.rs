//! A tunnel through OpenVPN: supervised, and taken over at its interface.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use tokio::sync::Notify;
use vpn_core::packet::PacketBatch;
use vpn_core::{
    DownCause, DropCounters, NetworkEvent, Resources, StateWatch, TransportCapabilities,
    TransportError, TransportState, TunnelTransport, Underlay,
};

use super::config::OpenVpnConfig;
use super::runner::Runner;
use crate::external::Slot;

/// A tunnel that the distribution's `openvpn` carries.
///
/// It is up when the server accepted us, and has the addresses, resolvers, routes and MTU that the
/// server pushed. OpenVPN reconnects by itself; where it ends, it is started again after 1, 2, 4 ...
/// 60 seconds. A refusal (a wrong password, say) is final: asking again would lock the account.
#[derive(Debug)]
pub struct OpenVpnTransport {
    slot: Arc<Slot>,
    /// The network below is another one.
    moved: Arc<Notify>,
    /// The process that runs; 0 while none does.
    process: Arc<AtomicU32>,
}

impl OpenVpnTransport {
    /// Starts it. Its task must be polled in the network namespace it is for.
    pub fn start(config: OpenVpnConfig, underlay: Arc<dyn Underlay>) -> Self {
        let slot = Arc::new(Slot::new());
        let moved = Arc::new(Notify::new());
        let process = Arc::new(AtomicU32::new(0));
        let runner = Runner {
            slot: slot.clone(),
            config,
            underlay,
            closing: slot.closing(),
            moved: Arc::clone(&moved),
            process: Arc::clone(&process),
        };
        slot.watch_over(tokio::spawn(runner.run()));
        Self {
            slot,
            moved,
            process,
        }
    }
}

impl Drop for OpenVpnTransport {
    fn drop(&mut self) {
        self.slot.close();
    }
}

#[async_trait]
impl TunnelTransport for OpenVpnTransport {
    fn capabilities(&self) -> TransportCapabilities {
        self.slot.capabilities()
    }

    fn state(&self) -> StateWatch {
        self.slot.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.slot.try_recv(batch, drops)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.slot.try_send(batch, drops)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.slot.readable().await
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.slot.writable().await
    }

    fn resources(&self) -> Resources {
        let mut resources = self.slot.resources();
        let process = self.process.load(Ordering::Relaxed);
        if process != 0 {
            resources.process = Some(process);
            // The conversation, and what tells that it ended.
            resources.descriptors += 2;
        }
        resources
    }

    /// OpenVPN connects anew, at once, also where it waits before the next attempt.
    fn network_changed(&self, event: NetworkEvent) {
        if event.calls_for_reconnect() {
            self.moved.notify_one();
        } else if event == NetworkEvent::Lost && !matches!(self.slot.get(), TransportState::Down(_))
        {
            let cause = DownCause::Network("there is no network".to_owned());
            self.slot.set(TransportState::Down(cause));
        }
    }

    async fn close(&self) {
        self.slot.end().await;
    }
}
