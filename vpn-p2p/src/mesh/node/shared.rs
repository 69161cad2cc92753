//! What the task and the transport's methods share.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use vpn_core::{Assigned, DownCause, StateSender, TransportState, Underlay};

use super::HubEndpoint;
use super::streams::Streams;
use super::width::{LOOK_PAUSE, Widths};
use crate::mesh::member::{Member, MemberEvent, Transmit};
use crate::mesh::wire::Refusal;
use crate::wireguard::socket::{Flushed, Received, Run};
use crate::wireguard::sockets::Sockets;

/// How long neither a hub nor a peer may answer before the tunnel is down: as long as a WireGuard
/// tunnel may be silent.
const DOWN_AFTER: Duration = Duration::from_secs(15);

/// Seconds since the Unix epoch. A clock before it is as good as one at it: records expire.
pub(super) fn unix() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Everything behind the one lock: a batch takes it once.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) member: Member,
    /// Sealed runs the socket had no room for; they go before anything else. Bounded by what one
    /// packet is cut into, for no packet is taken while there are any, and by what waited for peers.
    pub(super) blocked: VecDeque<Run>,
    /// Received, and not yet asked for. Bounded by one receive call.
    pub(super) arrived: VecDeque<Received>,
    /// When the task will wake by itself.
    pub(super) armed: Option<Instant>,
    /// Since when neither hub nor peer answers.
    silent_since: Option<Instant>,
    /// Was anybody ever there.
    was_up: bool,
    refused: Option<Refusal>,
    /// The network is gone, and nothing came since.
    pub(super) cut_off: bool,
    /// Datagrams that the system refused, or that a stream had no room for.
    pub(super) lost: u64,
    pub(super) widths: Widths,
    /// Ways changed since they were looked at last, and when that was.
    pub(super) widths_due: bool,
    pub(super) widths_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<Core>,
    /// `None` once closed.
    sockets: Mutex<Option<Arc<Sockets>>>,
    pub(super) streams: Streams,
    pub(super) state: StateSender,
    assigned: Assigned,
    mtu: AtomicU16,
    /// Waiters look again.
    pub(super) changed: Notify,
    /// The task looks again: an earlier wake-up, or something to be sent.
    pub(super) work: Notify,
    /// A full socket left something over: the task sends it, for its caller may never come again.
    pub(super) stalled: Notify,
    /// Names of hubs are to be resolved at once.
    pub(super) renamed: Notify,
    /// The network below is another one.
    pub(super) moved: AtomicBool,
    pub(super) closing: CancellationToken,
    pub(super) underlay: Arc<dyn Underlay>,
    pub(super) endpoints: Vec<HubEndpoint>,
    pub(super) candidates: Vec<SocketAddr>,
}

