//! Hubs and members with real sockets in a lab of NATs, for the tests beside it.

#![allow(dead_code, reason = "each test uses what it needs")]
#![allow(clippy::expect_used, reason = "a failing test says so")]

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use vpn_core::testing::build;
use vpn_core::{
    DropCounters, Offload, PacketBatch, PeerId, TransportState, TunnelTransport, Underlay,
    UnderlayError,
};
use vpn_lab::{HUB4, Namespace, NatKind, NatLab, NatPlan, RuntimeHandle, SECOND_HUB4};
use vpn_p2p::mesh::hub::{Admitted, HubServer, Listen, TlsLimits};
use vpn_p2p::mesh::{
    Carrier, HubConfig, HubEndpoint, HubId, Identity, LinkConfig, MemberConfig, MemberStatus,
    MeshTransport, NodeConfig, Way,
};

/// The hubs' port, UDP and TCP.
pub(crate) const PORT: u16 = 51_820;
/// Long enough for a busy machine; reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether something has happened.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// Plain sockets of the namespace in which the node's thread is.
#[derive(Debug)]
struct Inside;

#[async_trait]
impl Underlay for Inside {
    fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
        UdpSocket::bind(local)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|cause| UnderlayError::Socket { local, cause })
    }

    fn tcp(&self, remote: SocketAddr) -> Result<TcpStream, UnderlayError> {
        let family = match remote {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let made: Result<OwnedFd, _> = socket(family, SockType::Stream, flags, None);
        made.map(TcpStream::from)
            .map_err(|errno| UnderlayError::Socket {
                local: remote,
                cause: errno.into(),
            })
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
        let ip = host.parse().map_err(|_| UnderlayError::Resolve {
            name: host.to_owned(),
            problem: "a lab has addresses only".to_owned(),
        })?;
        Ok(vec![SocketAddr::new(ip, port)])
    }
}

/// What a node is asked.
enum Ask {
    Send(Vec<u8>),
    Status(mpsc::Sender<MemberStatus>),
}

/// A member and the one app in it, which answers each question with the same text.
pub(crate) struct Node {
    pub(crate) own: Ipv4Addr,
    pub(crate) id: PeerId,
    ask: UnboundedSender<Ask>,
    pub(crate) answers: Arc<Mutex<Vec<Vec<u8>>>>,
    _runtime: RuntimeHandle,
}

impl Node {
    pub(crate) fn send(&self, to: &Self, text: &str) {
        let packet = build::udp((self.own.into(), 1), (to.own.into(), 7), text.as_bytes());
        let _ = self.ask.send(Ask::Send(packet));
    }

    pub(crate) fn has_answer(&self, text: &str) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers
            .iter()
            .any(|packet| packet.ends_with(text.as_bytes()))
    }

    /// How many answers end with this text.
    pub(crate) fn count(&self, text: &str) -> usize {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = |packet: &&Vec<u8>| packet.ends_with(text.as_bytes());
        answers.iter().filter(ends).count()
    }

    pub(crate) fn status(&self) -> MemberStatus {
        let (sender, receiver) = mpsc::channel();
        let _ = self.ask.send(Ask::Status(sender));
        receiver.recv_timeout(PATIENCE).expect("a status")
    }

    /// By which way packets go to a peer, by what a relay is reached, and why.
    pub(crate) fn path(&self, to: &Self) -> (Option<Way>, Option<Carrier>, String) {
        let status = self.status();
        let peer = status.peers.iter().find(|peer| peer.peer == to.id);
        peer.map_or((None, None, String::new()), |peer| {
            let path = &peer.path;
            (path.way, path.carrier, path.why.to_string())
        })
    }

    pub(crate) fn is_direct(&self, to: &Self) -> bool {
        self.path(to).0.is_some_and(Way::is_direct)
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.status()
            .hubs
            .iter()
            .any(|hub| hub.link.state.name() == "up")
    }
}

/// Repeats it until it says yes: how long that took. Fails after `PATIENCE`.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let from = Instant::now();
    while !is_so() {
        assert!(from.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(LOOK);
    }
    from.elapsed()
}

/// Identities of hubs and of members a, b and c.
pub(crate) struct Keys(pub(crate) [Identity; 3], pub(crate) [Identity; 3]);

impl Keys {
    pub(crate) fn new() -> Self {
        let make = |_| Identity::generate().expect("random numbers");
        Self([0, 1, 2].map(make), [0, 1, 2].map(make))
    }
}

pub(crate) fn own(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, [2, 3, 4][place])
}

/// Where hubs are: two addresses of the lab, and another port.
const HUBS: [(Ipv4Addr, u16); 3] = [(HUB4, PORT), (SECOND_HUB4, PORT), (HUB4, PORT + 1)];

/// A hub at one of the lab's two addresses, which admits all three.
pub(crate) fn hub(lab: &NatLab, keys: &Keys, number: usize) -> RuntimeHandle {
    hub_with(lab, keys, number, &[0, 1, 2], |_| {}).0
}

/// Where a hub of the lab is.
pub(crate) fn endpoint(number: usize) -> SocketAddr {
    HUBS[number].into()
}

