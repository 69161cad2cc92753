//! The mesh where it is to work: real sockets, a real hub, members behind NATs of each kind.
//! Needs root; says what is missing otherwise.

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
use vpn_lab::{HUB4, Namespace, NatKind, NatLab, NatPlan, RuntimeHandle, SECOND_HUB4, Side};
use vpn_p2p::mesh::hub::{Admitted, HubServer, Listen, TlsLimits};
use vpn_p2p::mesh::{
    Carrier, HubConfig, HubEndpoint, HubId, Identity, LinkConfig, MemberConfig, MemberStatus,
    MeshTransport, NodeConfig, Way,
};

/// The hubs' port, UDP and TCP.
const PORT: u16 = 51_820;
/// Long enough for a busy machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(10);

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
struct Node {
    own: Ipv4Addr,
    id: PeerId,
    ask: UnboundedSender<Ask>,
    answers: Arc<Mutex<Vec<Vec<u8>>>>,
    _runtime: RuntimeHandle,
}

impl Node {
    fn send(&self, to: &Self, text: &str) {
        let packet = build::udp((self.own.into(), 1), (to.own.into(), 7), text.as_bytes());
        let _ = self.ask.send(Ask::Send(packet));
    }

    fn has_answer(&self, text: &str) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers
            .iter()
            .any(|packet| packet.ends_with(text.as_bytes()))
    }

    fn status(&self) -> MemberStatus {
        let (sender, receiver) = mpsc::channel();
        let _ = self.ask.send(Ask::Status(sender));
        receiver.recv_timeout(PATIENCE).expect("a status")
    }

    /// By which way packets go to a peer, by what a relay is reached, and why.
    fn path(&self, to: &Self) -> (Option<Way>, Option<Carrier>, String) {
        let status = self.status();
        let peer = status.peers.iter().find(|peer| peer.peer == to.id);
        peer.map_or((None, None, String::new()), |peer| {
            let path = &peer.path;
            (path.way, path.carrier, path.why.to_string())
        })
    }

    fn is_direct(&self, to: &Self) -> bool {
        self.path(to).0.is_some_and(Way::is_direct)
    }

    fn is_registered(&self) -> bool {
        self.status()
            .hubs
            .iter()
            .any(|hub| hub.link.state.name() == "up")
    }
}

/// Repeats it until it says yes: how long that took. Fails after `PATIENCE`.
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let from = Instant::now();
    while !is_so() {
        assert!(from.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(LOOK);
    }
    from.elapsed()
}

/// Identities of two hubs and of members a, b and c.
struct Keys([Identity; 2], [Identity; 3]);

impl Keys {
    fn new() -> Self {
        let make = |_| Identity::generate().expect("random numbers");
        Self([0, 1].map(make), [0, 1, 2].map(make))
    }
}

fn own(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, [2, 3, 4][place])
}

/// A hub at one of the lab's two addresses, which admits all three.
fn hub(lab: &NatLab, keys: &Keys, number: usize) -> RuntimeHandle {
    let members = (keys.1.iter().enumerate())
        .map(|(place, key)| Admitted::new(key.id(), vec![own(place).into()]))
        .collect();
    let config = HubConfig {
        members,
        ..HubConfig::default()
    };
    let secret = keys.0[number].reveal_base64();
    let at = SocketAddr::from(([HUB4, SECOND_HUB4][number], PORT));
    let (ready, started) = mpsc::channel();
    let runtime = lab.hub().runtime(move || async move {
        let identity = Identity::from_base64(&secret).expect("a key");
        let listen = Listen::on(&[at], true).expect("sockets");
        let server = HubServer::start(config, TlsLimits::default(), &identity, listen);
        let _server = server.expect("a hub");
        let _ = ready.send(());
        std::future::pending::<()>().await;
    });
    let runtime = runtime.expect("inside");
    started.recv_timeout(PATIENCE).expect("a hub");
    runtime
}

