//! The tunnel the engine sees.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use vpn_core::packet::PacketBatch;
use vpn_core::{
    Assigned, DropCounters, NetworkEvent, PeerId, Resources, StateWatch, TransportCapabilities,
    TransportError, TransportState, TunnelTransport, Underlay, UnderlayError,
};

use super::driver::drive;
use super::shared::{Shared, unix};
use super::streams::Streams;
use super::{INNER_MTU, NodeConfig, NodeError};
use crate::mesh::identity::Identity;
use crate::mesh::keys::NoiseKeys;
use crate::mesh::member::{Member, MemberConfig, MemberStatus};
use crate::mesh::record::SignedRecord;
use crate::wg_quick::PrivateKey;
use crate::wireguard::socket::{Run, Udp};
use crate::wireguard::sockets::Sockets;

/// A member of the mesh, as a tunnel: all of its peers are behind it.
///
/// It is [`Up`](TransportState::Up) once a hub took it or a peer is connected, and
/// [`Down`](TransportState::Down) when neither hub nor peer answered for 15 s, or when a hub
/// refuses it. It recovers by itself.
#[derive(Debug)]
pub struct MeshTransport {
    shared: Arc<Shared>,
    /// Held by whoever waits for its end: all of them return when it has ended.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl MeshTransport {
    /// Starts a node: its task runs on the current tokio runtime until
    /// [`close`](TunnelTransport::close) or drop. Its session key is a new one each time.
    ///
    /// # Errors
    ///
    /// [`NodeError`]. A hub that cannot be reached is not an error but a state.
    pub fn start(
        config: NodeConfig,
        identity: Identity,
        underlay: Arc<dyn Underlay>,
    ) -> Result<Self, NodeError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| NodeError::NoRuntime)?;
        let (hubs, endpoints) = (config.member.hubs.len(), config.endpoints.len());
        if hubs != endpoints {
            return Err(NodeError::Endpoints { hubs, endpoints });
        }
        let sockets = bind(&*underlay, config.port)?;
        let key = PrivateKey::generate().map_err(NodeError::Random)?;
        let assigned = Assigned {
            addresses: config.member.addresses.clone(),
            mtu: config.mtu.min(INNER_MTU),
            routes: networks(&config),
            ..Assigned::default()
        };
        let hubs = config.member.hubs.iter().map(|hub| hub.hub).collect();
        let seed = match config.member.seed {
            Some(seed) => seed,
            None => draw().map_err(NodeError::Random)?,
        };
        let now = Instant::now();
        let keys = Box::new(NoiseKeys::new(&key));
        let settings = MemberConfig {
            seed: Some(seed),
            ..config.member
        };
        let member = Member::new(settings, identity.clone(), keys, now, unix());
        let own = member.own_record().wire().clone();
        SignedRecord::verify(own, unix()).map_err(NodeError::Record)?;
        let streams = Streams::new(identity, hubs, seed, underlay.clone());
        let shared = Arc::new(Shared::new(
            member,
            sockets,
            streams,
            assigned,
            underlay,
            config.endpoints,
            config.candidates,
        ));
        let task = runtime.spawn(drive(shared.clone()));
        Ok(Self {
            shared,
            task: Mutex::new(Some(task)),
        })
    }

    /// How it stands. It copies everything: for people and metrics.
    pub fn status(&self) -> MemberStatus {
        self.shared.core().member.status(Instant::now())
    }

    /// Datagrams that were lost here after they had been taken: the system refused them, or a stream
    /// had no room.
    pub fn lost(&self) -> u64 {
        self.shared.core().lost
    }

    /// Wants to be connected with this peer, without a packet for it.
    pub fn connect(&self, peer: PeerId) {
        let now = Instant::now();
        let mut core = self.shared.core();
        core.member.connect(peer, now);
        self.shared.finish(core, now);
    }

    /// The addresses its sockets are bound to.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let sockets = self.shared.sockets();
        let sockets = sockets.iter().flat_map(|sockets| sockets.iter());
        sockets
            .filter_map(|socket| socket.local_addr().ok())
            .collect()
    }

    fn check_open(&self) -> Result<(), TransportError> {
        if self.shared.closing.is_cancelled() {
            return Err(TransportError::Closed);
        }
        Ok(())
    }
}

/// A number that nobody else knows.
fn draw() -> std::io::Result<u64> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
    Ok(u64::from_ne_bytes(seed))
}

