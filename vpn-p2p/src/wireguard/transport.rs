//! The tunnel the engine sees.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use vpn_core::packet::PacketBatch;
use vpn_core::{
    DropCounters, NetworkEvent, Resources, StateWatch, TransportCapabilities, TransportError,
    TransportState, TunnelTransport, Underlay, UnderlayError,
};

use super::driver::{Shared, drive};
use super::sockets::Sockets;
use super::{WireGuardOptions, WireGuardStats};
use crate::wg_quick::WgQuick;

/// Why a transport cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireGuardError {
    /// It needs a tokio runtime for its task. Call it inside one.
    #[error("a WireGuard transport must be made inside a tokio runtime")]
    NoRuntime,
    /// The port to listen on cannot be had. Choose another, or stop who has it.
    #[error("cannot listen")]
    Listen(#[source] UnderlayError),
}

/// A WireGuard tunnel over the underlay.
///
/// Peers with an `Endpoint` are approached at once and for ever; peers without one are waited for
/// on the `ListenPort`, which makes the same type a server.
///
/// It is [`Up`](TransportState::Up) after a handshake that proved the peer, and
/// [`Down`](TransportState::Down) when the peer leaves a handshake or data unanswered for
/// [`NO_ANSWER_AFTER`](super::NO_ANSWER_AFTER). It recovers by itself: a silent peer is approached
/// at least every five seconds, by a newly resolved address.
///
/// ```no_run
/// use std::sync::Arc;
/// use vpn_core::Underlay;
/// use vpn_p2p::{WgQuick, WireGuardOptions, WireGuardTransport};
///
/// # fn example(underlay: Arc<dyn Underlay>) -> Result<(), Box<dyn std::error::Error>> {
/// let config = WgQuick::read("uk.conf")?;
/// for warning in &config.warnings {
///     eprintln!("uk.conf: {warning}");
/// }
/// let tunnel = WireGuardTransport::new(config, underlay, WireGuardOptions::default())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WireGuardTransport {
    shared: Arc<Shared>,
    /// Held by whoever waits for its end: all of them return when it has ended.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl WireGuardTransport {
    /// Starts the tunnel: its task runs on the current tokio runtime until
    /// [`close`](TunnelTransport::close) or drop.
    ///
    /// A configuration with a `ListenPort`, or with a peer without `Endpoint`, binds at once.
    ///
    /// # Errors
    ///
    /// [`WireGuardError`]. A peer that cannot be reached is not an error but a state.
    pub fn new(
        config: WgQuick,
        underlay: Arc<dyn Underlay>,
        options: WireGuardOptions,
    ) -> Result<Self, WireGuardError> {
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|_| WireGuardError::NoRuntime)?;
        let shared = Arc::new(Shared::new(&config, underlay, options));
        if config.interface.listen_port.is_some() || shared.core().listens() {
            shared.bind(true).map_err(WireGuardError::Listen)?;
            // Many hosts have no IPv6; a server then serves IPv4 only.
            if let Err(error) = shared.bind(false) {
                tracing::debug!(%error, "not listening on IPv6");
            }
        }
        let task = runtime.spawn(drive(shared.clone()));
        Ok(Self {
            shared,
            task: Mutex::new(Some(task)),
        })
    }

    /// The addresses its sockets are bound to now; of a server, where clients find it.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let sockets = self.shared.sockets().clone();
        sockets.iter().filter_map(|s| s.local_addr().ok()).collect()
    }

    /// What it has done so far.
    pub fn stats(&self) -> WireGuardStats {
        self.shared.core().snapshot()
    }

    fn check_open(&self) -> Result<(), TransportError> {
        if self.shared.closing.is_cancelled() {
            return Err(TransportError::Closed);
        }
        Ok(())
    }
}

impl Drop for WireGuardTransport {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

#[async_trait]
impl TunnelTransport for WireGuardTransport {
    fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(self.shared.mtu())
    }

    fn state(&self) -> StateWatch {
        self.shared.state.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check_open()?;
        Ok(self.shared.receive_batch(batch, drops))
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check_open()?;
        Ok(self.shared.send_batch(batch, drops))
    }

    async fn readable(&self) -> Result<(), TransportError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.check_open()?;
            if !self.shared.core().arrived.is_empty() {
                return Ok(());
            }
            let sockets = self.shared.sockets().clone();
            tokio::select! {
                () = self.shared.closing.cancelled() => return Err(TransportError::Closed),
                result = sockets.readable() => return Ok(result?),
                () = changed => {}
            }
        }
    }

    async fn writable(&self) -> Result<(), TransportError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.check_open()?;
            let blocked = {
                let state = self.shared.state.get();
                let core = self.shared.core();
                let down = matches!(state, TransportState::Down(_));
                match core.blocked.front() {
                    Some(run) => run.to(),
                    None if down || core.takes(matches!(state, TransportState::Up(_))) => {
                        return Ok(());
                    }
                    None => None,
                }
            };
            let socket = blocked.and_then(|to| self.shared.sockets().to(to).cloned());
            let writable = async {
                match (socket, blocked) {
                    (Some(socket), _) => socket.writable().await,
                    // Its socket is gone: the next `try_send` finds out.
                    (None, Some(_)) => Ok(()),
                    (None, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.closing.cancelled() => return Err(TransportError::Closed),
                result = writable => return Ok(result?),
                () = changed => {}
            }
        }
    }

    fn wake(&self) {
        self.shared.wake();
    }

    fn rest(&self) {
        self.shared.rest();
    }

    fn network_changed(&self, event: NetworkEvent) {
        self.shared.network_changed(event);
    }

    fn idle_limit(&self) -> Option<Duration> {
        self.shared.idle_limit()
    }

    fn round_trip(&self) -> Option<Duration> {
        self.shared.core().round_trip()
    }

    fn resources(&self) -> Resources {
        // Locked: somebody waits for its end.
        let running = self.task.try_lock().map_or(true, |task| {
            task.as_ref().is_some_and(|task| !task.is_finished())
        });
        let mut resources = Resources::default();
        resources.descriptors = self.shared.sockets().iter().count();
        resources.tasks = usize::from(running);
        resources.bytes = size_of::<Shared>() + self.shared.core().bytes();
        resources
    }

    async fn close(&self) {
        self.shared.closing.cancel();
        let mut task = self.task.lock().await;
        if let Some(running) = task.as_mut() {
            // It ends by the token; a panic in it ended it as well.
            let _ = running.await;
            *task = None;
        }
        drop(task);
        *self.shared.sockets() = Sockets::default();
        self.shared.state.set(TransportState::Closed);
        self.shared.changed.notify_waiters();
    }
}
