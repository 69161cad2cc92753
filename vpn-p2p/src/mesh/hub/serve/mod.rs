//! Touches the network for a [`Hub`]: its UDP sockets, its TLS streams, the clock.
//!
//! | File | What it touches |
//! |---|---|
//! | `between` | nothing: decides what stands before datagrams from hub to hub |
//! | `work` | nothing: decides what of a batch comes first, and what goes where |
//! | `udp` | one socket: a batch in, runs out |
//! | `tls` | streams and whose they are |
//! | `clients` | the pool of each client of TLS |
//! | `gate` | how many streams there may be |
//! | `asked` | from which address whom is answered |
//! | `bind` | addresses to listen on |
//! | `names` | the resolver: where other hubs are |
//!
//! What is relayed comes before anything else, and handshakes last: of each batch so many as a budget
//! allows, a few more wait, and the rest is thrown away. The hub is locked once a batch.

mod asked;
mod between;
mod bind;
mod clients;
mod gate;
mod names;
#[cfg(test)]
mod tests;
mod tls;
mod udp;
mod work;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vpn_core::PeerId;

use super::{Hub, HubConfig, HubError, HubStatus, MemberStatus, NeighbourStatus, Origin};
use crate::mesh::identity::Identity;
use crate::mesh::keys::NoiseKeys;
use crate::mesh::tls::{TlsError, TlsListener};
use crate::wg_quick::PrivateKey;
use crate::wireguard::socket::Udp;

pub use bind::Listen;
pub use gate::TlsLimits;

use asked::Asked;
use clients::Clients;
use gate::Gate;

/// Longest sleep of the task that keeps the hub's time: what comes meanwhile may need it sooner.
const BEAT: Duration = Duration::from_millis(250);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The hub's configuration makes no sense.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// There is no certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket cannot be used.
    #[error("a socket cannot be used")]
    Socket(#[source] std::io::Error),
    /// Two UDP sockets of one family: which one answers must be clear.
    #[error("one UDP socket for each of IPv4 and IPv6, not more")]
    TwoSockets,
    /// It needs a tokio runtime for its tasks. Call it inside one.
    #[error("a hub must be started inside a tokio runtime")]
    NoRuntime,
}

/// What a server did beyond what its [`Hub`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStatus {
    /// The hub's.
    pub hub: HubStatus,
    /// Datagrams that a socket or a client's streams had no room for.
    pub unsent: u64,
    /// Handshakes thrown away, for there were too many at once.
    pub crowded: u64,
    /// TLS streams that are open or being greeted.
    pub streams: usize,
    /// TLS streams refused: too many, too slow, or no TLS of a node.
    pub refused_streams: u64,
}

/// What outlives the tasks: the hub and what was counted.
#[derive(Debug)]
struct State {
    hub: Mutex<Hub>,
    gate: Gate,
    unsent: AtomicU64,
    crowded: AtomicU64,
    refused: AtomicU64,
    closing: CancellationToken,
}

/// What the tasks share; gone with the last of them, and the sockets with it.
#[derive(Debug)]
struct Shared {
    state: Arc<State>,
    v4: Option<Udp>,
    v6: Option<Udp>,
    /// Who asked at which address, of IPv4 and of IPv6; `None` where there is one to ask at.
    asked: [Option<Mutex<Asked>>; 2],
    clients: Clients,
}