/// Networks in which peers' addresses are, and those behind them.
fn networks(config: &NodeConfig) -> Vec<ipnet::IpNet> {
    let member = &config.member;
    let behind = member.peers.iter().flat_map(|known| &known.rules.routes);
    let mut all: Vec<ipnet::IpNet> = member.addresses.iter().map(ipnet::IpNet::trunc).collect();
    all.extend(&member.networks);
    all.extend(behind);
    all.extend(&member.default_rules.routes);
    all.sort();
    all.dedup();
    all
}

/// A socket per family, on one port if that can be had. Many hosts have no IPv6, some no IPv4.
fn bind(underlay: &dyn Underlay, port: u16) -> Result<Sockets, NodeError> {
    let make = |local: SocketAddr| -> Result<Udp, UnderlayError> {
        let socket = underlay.udp(local)?;
        Udp::new(socket).map_err(|cause| UnderlayError::Socket { local, cause })
    };
    let v4 = make((Ipv4Addr::UNSPECIFIED, port).into());
    let same = v4.as_ref().ok().and_then(|socket| socket.local_addr().ok());
    let port_v6 = same.map_or(port, |local| local.port());
    let v6 = make((Ipv6Addr::UNSPECIFIED, port_v6).into());
    match (v4, v6) {
        (Err(error), Err(_)) => Err(NodeError::Listen(error)),
        // A port that was asked for is the one that others know.
        (Err(error), Ok(_)) if port != 0 => Err(NodeError::Listen(error)),
        (v4, v6) => Ok(Sockets {
            v4: v4.ok().map(Arc::new),
            v6: v6.ok().map(Arc::new),
        }),
    }
}

