//! Touches clock and sockets: the task that keeps a transport going.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vpn_core::{Assigned, DownCause, StateSender, TransportState, Underlay, UnderlayError};

use super::WireGuardOptions;
use super::approach::approach;
use super::core::{Core, Outgoing, Standing};
use super::outbound::unblock;
use super::socket::{Run, Udp};
use super::sockets::Sockets;
use crate::session::TICK;
use crate::wg_quick::WgQuick;

/// Outer headers and WireGuard's own: IPv4 20 or IPv6 40, UDP 8, data header 16, tag 16.
const OVERHEAD_V4: u16 = 60;
const OVERHEAD_V6: u16 = 80;

/// Smallest inner MTU, whatever the path: IPv4 hosts must take 576 (RFC 1122 §3.3.3).
const MIN_MTU: u16 = 576;

/// Widest path that is believed without the file's word, in bytes: that of Ethernet. A link with
/// jumbo frames says nothing about what lies behind it.
const USUAL_PATH: u16 = 1500;

/// A packet is padded to a multiple of this, as far as the sender's interface is wide (WireGuard
/// protocol §5.4.6).
const PADDING: u16 = 16;

/// Largest inner packet, in bytes: what the path leaves, and not more than the file says.
fn inner_mtu(file: Option<u16>, path: Option<u16>, ipv4: bool) -> u16 {
    let overhead = if ipv4 { OVERHEAD_V4 } else { OVERHEAD_V6 };
    // The peer's interface is as wide as ours should be, and does not know of a narrower path: it
    // would pad what just fits until it does not.
    let peers = file.unwrap_or(WgQuick::DEFAULT_MTU);
    let left = |path: u16| match path.saturating_sub(overhead) {
        left if left < peers => (left - left % PADDING).max(MIN_MTU),
        left => left,
    };
    match (file, path) {
        (None, None) => WgQuick::DEFAULT_MTU,
        (None, Some(path)) => left(path.min(USUAL_PATH)),
        (Some(file), None) => file,
        (Some(file), Some(path)) => file.min(left(path)),
    }
}

/// What the task and the transport's methods share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    pub(super) sockets: Mutex<Sockets>,
    pub(super) state: StateSender,
    mtu: AtomicU16,
    /// Why the last attempt did not get as far as asking the peer; tells "the network is gone"
    /// from "the peer does not answer".
    obstacle: Mutex<Option<DownCause>>,
    /// Sockets, sessions or the state changed: waiters look again.
    pub(super) changed: Notify,
    /// A full socket left something over: the task sends it, for its caller may never come again.
    pub(super) stalled: Notify,
    pub(super) closing: CancellationToken,
    pub(super) underlay: Arc<dyn Underlay>,
    pub(super) options: WireGuardOptions,
    pub(super) listen_port: Option<u16>,
    file_mtu: Option<u16>,
    pub(super) assigned: Assigned,
    /// A peer has no endpoint, so it is waited for.
    pub(super) waits_for_peers: bool,
    /// It was woken: the task looks at once.
    pub(super) woken: Notify,
    /// The network below changed, and the task has not seen it yet.
    pub(super) moved: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        config: &WgQuick,
        underlay: Arc<dyn Underlay>,
        options: WireGuardOptions,
    ) -> Self {
        let waits_for_peers = config.peers.iter().any(|peer| peer.endpoint.is_none());
        let state = StateSender::new();
        if options.on_demand.is_some() && !waits_for_peers {
            state.set(TransportState::Dormant);
        }
        Self {
            waits_for_peers,
            woken: Notify::new(),
            moved: AtomicBool::new(false),
            core: Mutex::new(Core::new(config, &options)),
            sockets: Mutex::default(),
            state,
            mtu: AtomicU16::new(config.mtu()),
            obstacle: Mutex::default(),
            changed: Notify::new(),
            stalled: Notify::new(),
            closing: CancellationToken::new(),
            underlay,
            options,
            listen_port: config.interface.listen_port,
            file_mtu: config.interface.mtu,
            assigned: Assigned {
                addresses: config.interface.addresses.clone(),
                dns: config.interface.dns.clone(),
                mtu: config.mtu(),
                // What the profile says lies behind the tunnel; the router's policy decides.
                routes: config
                    .peers
                    .iter()
                    .flat_map(|peer| peer.allowed_ips.clone())
                    .collect(),
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
    ///
    /// Returns the last error; a full socket is none.
    pub(super) fn send_all(&self, messages: &mut Vec<Outgoing>) -> io::Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let sockets = self.sockets().clone();
        let mut result = Ok(());
        for (to, message) in messages.drain(..) {
            let Some(socket) = sockets.to(to) else {
                continue;
            };
            match socket.send_now(to, &message) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    tracing::debug!(%error, "a protocol message was not sent");
                    result = Err(error);
                }
                _ => {}
            }
        }
        result
    }

    pub(super) fn obstacle(&self) -> MutexGuard<'_, Option<DownCause>> {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner)
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
            Standing::Silent => {
                let cause = self.obstacle().clone().unwrap_or(DownCause::NoAnswer);
                self.set_state(TransportState::Down(cause));
            }
            Standing::Unchanged => {}
        }
    }

    pub(super) fn set_state(&self, state: TransportState) {
        // What is left of a time before must not wake it.
        if self.state.get() != state && !self.is_dormant() {
            self.state.set(state);
            self.changed.notify_waiters();
        }
    }

    /// Looks at the paths to where peers are now: another address, or another family, may carry
    /// less, and the same one more or less than a while ago. The narrowest decides, for the tunnel
    /// has one MTU.
    pub(super) fn measure(&self) {
        let now = Instant::now();
        let due = self.core().unmeasured(now);
        for (peer, at) in due {
            let inner = inner_mtu(self.file_mtu, self.underlay.mtu_to(at), at.is_ipv4());
            let mtu = self.core().measured(peer, at, inner, now);
            if mtu != self.mtu.swap(mtu, Ordering::Relaxed) {
                tracing::debug!(mtu, "the tunnel's MTU is that of its path");
            }
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

    pub(super) fn forget_sockets(&self) {
        *self.sockets() = Sockets::default();
        let mut core = self.core();
        let lost: usize = core.blocked.drain(..).map(|run| run.count()).sum();
        core.stats.tx_lost += lost as u64;
        drop(core);
        self.changed.notify_waiters();
    }

    /// Sends what full sockets left over, as soon as they take it. Never returns.
    async fn unblock(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(to) = self.core().blocked.front().and_then(Run::to) else {
                self.stalled.notified().await;
                continue;
            };
            let socket = self.sockets().to(to).cloned();
            if let Some(socket) = socket {
                tokio::select! {
                    // An error of the wait comes again from the socket, and ends it there.
                    _ = socket.writable() => {}
                    () = changed => continue,
                }
            }
            let sockets = self.sockets().clone();
            if unblock(&mut self.core(), &sockets) {
                self.changed.notify_waiters();
            }
        }
    }
}