/// Starts a member in a namespace: 0 is a, 1 is b, 2 is c.
fn node(at: &Namespace, keys: &Keys, place: usize, hubs: usize) -> Node {
    let links = (0..hubs).map(|number| {
        let id = HubId(u8::try_from(number).expect("few hubs"));
        LinkConfig::new(keys.0[number].id(), id)
    });
    let member = MemberConfig {
        name: ["a", "b", "c"][place].to_owned(),
        addresses: vec![format!("{}/24", own(place)).parse().expect("a network")],
        hubs: links.collect(),
        seed: Some(place as u64),
        ..MemberConfig::default()
    };
    let endpoints = [HUB4, SECOND_HUB4][..hubs].iter().map(|ip| HubEndpoint {
        host: ip.to_string(),
        port: PORT,
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

fn lab(a: NatKind, b: NatKind) -> Option<NatLab> {
    if vpn_lab::skip(&NatPlan::PROGRAMS) {
        return None;
    }
    Some(NatLab::start(NatPlan::of(a, b)).expect("a lab"))
}

/// a and b of a lab are registered, and have exchanged a packet: the first one, which is not lost.
fn connected(lab: &NatLab, keys: &Keys, hubs: usize) -> (Node, Node) {
    let a = node(lab.host(Side::A), keys, 0, hubs);
    until("a's registration", || a.is_registered());
    let b = node(lab.host(Side::B), keys, 1, hubs);
    b.send(&a, "first");
    let took = until("the first packet's answer", || b.has_answer("first"));
    assert!(took < Duration::from_secs(5), "{took:?}");
    (a, b)
}

/// Sends from one to the other every 20 ms while `happens` does, and for that long after it: the
/// longest time without an answer.
fn silence(from: &Node, to: &Node, after: Duration, happens: impl FnOnce()) -> Duration {
    let (mut number, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    happens();
    let end = Instant::now() + after;
    while Instant::now() < end {
        number += 1;
        from.send(to, &format!("{number:08}"));
        std::thread::sleep(Duration::from_millis(20));
        let mut answers = from.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if !answers.is_empty() {
            answers.clear();
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    longest.max(last.elapsed())
}

#[test]
fn easy_nats_are_direct_soon() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let keys = Keys::new();
    let _hub = hub(&lab, &keys, 0);
    let (a, b) = connected(&lab, &keys, 1);
    let took = until("a direct way", || a.is_direct(&b) && b.is_direct(&a));
    assert!(took < Duration::from_secs(3), "{took:?}");
    let wan = lab.router(Side::B).wan4();
    let way = a.path(&b).0;
    assert!(
        matches!(way, Some(Way::Direct(to)) if to.ip() == wan),
        "{way:?}"
    );
}

#[test]
fn symmetric_nats_are_relayed_but_direct_to_public_hosts() {
    let Some(lab) = lab(NatKind::Symmetric, NatKind::Symmetric) else {
        return;
    };
    let keys = Keys::new();
    let _hub = hub(&lab, &keys, 0);
    let (a, b) = connected(&lab, &keys, 1);
    let c = node(lab.public(), &keys, 2, 1);
    until("c's registration", || c.is_registered());
    a.send(&c, "to c");
    until("c's answer", || a.has_answer("to c"));
    let took = until("a direct way", || a.is_direct(&c) && c.is_direct(&a));
    assert!(took < Duration::from_secs(3), "{took:?}");
    let (way, carrier, why) = a.path(&b);
    assert_eq!(way, Some(Way::Relay(HubId(0))), "{why}");
    assert_eq!(carrier, Some(Carrier::Udp));
}

#[test]
fn who_has_no_udp_is_relayed_over_tls() {
    let Some(lab) = lab(NatKind::Block, NatKind::Easy) else {
        return;
    };
    let keys = Keys::new();
    let _hub = hub(&lab, &keys, 0);
    let from = Instant::now();
    let (a, b) = connected(&lab, &keys, 1);
    assert!(
        from.elapsed() < Duration::from_secs(5),
        "{:?}",
        from.elapsed()
    );
    let (way, carrier, why) = a.path(&b);
    assert_eq!(way, Some(Way::Relay(HubId(0))), "{why}");
    assert_eq!(carrier, Some(Carrier::Tls));
    let mut longest = String::new();
    for _ in 0..130 {
        longest.push_str("0123456789");
    }
    b.send(&a, &longest);
    until("a large packet's answer", || b.has_answer(&longest));
}

#[test]
fn a_direct_way_that_dies_in_one_direction_is_left_at_once() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let keys = Keys::new();
    let _hub = hub(&lab, &keys, 0);
    let (a, b) = connected(&lab, &keys, 1);
    until("a direct way", || a.is_direct(&b) && b.is_direct(&a));
    let longest = silence(&a, &b, Duration::from_secs(5), || {
        let b_wan = lab.router(Side::B).wan4();
        lab.router(Side::A)
            .deaf_to(Some(b_wan.into()))
            .expect("a fault");
    });
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    assert!(
        !b.is_direct(&a),
        "b is not heard any more: {:?}",
        b.path(&a)
    );
}

#[test]
fn a_rebind_costs_less_than_two_seconds() {
    for kind in [NatKind::Easy, NatKind::Symmetric] {
        let Some(mut lab) = lab(kind, kind) else {
            return;
        };
        let keys = Keys::new();
        let _hub = hub(&lab, &keys, 0);
        let (a, b) = connected(&lab, &keys, 1);
        if kind == NatKind::Easy {
            until("a direct way", || a.is_direct(&b) && b.is_direct(&a));
        }
        let longest = silence(&a, &b, Duration::from_secs(6), || {
            lab.rebind(Side::A).expect("another address");
        });
        assert!(longest < Duration::from_secs(2), "{kind:?}: {longest:?}");
    }
}

#[test]
fn direct_ways_outlive_the_hub() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let keys = Keys::new();
    let first = hub(&lab, &keys, 0);
    let (a, b) = connected(&lab, &keys, 1);
    until("a direct way", || a.is_direct(&b) && b.is_direct(&a));
    let longest = silence(&a, &b, Duration::from_secs(8), || drop(first));
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let _second = hub(&lab, &keys, 0);
    until("the hub's return", || {
        a.is_registered() && b.is_registered()
    });
}

#[test]
fn who_is_relayed_goes_by_the_other_hub_when_one_is_gone() {
    let Some(lab) = lab(NatKind::Symmetric, NatKind::Symmetric) else {
        return;
    };
    let keys = Keys::new();
    let first = hub(&lab, &keys, 0);
    let _second = hub(&lab, &keys, 1);
    let (a, b) = connected(&lab, &keys, 2);
    let both = |node: &Node| {
        node.status()
            .hubs
            .iter()
            .all(|hub| hub.link.state.name() == "up")
    };
    until("both hubs", || both(&a) && both(&b));
    let longest = silence(&a, &b, Duration::from_secs(6), || drop(first));
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[test]
fn who_is_started_again_at_once_is_taken_again() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let keys = Keys::new();
    let _hub = hub(&lab, &keys, 0);
    for _ in 0..4 {
        let a = node(lab.host(Side::A), &keys, 0, 1);
        let took = until("a's registration", || a.is_registered());
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

#[test]
fn first_packets_go_with_the_first_attempt() {
    let Some(lab) = lab(NatKind::Symmetric, NatKind::Symmetric) else {
        return;
    };
    let keys = Keys::new();
    let _hub = hub(&lab, &keys, 0);
    for _ in 0..6 {
        let a = node(lab.host(Side::A), &keys, 0, 1);
        let c = node(lab.public(), &keys, 2, 1);
        until("registrations", || a.is_registered() && c.is_registered());
        a.send(&c, "first");
        let took = until("the first packet's answer", || a.has_answer("first"));
        // A second attempt comes after a second at the earliest.
        let attempts: Vec<u64> = (a.status().peers.iter())
            .map(|peer| peer.counters.attempts)
            .collect();
        assert_eq!(attempts, [1], "{took:?}");
    }
}