impl Drop for MeshTransport {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

#[async_trait]
impl TunnelTransport for MeshTransport {
    fn capabilities(&self) -> TransportCapabilities {
        // Super-packets cross streams whole, and are cut here otherwise.
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
            if !self.shared.core().arrived.is_empty() || self.shared.streams.has_waiting() {
                return Ok(());
            }
            let sockets = self.shared.sockets();
            let datagrams = async {
                match &sockets {
                    Some(sockets) => sockets.readable().await,
                    None => std::future::pending().await,
                }
            };
            let pools = self.shared.streams.pools();
            let streams = async {
                let mut waits: Vec<_> = pools
                    .iter()
                    .map(|(_, pool)| Box::pin(pool.readable()))
                    .collect();
                std::future::poll_fn(|context| {
                    let ready = waits
                        .iter_mut()
                        .any(|wait| wait.as_mut().poll(context).is_ready());
                    if ready {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
            };
            tokio::select! {
                () = self.shared.closing.cancelled() => return Err(TransportError::Closed),
                result = datagrams => return Ok(result?),
                () = streams => return Ok(()),
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
            let Some(to) = self.shared.core().blocked.front().map(Run::to) else {
                return Ok(());
            };
            let sockets = self.shared.sockets();
            let socket = sockets.as_ref().zip(to).and_then(|(all, to)| all.to(to));
            let writable = async {
                match socket {
                    Some(socket) => socket.writable().await,
                    // Its socket is gone: the next `try_send` finds out.
                    None => Ok(()),
                }
            };
            tokio::select! {
                () = self.shared.closing.cancelled() => return Err(TransportError::Closed),
                result = writable => return Ok(result?),
                () = changed => {}
            }
        }
    }

    fn network_changed(&self, event: NetworkEvent) {
        let now = Instant::now();
        self.shared.streams.network_changed(event);
        let mut core = self.shared.core();
        core.member.network_changed(event, now);
        core.cut_off = event == NetworkEvent::Lost;
        self.shared.announce(&mut core, now);
        self.shared.moved.store(true, Ordering::Relaxed);
        self.shared.finish(core, now);
        self.shared.work.notify_one();
        self.shared.renamed.notify_one();
    }

    fn round_trip(&self) -> Option<Duration> {
        // Each peer has its own; a tunnel has none.
        None
    }

    fn resources(&self) -> Resources {
        let running = self.task.try_lock().map_or(true, |task| {
            task.as_ref().is_some_and(|task| !task.is_finished())
        });
        let streams = self.shared.streams.count();
        let mut resources = Resources::default();
        let sockets = self
            .shared
            .sockets()
            .map_or(0, |sockets| sockets.iter().count());
        resources.descriptors = sockets + streams;
        resources.tasks = usize::from(running) + streams;
        resources.bytes = size_of::<Shared>() + self.shared.core().member.bytes();
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
        self.shared.streams.close_all().await;
        self.shared.drop_sockets();
        self.shared.state.set(TransportState::Closed);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::super::shared::gather;
    use super::*;
    use crate::mesh::HubEndpoint;
    use crate::mesh::link::LinkConfig;
    use crate::mesh::way::HubId;
    use crate::mesh::wire::Frame;

    #[derive(Debug)]
    struct Plain;

    #[async_trait]
    impl Underlay for Plain {
        fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
            let socket = UdpSocket::bind(local);
            let socket = socket.map_err(|cause| UnderlayError::Socket { local, cause })?;
            socket.set_nonblocking(true).unwrap();
            Ok(socket)
        }

        async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
            let address = host.parse::<std::net::IpAddr>();
            Ok(address.map(|ip| (ip, port).into()).into_iter().collect())
        }
    }

    /// What two nodes draw from is not the same, though neither was given anything.
    #[tokio::test]
    async fn nodes_without_a_seed_ask_hubs_with_numbers_of_their_own() {
        let hub = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = hub.local_addr().unwrap();
        let identity = Identity::generate().unwrap();
        let mut asked = Vec::new();
        for _ in 0..2 {
            let link = LinkConfig::new(identity.id(), HubId(0));
            let member = MemberConfig {
                hubs: vec![link],
                ..MemberConfig::default()
            };
            let (host, port) = (at.ip().to_string(), at.port());
            let config = NodeConfig::new(member, vec![HubEndpoint { host, port }]);
            let node = MeshTransport::start(config, identity.clone(), Arc::new(Plain)).unwrap();
            let mut datagram = [0; 1024];
            let patience = Duration::from_secs(30);
            let received = tokio::time::timeout(patience, hub.recv(&mut datagram)).await;
            let Ok(Frame::Hello { nonce }) = Frame::read(&datagram[..received.unwrap().unwrap()])
            else {
                panic!("no Hello");
            };
            asked.push(nonce);
            node.close().await;
            // What of the first one is still there is not the second one's.
            while hub.try_recv(&mut datagram).is_ok() {}
        }
        assert_ne!(asked[0], asked[1]);
    }

    /// Packets that waited for a peer go behind what a full socket left over, and none is lost for that.
    #[tokio::test]
    async fn what_waited_is_sent_in_runs_behind_what_was_left_over() {
        let config = NodeConfig::new(MemberConfig::default(), Vec::new());
        let identity = Identity::generate().unwrap();
        let node = MeshTransport::start(config, identity, Arc::new(Plain)).unwrap();
        let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = receiver.local_addr().unwrap();
        let datagrams: Vec<Vec<u8>> = (1..=40).map(|n| vec![n; 100]).collect();
        {
            let now = Instant::now();
            let mut core = node.shared.core();
            let mut run = Run::default();
            run.bytes.push(0);
            run.appended(to, 1, 0);
            core.blocked.push_back(run);
            for datagram in &datagrams {
                core.member.waited(to, datagram.clone());
            }
            let mut runs = Vec::new();
            for datagram in &datagrams {
                gather(&mut runs, to, datagram);
            }
            assert_eq!(runs.len(), 1, "one call for all of them");
            node.shared.finish(core, now);
        }
        let mut datagram = [0; 200];
        for expected in 0..=40 {
            let patience = Duration::from_secs(30);
            let received = tokio::time::timeout(patience, receiver.recv(&mut datagram)).await;
            assert_eq!(datagram[received.unwrap().unwrap() - 1], expected);
        }
        assert_eq!(node.lost(), 0);
        node.close().await;
    }

    /// The end of a burst met a full socket, and no packet follows that would push it; and who waits
    /// to send is woken.
    #[tokio::test]
    async fn what_a_full_socket_left_over_is_sent_without_another_call() {
        let config = NodeConfig::new(MemberConfig::default(), Vec::new());
        let identity = Identity::generate().unwrap();
        let node = MeshTransport::start(config, identity, Arc::new(Plain)).unwrap();
        let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = receiver.local_addr().unwrap();
        for round in 0..3u8 {
            // The task has nothing to do and sleeps.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut run = Run::default();
            run.bytes.push(round);
            run.appended(to, 1, 0);
            node.shared.core().blocked.push_back(run);
            node.shared.stalled.notify_one();
            let patience = Duration::from_secs(30);
            let mut datagram = [0; 8];
            let received = tokio::time::timeout(patience, receiver.recv(&mut datagram)).await;
            assert_eq!(datagram[..received.unwrap().unwrap()], [round]);
            tokio::time::timeout(patience, node.writable())
                .await
                .unwrap()
                .unwrap();
        }
        node.close().await;
    }
}
