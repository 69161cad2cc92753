//! What an engine waits for: readiness of its device, transports and owners, as futures.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use vpn_core::{
    DeviceError, OwnerAnswer, OwnerQuery, StateWatch, TransportError, TransportState, TunnelId,
    TunnelTransport,
};

use super::worker::Worker;

/// Wakes in a row without a packet before a source is waited for a moment longer. Wakes may be
/// spurious; a device or transport that always says "ready" must not take the processor.
const SPURIOUS_WAKES: u32 = 16;

/// That moment.
const SPURIOUS_PAUSE: Duration = Duration::from_millis(1);

/// One wait; each target has at most one of each kind.
pub(super) type Io = Pin<Box<dyn Future<Output = Ready> + Send>>;

/// How often in a row a source was ready for nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spurious {
    pub(super) read: u32,
    pub(super) write: u32,
}

impl Spurious {
    /// Counts a wake; the pause before the next one, if there were too many for nothing.
    pub(super) fn note(count: &mut u32, moved: bool) -> Option<Duration> {
        *count = if moved { 0 } else { count.saturating_add(1) };
        (*count > SPURIOUS_WAKES).then_some(SPURIOUS_PAUSE)
    }
}

/// Something a worker waits for.
pub(super) enum Ready {
    DeviceReadable(Result<(), DeviceError>),
    DeviceWritable(Result<(), DeviceError>),
    TunnelReadable(TunnelId, Result<(), TransportError>),
    TunnelWritable(TunnelId, Result<(), TransportError>),
    TunnelState(TunnelId, StateWatch, TransportState),
    Owner(OwnerQuery, OwnerAnswer),
}

impl Worker {
    pub(super) fn arm_device(&mut self, pause: Option<Duration>) {
        let device = Arc::clone(&self.lane.device);
        self.io.push(Box::pin(async move {
            rest(pause).await;
            Ready::DeviceReadable(device.readable().await)
        }));
    }

    pub(super) fn arm_tunnel(
        &mut self,
        id: TunnelId,
        transport: Arc<dyn TunnelTransport>,
        pause: Option<Duration>,
    ) {
        self.io.push(Box::pin(async move {
            rest(pause).await;
            Ready::TunnelReadable(id, transport.readable().await)
        }));
    }

    pub(super) fn arm_owners(&mut self) {
        let owners = Arc::clone(&self.lane.owners);
        self.io.push(Box::pin(async move {
            let (query, answer) = owners.resolved().await;
            Ready::Owner(query, answer)
        }));
    }
}

/// The pause, if any.
pub(super) async fn rest(pause: Option<Duration>) {
    if let Some(pause) = pause {
        tokio::time::sleep(pause).await;
    }
}

pub(super) async fn next_state(id: TunnelId, mut watch: StateWatch) -> Ready {
    let state = watch.next().await;
    Ready::TunnelState(id, watch, state)
}
