//! Packets to and from one tunnel.

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use tokio::sync::watch;

use crate::network::NetworkEvent;
use crate::packet::PacketBatch;
use crate::resources::Resources;
use crate::verdict::DropCounters;

/// What a transport can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportCapabilities {
    /// Largest IP packet the tunnel carries, in bytes.
    pub mtu: u16,
    /// Whether it takes super-packets whole; otherwise it splits them itself before sending.
    pub offload: bool,
}

impl TransportCapabilities {
    /// A transport without offload.
    pub const fn plain(mtu: u16) -> Self {
        Self {
            mtu,
            offload: false,
        }
    }

    /// The same transport with offload.
    #[must_use]
    pub const fn with_offload(mut self) -> Self {
        self.offload = true;
        self
    }
}

/// What the other end gave this tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// The tunnel's own addresses, each with its prefix length. Packets must leave with one of
    /// them as source. A family without an address is not carried.
    pub addresses: Vec<IpNet>,
    /// Resolvers to ask through this tunnel, in order of preference.
    pub dns: Vec<IpAddr>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Networks that the other end says are behind it. A claim: what is made of it is for the
    /// router's policy to say, and by default that is nothing.
    pub routes: Vec<IpNet>,
}

/// Why a tunnel is down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DownCause {
    /// The peer does not answer. The transport keeps trying.
    #[error("the peer does not answer")]
    NoAnswer,
    /// The endpoint's name has no address. The transport keeps trying.
    #[error("the endpoint's name cannot be resolved: {0}")]
    Resolve(String),
    /// The peer did not prove who it is: its certificate is of an authority that is not trusted, of
    /// another name, or expired. The transport keeps trying.
    #[error("the peer is not who it should be: {0}")]
    Untrusted(String),
    /// It works, and went down too often of late: it is not used before it lasts. Whoever holds it
    /// back knows when that is.
    #[error("held back: it went down too often of late")]
    HeldBack,
    /// The network refuses. The transport keeps trying.
    #[error("the network refuses: {0}")]
    Network(String),
    /// The peer refuses us; trying again does not help before the configuration changes.
    #[error("the peer refuses: {0}")]
    Refused(String),
}

/// Where a tunnel stands. "Up" is only said once the peer has proven itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportState {
    /// Trying for the first time, or again; packets may be held for a short time.
    Connecting,
    /// Ready to connect as soon as it is [woken](TunnelTransport::wake), and silent until then.
    /// A packet for it is held and wakes it.
    Dormant,
    /// The peer has answered.
    Up(Arc<Assigned>),
    /// Not working, and why. A transport that can recovers by itself.
    Down(DownCause),
    /// Closed by its owner; final.
    Closed,
}

impl TransportState {
    /// The name used in status and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Dormant => "dormant",
            Self::Up(_) => "up",
            Self::Down(_) => "down",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for TransportState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(cause) => write!(f, "down: {cause}"),
            other => f.write_str(other.name()),
        }
    }
}

/// The sending end of a transport's state: kept by the transport.
#[derive(Debug)]
pub struct StateSender(watch::Sender<TransportState>);

impl StateSender {
    /// A state that starts as [`TransportState::Connecting`].
    pub fn new() -> Self {
        Self(watch::Sender::new(TransportState::Connecting))
    }

    /// Changes the state; watchers are woken only if it differs. [`TransportState::Closed`] is
    /// final.
    pub fn set(&self, state: TransportState) {
        self.0.send_if_modified(|current| {
            if *current == state || *current == TransportState::Closed {
                return false;
            }
            *current = state;
            true
        });
    }

    /// The state now.
    pub fn get(&self) -> TransportState {
        self.0.borrow().clone()
    }

    /// A new watcher, which has seen nothing yet.
    pub fn watch(&self) -> StateWatch {
        let mut receiver = self.0.subscribe();
        receiver.mark_changed();
        StateWatch(receiver)
    }
}

impl Default for StateSender {
    fn default() -> Self {
        Self::new()
    }
}

/// The watching end of a transport's state. Only the newest state is kept.
#[derive(Clone, Debug)]
pub struct StateWatch(watch::Receiver<TransportState>);

impl StateWatch {
    /// The state now.
    pub fn get(&self) -> TransportState {
        self.0.borrow().clone()
    }

    /// Waits for a state this watcher has not seen: the first call returns at once. `Closed` once
    /// the transport is gone. Cancel-safe.
    pub async fn next(&mut self) -> TransportState {
        match self.0.changed().await {
            Ok(()) => self.0.borrow_and_update().clone(),
            Err(_) => TransportState::Closed,
        }
    }
}

/// Why a transport does not work any more. Being down is not such a reason: that is a state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// It was closed by its owner. Make a new one.
    #[error("the transport is closed")]
    Closed,
    /// The system reports an error that is not about one packet.
    #[error("the transport failed")]
    Io(#[from] std::io::Error),
}