/// A hub that admits these, with other settings; and how it stands.
pub(crate) fn hub_with(
    lab: &NatLab,
    keys: &Keys,
    number: usize,
    members: &[usize],
    change: impl FnOnce(&mut HubConfig),
) -> (RuntimeHandle, Arc<HubServer>) {
    let members = members.iter();
    let members = members.map(|place| Admitted::new(keys.1[*place].id(), vec![own(*place).into()]));
    let mut config = HubConfig {
        members: members.collect(),
        ..HubConfig::default()
    };
    change(&mut config);
    let secret = keys.0[number].reveal_base64();
    let at = endpoint(number);
    let (ready, started) = mpsc::channel();
    let runtime = lab.hub().runtime(move || async move {
        let identity = Identity::from_base64(&secret).expect("a key");
        let listen = Listen::on(&[at], true).expect("sockets");
        let server = HubServer::start(config, TlsLimits::default(), &identity, listen);
        let server = Arc::new(server.expect("a hub"));
        let _ = ready.send(Arc::downgrade(&server));
        let _server = server;
        std::future::pending::<()>().await;
    });
    let runtime = runtime.expect("inside");
    let server = started.recv_timeout(PATIENCE).expect("a hub");
    (runtime, server.upgrade().expect("a hub that runs"))
}

/// Starts a member in a namespace: 0 is a, 1 is b, 2 is c.
pub(crate) fn node(at: &Namespace, keys: &Keys, place: usize, hubs: usize) -> Node {
    let all: Vec<usize> = (0..hubs).collect();
    node_of(at, keys, place, &all)
}

/// The same with these hubs.
pub(crate) fn node_of(at: &Namespace, keys: &Keys, place: usize, hubs: &[usize]) -> Node {
    let links = hubs
        .iter()
        .zip(0..)
        .map(|(number, id)| LinkConfig::new(keys.0[*number].id(), HubId(id)));
    let member = MemberConfig {
        name: ["a", "b", "c"][place].to_owned(),
        addresses: vec![format!("{}/24", own(place)).parse().expect("a network")],
        hubs: links.collect(),
        seed: Some(place as u64),
        ..MemberConfig::default()
    };
    let endpoints = hubs.iter().map(|number| HubEndpoint {
        host: HUBS[*number].0.to_string(),
        port: HUBS[*number].1,
    });
    let config = NodeConfig::new(member, endpoints.collect());
    let secret = keys.1[place].reveal_base64();
    let (ask, asked) = unbounded_channel();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&answers);
    let runtime = at.runtime(move || async move {
        let identity = Identity::from_base64(&secret).expect("a key");
        let tunnel = MeshTransport::start(config, identity, Arc::new(Inside)).expect("a node");
        drive(&tunnel, asked, &heard).await;
    });
    Node {
        own: own(place),
        id: keys.1[place].id(),
        ask,
        answers,
        _runtime: runtime.expect("inside"),
    }
}

/// Carries packets and answers questions until nobody asks any more.
async fn drive(
    tunnel: &MeshTransport,
    mut asked: UnboundedReceiver<Ask>,
    heard: &Mutex<Vec<Vec<u8>>>,
) {
    let mut batch = PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, 1500);
    let mut drops = DropCounters::default();
    loop {
        tokio::select! {
            ask = asked.recv() => match ask {
                Some(Ask::Send(packet)) => send(tunnel, &packet).await,
                Some(Ask::Status(answer)) => drop(answer.send(tunnel.status())),
                None => return tunnel.close().await,
            },
            readable = tunnel.readable() => {
                if readable.is_err() || tunnel.try_recv(&mut batch, &mut drops).is_err() {
                    return;
                }
                for packet in batch.packets() {
                    match answer(packet.bytes()) {
                        Some(answer) => send(tunnel, &answer).await,
                        None => heard
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(packet.bytes().to_vec()),
                    }
                }
                batch.clear();
            }
        }
    }
}

async fn send(tunnel: &MeshTransport, bytes: &[u8]) {
    let mut batch = PacketBatch::new(1, 1500);
    let mut drops = DropCounters::default();
    batch.push_with(|buffer| {
        buffer.extend_from_slice(bytes);
        Some(Offload::NONE)
    });
    while !batch.is_empty() && !matches!(tunnel.state().get(), TransportState::Closed) {
        if tunnel.try_send(&mut batch, &mut drops).is_err() {
            return;
        }
        if !batch.is_empty() && tunnel.writable().await.is_err() {
            return;
        }
    }
}

/// The answer to a question (port 7); none to an answer.
fn answer(packet: &[u8]) -> Option<Vec<u8>> {
    let address = |at: usize| {
        Some(Ipv4Addr::from(
            <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
        ))
    };
    if packet.get(22..24)? != 7_u16.to_be_bytes() {
        return None;
    }
    Some(build::udp(
        (address(16)?.into(), 7),
        (address(12)?.into(), 1),
        packet.get(28..)?,
    ))
}

pub(crate) fn lab(a: NatKind, b: NatKind) -> Option<NatLab> {
    if vpn_lab::skip(&NatPlan::PROGRAMS) {
        return None;
    }
    Some(NatLab::start(NatPlan::of(a, b)).expect("a lab"))
}

/// A time that is promised on a machine that does nothing else. This one may: up to three measurements are
/// made, and one in time is enough. What is wrong is late each time. None: there is no lab here.
pub(crate) fn in_time(limit: Duration, mut measured: impl FnMut() -> Option<Duration>) {
    let mut late = Vec::new();
    for _ in 0..3 {
        match measured() {
            Some(took) if took >= limit => late.push(took),
            _ => return,
        }
    }
    assert!(late.is_empty(), "{limit:?} are promised: {late:?}");
}
