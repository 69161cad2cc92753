//! Touches clock, resolver and sockets: the task that keeps a transport going.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vpn_core::{Assigned, DownCause, StateSender, TransportState, Underlay, UnderlayError};

use super::WireGuardOptions;
use super::core::{Core, Outgoing, Standing};
use super::socket::Udp;
use crate::session::TICK;
use crate::wg_quick::{Endpoint, WgQuick};

/// How long one resolution may take; a resolver that hangs is a failed attempt.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Outer headers and WireGuard's own: IPv4 20 or IPv6 40, UDP 8, data header 16, tag 16.
const OVERHEAD_V4: u16 = 60;
const OVERHEAD_V6: u16 = 80;

/// Smallest inner MTU, whatever the path: IPv4 hosts must take 576 (RFC 1122 §3.3.3).
const MIN_MTU: u16 = 576;

/// The sockets in use: one per family that is needed.
#[derive(Clone, Debug, Default)]
pub(super) struct Sockets {
    pub(super) v4: Option<Arc<Udp>>,
    pub(super) v6: Option<Arc<Udp>>,
}

impl Sockets {
    pub(super) fn for_peer(&self, at: SocketAddr) -> Option<&Arc<Udp>> {
        if at.is_ipv4() {
            self.v4.as_ref()
        } else {
            self.v6.as_ref()
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Udp>> {
        self.v4.iter().chain(&self.v6)
    }
}

/// What the task and the transport's methods share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    pub(super) sockets: Mutex<Sockets>,
    pub(super) state: StateSender,
    mtu: AtomicU16,
    /// Sockets, sessions or the state changed: waiters look again.
    pub(super) changed: Notify,
    pub(super) closing: CancellationToken,
    pub(super) underlay: Arc<dyn Underlay>,
    pub(super) options: WireGuardOptions,
    pub(super) listen_port: Option<u16>,
    pub(super) config_mtu: u16,
    pub(super) assigned: Assigned,
}

impl Shared {
    pub(super) fn new(
        config: &WgQuick,
        underlay: Arc<dyn Underlay>,
        options: WireGuardOptions,
    ) -> Self {
        Self {
            core: Mutex::new(Core::new(config, &options)),
            sockets: Mutex::default(),
            state: StateSender::new(),
            mtu: AtomicU16::new(config.mtu()),
            changed: Notify::new(),
            closing: CancellationToken::new(),
            underlay,
            options,
            listen_port: config.interface.listen_port,
            config_mtu: config.mtu(),
            assigned: Assigned {
                addresses: config.interface.addresses.clone(),
                dns: config.interface.dns.clone(),
                mtu: config.mtu(),
            },
        }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        // Every change to the core is complete before anything that could panic.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Largest inner packet now, in bytes.
    pub(super) fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Sends protocol messages. A lost one is repeated by WireGuard's timers.
    pub(super) fn send_all(&self, messages: &mut Vec<Outgoing>) {
        if messages.is_empty() {
            return;
        }
        let sockets = self.sockets().clone();
        for (to, message) in messages.drain(..) {
            if let Some(socket) = sockets.for_peer(to)
                && let Err(error) = socket.send_now(to, &message)
            {
                tracing::debug!(%error, "a protocol message was not sent");
            }
        }
    }

    /// Says what the peers' standing means for the tunnel.
    pub(super) fn announce(&self, standing: Standing) {
        match standing {
            Standing::Alive => {
                let mtu = self.mtu();
                if let TransportState::Up(now) = self.state.get()
                    && now.mtu == mtu
                {
                    return;
                }
                let mut assigned = self.assigned.clone();
                assigned.mtu = mtu;
                self.set_state(TransportState::Up(Arc::new(assigned)));
            }
            Standing::Silent => self.set_state(TransportState::Down(DownCause::NoAnswer)),
            Standing::Unchanged => {}
        }
    }

    fn set_state(&self, state: TransportState) {
        if self.state.get() != state {
            self.state.set(state);
            self.changed.notify_waiters();
        }
    }

    /// Makes the socket for this family, unless it is there.
    pub(super) fn bind(&self, v4: bool) -> Result<(), UnderlayError> {
        let mut sockets = self.sockets();
        let slot_is_empty = if v4 {
            sockets.v4.is_none()
        } else {
            sockets.v6.is_none()
        };
        if !slot_is_empty {
            return Ok(());
        }
        let address: IpAddr = if v4 {
            self.options.local_v4.into()
        } else {
            self.options.local_v6.into()
        };
        let local = SocketAddr::new(address, self.port(&sockets));
        let socket = self.underlay.udp(local)?;
        let socket = Udp::new(socket).map_err(|cause| UnderlayError::Socket { local, cause })?;
        let socket = Some(Arc::new(socket));
        if v4 {
            sockets.v4 = socket;
        } else {
            sockets.v6 = socket;
        }
        drop(sockets);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The port to listen on: the configured one, or the one the other family got.
    fn port(&self, sockets: &Sockets) -> u16 {
        let other = || sockets.iter().next()?.local_addr().ok();
        self.listen_port
            .or_else(|| other().map(|address| address.port()))
            .unwrap_or(0)
    }

    fn forget_sockets(&self) {
        *self.sockets() = Sockets::default();
        self.core().blocked.clear();
        self.changed.notify_waiters();
    }
}

/// Runs until the transport is closed.
pub(super) async fn drive(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut messages = Vec::new();
    let mut due = Vec::new();
    let mut attempt: Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = None;
    {
        let now = Instant::now();
        let mut core = shared.core();
        let mut index = 0;
        while let Some(peer) = core.peer_mut(index) {
            peer.health.demand(now);
            index += 1;
        }
    }
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => break,
            _ = interval.tick() => {
                let now = Instant::now();
                let standing = {
                    let mut core = shared.core();
                    core.tick(now, &mut messages, &mut due);
                    core.standing(now)
                };
                shared.send_all(&mut messages);
                shared.announce(standing);
                if attempt.is_none() && !due.is_empty() {
                    attempt = Some(Box::pin(approach(&shared, std::mem::take(&mut due))));
                }
                due.clear();
            }
            () = async {
                match attempt.as_mut() {
                    Some(attempt) => attempt.await,
                    None => std::future::pending().await,
                }
            } => attempt = None,
        }
    }
}

/// Approaches peers: resolves, binds, starts a handshake.
async fn approach(shared: &Shared, peers: Vec<usize>) {
    for index in peers {
        let begun = {
            let mut core = shared.core();
            let alone = !core.listens();
            core.peer_mut(index).and_then(|peer| {
                let endpoint = peer.configured.clone()?;
                let attempts = peer.health.attempts();
                let permit = peer.health.begin(Instant::now())?;
                Some((endpoint, attempts, permit, alone))
            })
        };
        let Some((endpoint, attempts, permit, alone)) = begun else {
            continue;
        };
        // A second try from a new port gets past a mapping that went stale on the way, and off a
        // network that is gone. Not where clients know the port.
        if attempts > 0 && alone && shared.listen_port.is_none() && !any_alive(shared) {
            shared.forget_sockets();
        }
        let outcome = reach(shared, &endpoint, attempts).await;
        let now = Instant::now();
        let mut messages = Vec::new();
        match outcome {
            Ok(at) => {
                shared.core().reached(index, at, permit, now, &mut messages);
                shared.send_all(&mut messages);
            }
            Err(cause) => {
                if let Some(peer) = shared.core().peer_mut(index) {
                    peer.health.failed(permit, now);
                }
                if !any_alive(shared) {
                    shared.set_state(TransportState::Down(cause));
                }
            }
        }
    }
}

fn any_alive(shared: &Shared) -> bool {
    shared.core().standing(Instant::now()) == Standing::Alive
}

async fn reach(
    shared: &Shared,
    endpoint: &Endpoint,
    attempts: u32,
) -> Result<SocketAddr, DownCause> {
    let addresses = match endpoint {
        Endpoint::Address(address) => vec![*address],
        Endpoint::Name { host, port } => {
            let resolving = shared.underlay.resolve(host, *port);
            match tokio::time::timeout(RESOLVE_TIMEOUT, resolving).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => return Err(DownCause::Resolve(error.to_string())),
                Err(_) => {
                    return Err(DownCause::Resolve(format!(
                        "{host}: no answer in {RESOLVE_TIMEOUT:?}"
                    )));
                }
            }
        }
    };
    if addresses.is_empty() {
        return Err(DownCause::Resolve(format!("{endpoint}: no address")));
    }
    // Each attempt begins with another address: one that swallows everything does not win.
    let first = attempts as usize % addresses.len();
    let mut problem = String::new();
    for at in addresses[first..].iter().chain(&addresses[..first]) {
        match shared.bind(at.is_ipv4()) {
            Ok(()) => {
                let overhead = if at.is_ipv4() {
                    OVERHEAD_V4
                } else {
                    OVERHEAD_V6
                };
                let path = shared.underlay.mtu_to(*at).unwrap_or(u16::MAX);
                let mtu = path.saturating_sub(overhead).max(MIN_MTU);
                shared
                    .mtu
                    .store(mtu.min(shared.config_mtu), Ordering::Relaxed);
                return Ok(*at);
            }
            Err(error) => problem = error.to_string(),
        }
    }
    Err(DownCause::Network(problem))
}