/// One tunnel: takes IP packets, and yields those that come back.
///
/// # Contract
///
/// * **Batches**, **sending** and **readiness** are those of
///   [`TunDevice`](crate::device::TunDevice): `try_send` removes what it took from the front, in
///   order; a packet it will never send (too big, not allowed, no session) is removed and counted
///   in `drops`; the rest is the caller's.
/// * **Order** is kept per flow, as far as the network below keeps it.
/// * **Authenticity.** `try_recv` yields only what the peer proved to have sent, with a source
///   the peer may use; all else is counted in `drops`.
/// * **State.** [`state`](Self::state) says where the tunnel stands; it is
///   [`Up`](TransportState::Up) only after the peer answered.
/// * **Driving.** Reading is what drives a transport: handshake answers are handled inside
///   `try_recv`, so keep calling it when `readable` says so, in every state.
/// * **On demand.** A transport that connects on demand starts
///   [`Dormant`](TransportState::Dormant): see [`wake`](Self::wake), [`rest`](Self::rest) and
///   [`idle_limit`](Self::idle_limit). Others ignore these calls.
/// * **Close** is idempotent and never fails; afterwards every call returns
///   [`TransportError::Closed`], and no task and no socket is left.
///
/// # Example
///
/// The manual has a complete implementation: [`crate::manual::own_transport`].
#[async_trait]
pub trait TunnelTransport: Debug + Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> TransportCapabilities;

    /// A watcher of its state.
    fn state(&self) -> StateWatch;

    /// Appends packets that came through the tunnel. Where the batch's buffers have room for them,
    /// segments of one flow may come joined, as a super-packet with its offload description.
    ///
    /// # Errors
    ///
    /// Those after which the transport is of no use, as everywhere here: [`TransportError`]. Being
    /// down is none. What was appended before stays in the batch.
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError>;

    /// Sends packets through the tunnel.
    ///
    /// # Errors
    ///
    /// [`TransportError`]; what was not sent stays in the batch.
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError>;

    /// Waits until `try_recv` may yield packets or has protocol work to do.
    async fn readable(&self) -> Result<(), TransportError>;

    /// Waits until `try_send` may take packets.
    async fn writable(&self) -> Result<(), TransportError>;

    /// Closes the tunnel and waits until its tasks have ended.
    async fn close(&self);

    /// Somebody wants to send: a dormant transport connects now. It leaves
    /// [`Dormant`](TransportState::Dormant) before this returns. In every other state, and for a
    /// transport that does not connect on demand, nothing happens. Called any number of times.
    fn wake(&self) {}

    /// Nobody sent or received for the [`idle_limit`](Self::idle_limit): a transport that connects
    /// on demand and is up becomes [`Dormant`](TransportState::Dormant), and forgets or keeps its
    /// session as it likes. A packet that is sent to it all the same wakes it, and is not lost. In
    /// every other state, and for other transports, nothing happens.
    fn rest(&self) {}

    /// The network below is another one, or gone, or the machine slept. Called once per
    /// [event](NetworkEvent), from the task that drives the transport; it returns at once, and what
    /// follows happens in the transport's own time.
    ///
    /// * On [`Changed`](NetworkEvent::Changed) and [`Woke`](NetworkEvent::Woke) a transport asks its
    ///   peer for a new proof at once, by new sockets and with its name resolved anew, whatever its
    ///   state: also where it believes to be up, for that may be long past. It goes on with growing
    ///   pauses until it is answered. Up to the answer, or the usual time without one, its state may
    ///   stay as it is, and packets go where they went.
    /// * On [`Lost`](NetworkEvent::Lost) it is down at once. It may go on trying, with pauses.
    /// * A dormant transport stays dormant, a closed one closed.
    ///
    /// Default: nothing happens, which is right where nothing below can change.
    fn network_changed(&self, _event: NetworkEvent) {}

    /// After how long without packets it wants to [`rest`](Self::rest); `None`: never. Asked once,
    /// when the tunnel is added.
    fn idle_limit(&self) -> Option<Duration> {
        None
    }

    /// The time a packet takes to the other end and back, smoothed over several measurements;
    /// `None` while nothing was measured. Cheap: asked about once a second.
    fn round_trip(&self) -> Option<Duration> {
        None
    }

    /// What it occupies on this machine; default: it cannot tell. Cheap: asked for every report.
    fn resources(&self) -> Resources {
        Resources::default()
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        impl<T: TunnelTransport + ?Sized> TunnelTransport for $pointer {
            fn capabilities(&self) -> TransportCapabilities {
                (**self).capabilities()
            }
            fn state(&self) -> StateWatch {
                (**self).state()
            }
            fn try_recv(
                &self,
                batch: &mut PacketBatch,
                drops: &mut DropCounters,
            ) -> Result<usize, TransportError> {
                (**self).try_recv(batch, drops)
            }
            fn try_send(
                &self,
                batch: &mut PacketBatch,
                drops: &mut DropCounters,
            ) -> Result<usize, TransportError> {
                (**self).try_send(batch, drops)
            }
            async fn readable(&self) -> Result<(), TransportError> {
                (**self).readable().await
            }
            async fn writable(&self) -> Result<(), TransportError> {
                (**self).writable().await
            }
            async fn close(&self) {
                (**self).close().await
            }
            fn wake(&self) {
                (**self).wake();
            }
            fn rest(&self) {
                (**self).rest();
            }
            fn network_changed(&self, event: NetworkEvent) {
                (**self).network_changed(event);
            }
            fn idle_limit(&self) -> Option<Duration> {
                (**self).idle_limit()
            }
            fn round_trip(&self) -> Option<Duration> {
                (**self).round_trip()
            }
            fn resources(&self) -> Resources {
                (**self).resources()
            }
        }
    )*};
}
forward!(Arc<T>, Box<T>);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_sees_the_newest_state_and_closed_is_final() {
        let sender = StateSender::new();
        let mut watch = sender.watch();
        assert_eq!(watch.next().await, TransportState::Connecting);
        sender.set(TransportState::Down(DownCause::NoAnswer));
        sender.set(TransportState::Up(Arc::default()));
        assert_eq!(watch.next().await, TransportState::Up(Arc::default()));
        sender.set(TransportState::Closed);
        sender.set(TransportState::Connecting);
        assert_eq!(watch.next().await, TransportState::Closed);
    }
}