impl State {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        // Nothing in the hub depends on a change that a panic could have cut short.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn socket(&self, to: SocketAddr) -> Option<&Udp> {
        match to {
            SocketAddr::V4(_) => self.v4.as_ref(),
            SocketAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// Who of the family of this address asked where.
    fn asked(&self, of: SocketAddr) -> Option<MutexGuard<'_, Asked>> {
        let asked = self.asked[usize::from(of.is_ipv6())].as_ref()?;
        Some(asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From which of our addresses what goes there leaves.
    fn answers(&self, to: SocketAddr) -> Option<IpAddr> {
        self.asked(to)?.answer(to)
    }

    fn lost(&self, count: usize) {
        self.state.unsent.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Sends what the hub says, now or not at all: whoever misses it asks again.
    fn deliver(&self, said: Vec<(Origin, Vec<u8>)>) {
        for (to, datagram) in said {
            let sent = match to {
                Origin::Udp(to) => self.socket(to).is_some_and(|socket| {
                    socket.send_from(self.answers(to), to, &datagram).is_ok()
                }),
                Origin::Tls(connection) => {
                    let datagram = bytes::BytesMut::from(&datagram[..]);
                    self.clients.send(connection, [datagram]) == 0
                }
            };
            if !sent {
                self.lost(1);
            }
        }
    }
}

fn poll(hub: &mut Hub) -> Vec<(Origin, Vec<u8>)> {
    std::iter::from_fn(|| hub.poll()).collect()
}

fn unix() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A hub that runs. Dropped, it ends too, but nobody waits for it.
#[derive(Debug)]
pub struct HubServer {
    state: Arc<State>,
    shared: Weak<Shared>,
    id: PeerId,
    addresses: Vec<SocketAddr>,
    /// Cancelled when no task is left.
    ended: CancellationToken,
}

impl HubServer {
    /// Starts a hub of this identity on these sockets. Its session key is made now.
    ///
    /// # Errors
    ///
    /// [`ServeError`].
    pub fn start(
        config: HubConfig,
        limits: TlsLimits,
        identity: &Identity,
        listen: Listen,
    ) -> Result<Self, ServeError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ServeError::NoRuntime)?;
        let key = PrivateKey::generate()
            .map_err(|cause| HubError::Random(std::io::Error::other(cause)))?;
        let keys = Box::new(NoiseKeys::new(&key));
        let neighbours = config.neighbours.clone();
        let hub = Hub::new(config, identity, keys, Instant::now(), unix())?;
        let (mut v4, mut v6) = (None, None);
        for socket in listen.udp {
            let socket = Udp::new(socket).map_err(ServeError::Socket)?;
            let place = match socket.local_addr().map_err(ServeError::Socket)? {
                SocketAddr::V4(_) => &mut v4,
                SocketAddr::V6(_) => &mut v6,
            };
            if place.replace(socket).is_some() {
                return Err(ServeError::TwoSockets);
            }
        }
        let sockets = v4.iter().chain(&v6);
        let addresses = sockets.filter_map(|socket| socket.local_addr().ok());
        let addresses = addresses.collect();
        let tls = TlsListener::new(identity)?;
        let mut listeners = Vec::new();
        for listener in listen.tcp {
            let listener = tokio::net::TcpListener::from_std(listener);
            listeners.push(listener.map_err(ServeError::Socket)?);
        }
        let clients = Clients::new(&limits);
        let state = Arc::new(State {
            hub: Mutex::new(hub),
            gate: Gate::new(limits),
            unsent: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            closing: CancellationToken::new(),
        });
        let asked = [&v4, &v6].map(|socket| {
            let local = socket.as_ref()?.local_addr().ok()?;
            local.ip().is_unspecified().then(Mutex::default)
        });
        let shared = Arc::new(Shared {
            asked,
            state: state.clone(),
            v4,
            v6,
            clients,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_time(shared.clone()));
        tasks.spawn(names::serve(shared.clone(), neighbours));
        tasks.spawn(udp::serve(shared.clone(), false));
        tasks.spawn(udp::serve(shared.clone(), true));
        for listener in listeners {
            tasks.spawn(tls::serve(shared.clone(), listener, tls.clone()));
        }
        let ended = CancellationToken::new();
        // Also if it panics, or its runtime goes.
        let guard = ended.clone().drop_guard();
        let weak = Arc::downgrade(&shared);
        runtime.spawn(async move {
            let _guard = guard;
            shared.state.closing.cancelled().await;
            while tasks.join_next().await.is_some() {}
            // Those that nobody came to serve any more.
            shared.clients.close().await;
            drop(shared);
        });
        Ok(Self {
            state,
            shared: weak,
            id: identity.id(),
            addresses,
            ended,
        })
    }

    /// Who it is.
    pub const fn id(&self) -> PeerId {
        self.id
    }

    /// Where its UDP sockets are.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it did.
    pub fn status(&self) -> ServerStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerStatus {
            hub: self.state.hub().status(),
            unsent: count(&self.state.unsent),
            crowded: count(&self.state.crowded),
            streams: self.state.gate.open(),
            refused_streams: count(&self.state.refused),
        }
    }

    /// Its members, by their keys.
    pub fn members(&self) -> Vec<MemberStatus> {
        self.state.hub().members(Instant::now())
    }

    /// The other hubs, in the order of the configuration.
    pub fn neighbours(&self) -> Vec<NeighbourStatus> {
        self.state.hub().neighbours()
    }

    /// From now on admits by the members, token, networks, `max_members` and isolation of this
    /// configuration, see [`Hub::readmit`]. How many members had to go.
    ///
    /// # Errors
    ///
    /// [`HubError`]: nothing has changed then.
    pub fn readmit(&self, config: &HubConfig) -> Result<usize, HubError> {
        let (gone, said) = {
            let mut hub = self.state.hub();
            (hub.readmit(config)?, poll(&mut hub))
        };
        if let Some(shared) = self.shared.upgrade() {
            shared.deliver(said);
        }
        Ok(gone)
    }

    /// Says Bye to its members, and returns when no task and no socket is left. Idempotent.
    pub async fn close(&self) {
        if let Some(shared) = self.shared.upgrade()
            && !self.state.closing.is_cancelled()
        {
            let said = {
                let mut hub = self.state.hub();
                hub.bye(Instant::now());
                poll(&mut hub)
            };
            shared.deliver(said);
        }
        self.state.closing.cancel();
        self.ended.cancelled().await;
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state.closing.cancel();
    }
}

async fn keep_time(shared: Arc<Shared>) {
    let mut sleep = Duration::ZERO;
    let pause = |sleep| tokio::time::sleep(sleep);
    while shared
        .state
        .closing
        .run_until_cancelled(pause(sleep))
        .await
        .is_some()
    {
        let now = Instant::now();
        let (said, next) = {
            let mut hub = shared.state.hub();
            if hub.next_timeout().is_some_and(|at| at <= now) {
                hub.handle_timeout(now, unix());
            }
            (poll(&mut hub), hub.next_timeout())
        };
        shared.deliver(said);
        let until = next.map_or(BEAT, |at| at.saturating_duration_since(now));
        sleep = until.clamp(Duration::from_millis(1), BEAT);
    }
}