impl Shared {
    pub(super) fn new(
        member: Member,
        sockets: Sockets,
        streams: Streams,
        assigned: Assigned,
        underlay: Arc<dyn Underlay>,
        endpoints: Vec<HubEndpoint>,
        candidates: Vec<SocketAddr>,
    ) -> Self {
        let mut member = member;
        member.set_mtu(assigned.mtu);
        Self {
            core: Mutex::new(Core {
                widths: Widths::new(assigned.mtu),
                widths_due: true,
                widths_at: None,
                member,
                blocked: VecDeque::new(),
                arrived: VecDeque::new(),
                armed: None,
                silent_since: None,
                was_up: false,
                refused: None,
                cut_off: false,
                lost: 0,
            }),
            sockets: Mutex::new(Some(Arc::new(sockets))),
            streams,
            state: StateSender::new(),
            mtu: AtomicU16::new(assigned.mtu),
            assigned,
            changed: Notify::new(),
            work: Notify::new(),
            stalled: Notify::new(),
            renamed: Notify::new(),
            moved: AtomicBool::new(false),
            closing: CancellationToken::new(),
            underlay,
            endpoints,
            candidates,
        }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        // Every change to the core is complete before anything that could panic.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sockets(&self) -> Option<Arc<Sockets>> {
        self.sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn drop_sockets(&self) {
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// After every use of the member: sends what it has to send, tells what it tells, wakes who is to
    /// be woken.
    pub(super) fn finish(self: &Arc<Self>, mut core: MutexGuard<'_, Core>, now: Instant) {
        self.transmit_all(&mut core, now);
        self.tell_all(core, now);
    }

    /// Sends what the member has to send.
    pub(super) fn transmit_all(self: &Arc<Self>, core: &mut Core, now: Instant) {
        let unix = unix();
        let sockets = self.sockets();
        let mut waited = Vec::new();
        while let Some(transmit) = core.member.poll(now, unix) {
            match transmit {
                Transmit::Udp(to, bytes) => {
                    let sent = sockets
                        .as_ref()
                        .and_then(|sockets| sockets.to(to))
                        .map(|socket| socket.send_now(to, &bytes));
                    core.lost += u64::from(!matches!(sent, Some(Ok(()))));
                    if let Some(Err(error)) = sent
                        && error.kind() != io::ErrorKind::WouldBlock
                    {
                        tracing::debug!(%error, "a datagram was not sent");
                    }
                }
                Transmit::Packet(to, bytes) => gather(&mut waited, to, &bytes),
                Transmit::Tls(hub, bytes) => {
                    core.lost += u64::from(!self.streams.send(hub, &bytes))
                }
                Transmit::OpenTls(hub, endpoints) => {
                    if !self.streams.open(self, hub, &endpoints) {
                        core.member.tls(hub, false, now);
                    }
                }
                Transmit::CloseTls(hub) => self.streams.close(hub),
            }
        }
        if let (Some(sockets), false) = (sockets, waited.is_empty()) {
            core.blocked.extend(waited);
            if !self.unblock(core, &sockets) {
                self.stalled.notify_one();
            }
        }
    }

    /// Largest inner packet now, in bytes.
    pub(super) fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// When the ways in use are to be looked at, if any changed.
    pub(super) fn next_look(core: &Core, now: Instant) -> Option<Instant> {
        let at = core.widths_at.map_or(now, |at| at + LOOK_PAUSE);
        core.widths_due.then_some(at)
    }

    /// Asks the system how wide the ways in use are, and lets the tunnel be as wide as the narrowest.
    pub(super) fn measure(&self, core: &mut Core, now: Instant) {
        core.widths_due = false;
        core.widths_at = Some(now);
        let in_use = core.member.in_use();
        for to in core.widths.unmeasured(&in_use, now) {
            core.widths.measured(to, self.underlay.mtu_to(to), now);
        }
        let mtu = core.widths.inner(&in_use);
        if mtu != self.mtu.swap(mtu, Ordering::Relaxed) {
            tracing::debug!(mtu, "the tunnel's MTU is that of its narrowest way");
            core.member.set_mtu(mtu);
        }
    }

    fn tell_all(&self, mut core: MutexGuard<'_, Core>, now: Instant) {
        let mut ready = false;
        while let Some(event) = core.member.poll_event() {
            ready = true;
            match event {
                MemberEvent::Connected(up) => {
                    tracing::info!(up, "connected with a hub");
                    if up {
                        core.refused = None;
                    }
                }
                MemberEvent::Refused(hub, why) => {
                    tracing::warn!(hub = hub.0, %why, "a hub refuses");
                    // That one mends itself: the next record has a larger number.
                    if !matches!(why, Refusal::Old(_)) {
                        core.refused = Some(why);
                    }
                }
                MemberEvent::Conflict(conflict) => tracing::warn!(
                    network = %conflict.network,
                    claimant = %conflict.claimant,
                    "two claim the same; it stays with who had it"
                ),
                MemberEvent::Peer(peer, event) => tracing::debug!(%peer, ?event, "peer"),
            }
        }
        if ready {
            core.widths_due = true;
            self.announce(&mut core, now);
        }
        let next = core.member.next_timeout();
        let sooner = match (next, core.armed) {
            (Some(next), Some(armed)) => next < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        drop(core);
        if sooner || ready {
            self.work.notify_one();
        }
        if ready {
            self.changed.notify_waiters();
        }
    }

    /// Says what hubs' and peers' standing means for the tunnel.
    pub(super) fn announce(&self, core: &mut Core, now: Instant) {
        if core.cut_off {
            let cause = DownCause::Network("there is none".to_owned());
            self.set_state(TransportState::Down(cause));
            return;
        }
        let alive = core.member.is_connected();
        if alive {
            core.silent_since = None;
            core.refused = None;
            core.was_up = true;
            let mtu = self.mtu();
            if let TransportState::Up(now) = self.state.get()
                && now.mtu == mtu
            {
                return;
            }
            let mut assigned = self.assigned.clone();
            assigned.mtu = mtu;
            self.set_state(TransportState::Up(Arc::new(assigned)));
            return;
        }
        let since = *core.silent_since.get_or_insert(now);
        let cause = match &core.refused {
            Some(why) => Some(DownCause::Refused(why.to_string())),
            None if now.saturating_duration_since(since) >= DOWN_AFTER => Some(DownCause::NoAnswer),
            None => None,
        };
        if let Some(cause) = cause {
            self.set_state(TransportState::Down(cause));
        }
    }

    fn set_state(&self, state: TransportState) {
        if self.state.get() != state {
            self.state.set(state);
            self.changed.notify_waiters();
        }
    }

    /// Sends what a full socket left over; `false` if it is still full.
    pub(super) fn unblock(&self, core: &mut Core, sockets: &Sockets) -> bool {
        let Core { blocked, lost, .. } = core;
        sockets.unblock(blocked, |_, done| {
            if let Flushed::Refused(which, _) = done {
                *lost += which.len() as u64;
            }
        })
    }

    pub(super) fn has_moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }
}

/// Appends a datagram to the last run, or begins another one.
pub(super) fn gather(runs: &mut Vec<Run>, to: SocketAddr, datagram: &[u8]) {
    /// What every system that segments does at a time; one that does not sends them one by one.
    const SEGMENTS: usize = 64;
    let fits = |run: &&mut Run| run.takes(to, datagram.len(), SEGMENTS);
    if runs.last_mut().filter(fits).is_none() {
        runs.push(Run::default());
    }
    if let Some(run) = runs.last_mut() {
        run.bytes.extend_from_slice(datagram);
        run.appended(to, datagram.len(), 0);
    }
}