/// Runs until the transport is closed.
pub(super) async fn drive(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut messages = Vec::new();
    let mut due = Vec::new();
    let mut attempt: Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = None;
    let unblocking = shared.unblock();
    tokio::pin!(unblocking);
    if !shared.is_dormant() {
        shared.demand_all();
    }
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => break,
            () = &mut unblocking => {}
            () = shared.woken.notified() => {
                if shared.follow() {
                    // It may wait for a resolver of the old network.
                    attempt = None;
                }
                interval.reset_immediately();
            }
            _ = interval.tick() => {
                if shared.is_dormant() {
                    continue;
                }
                let now = Instant::now();
                shared.core().tick(now, &mut messages, &mut due);
                // What cannot be sent now shows as silence, and then as a failed attempt.
                let _ = shared.send_all(&mut messages);
                shared.measure();
                // Under the lock: a peer that is heard meanwhile must have the last word.
                let core = shared.core();
                shared.announce(core.standing(now));
                drop(core);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use async_trait::async_trait;

    #[derive(Debug)]
    struct Plain;

    #[async_trait]
    impl Underlay for Plain {
        fn udp(&self, local: SocketAddr) -> Result<std::net::UdpSocket, UnderlayError> {
            let socket = std::net::UdpSocket::bind(local);
            let socket = socket.map_err(|cause| UnderlayError::Socket { local, cause })?;
            socket.set_nonblocking(true).unwrap();
            Ok(socket)
        }

        async fn resolve(&self, _: &str, _: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn the_mtu_is_the_files_or_what_the_path_leaves() {
        assert_eq!(inner_mtu(None, None, true), 1420);
        assert_eq!(inner_mtu(None, Some(1500), true), 1440);
        assert_eq!(inner_mtu(None, Some(1500), false), 1420);
        assert_eq!(inner_mtu(None, Some(1400), false), 1312);
        assert_eq!(inner_mtu(None, Some(9000), true), 1440);
        assert_eq!(inner_mtu(None, Some(100), true), 576);
        assert_eq!(inner_mtu(Some(8900), Some(9000), true), 8900);
        assert_eq!(inner_mtu(Some(1420), Some(1400), true), 1328);
        assert_eq!(inner_mtu(Some(1420), Some(1500), false), 1420);
        // Padded by the peer to 1312 bytes it would not pass.
        assert_eq!(inner_mtu(None, Some(1360), true), 1296);
        assert_eq!(inner_mtu(Some(1280), Some(1500), true), 1280);
        assert_eq!(inner_mtu(Some(1380), None, false), 1380);
    }

    /// The end of a burst met a full socket, and no packet follows that would push it.
    #[tokio::test]
    async fn what_a_full_socket_left_over_is_sent_without_another_call() {
        let key = crate::wg_quick::PrivateKey::generate().unwrap();
        let file = format!(
            "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\n",
            *key.reveal_base64(),
            key.public(),
        );
        let config = WgQuick::parse("test", &file).unwrap();
        let shared = Arc::new(Shared::new(
            &config,
            Arc::new(Plain),
            WireGuardOptions::default(),
        ));
        shared.bind(true).unwrap();
        let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = receiver.local_addr().unwrap();
        let task = tokio::spawn(drive(shared.clone()));
        for round in 0..3u8 {
            let mut run = Run::default();
            run.bytes.push(round);
            run.appended(to, 1, 0);
            shared.core().blocked.push_back(run);
            shared.stalled.notify_one();
            let mut datagram = [0; 8];
            let received = receiver.recv(&mut datagram);
            let patience = Duration::from_secs(30);
            let length = tokio::time::timeout(patience, received).await.unwrap();
            assert_eq!(datagram[..length.unwrap()], [round]);
        }
        assert_eq!(shared.core().stats.tx_bytes, 3);
        shared.closing.cancel();
        task.await.unwrap();
    }
}
