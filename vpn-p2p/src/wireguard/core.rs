//! Decides what happens to datagrams and packets: which peer, which session, which drop. No
//! sockets and no clock; what is to be sent comes out as a value.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::DropReason;

use super::health::Health;
use super::noise::{Admission, Gate, data_index, is_response, sender_index};
use super::round_trip::RoundTrip;
use super::routes::{Inner, Routes};
use super::socket::{Received, Run};
use super::{WireGuardOptions, WireGuardStats};
use crate::session::{Opened, Session, Ticked};
use crate::wg_quick::{Endpoint, Peer, PublicKey, WgQuick};

/// Session names kept per peer: gotatun keeps eight sessions and two handshakes.
const INDICES_PER_PEER: usize = 16;

/// How often the path to a peer is measured: the uplink may change its MTU, or the system learn
/// from a router that the path is narrower (RFC 1191). Long beside what asking costs, a socket and
/// a look-up of a route; short beside the patience of who waits for a stalled transfer.
pub const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// A protocol message and where to.
pub(super) type Outgoing = (SocketAddr, BytesMut);

/// What a datagram came to.
#[derive(Debug)]
pub(super) enum Arrival {
    /// This IP packet, already cut to its length, is for the router.
    Packet(BytesMut),
    /// Send this.
    Reply(Outgoing),
    /// It was for the protocol only.
    Handled,
    Dropped(DropReason),
}

/// Whether a packet may be sealed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlet {
    /// With this peer, to this address.
    Open(usize, SocketAddr),
    /// Not yet, but a handshake is on its way: keep it.
    Wait,
    Drop(DropReason),
}

/// How the peers stand as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing new is known.
    Unchanged,
    /// A peer is proven and not silent.
    Alive,
    /// Every peer that was asked is silent.
    Silent,
}

/// What the underlay knew about the way to a peer.
#[derive(Debug)]
struct MeasuredPath {
    to: SocketAddr,
    /// Largest inner packet, in bytes.
    mtu: u16,
    /// When to ask again; `None`: now.
    again: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct PeerState {
    session: Box<dyn Session>,
    pub(super) configured: Option<Endpoint>,
    endpoint: Option<SocketAddr>,
    /// The path as it was measured last.
    path: Option<MeasuredPath>,
    pub(super) health: Health,
    indices: VecDeque<u32>,
    round_trip: RoundTrip,
    /// The one the peer last used: many handshakes that come to nothing must not make us forget
    /// the session that still works when the path heals.
    in_use: Option<u32>,
}

impl PeerState {
    fn note_asked(&mut self, message: &[u8], now: Instant) {
        if let Some(name) = sender_index(message) {
            self.round_trip.asked(name, now);
        }
    }
}

#[derive(Debug)]
pub(super) struct Core {
    gate: Gate,
    peers: Vec<PeerState>,
    by_key: HashMap<PublicKey, usize>,
    by_index: HashMap<u32, usize>,
    routes: Routes,
    /// Sealed runs the socket had no room for; they go before anything else. Bounded by what one
    /// super-packet is cut into: no packet is taken while there are any.
    pub(super) blocked: VecDeque<Run>,
    /// Received, and not yet asked for. Bounded by one receive call.
    pub(super) arrived: VecDeque<Received>,
    pub(super) stats: WireGuardStats,
    /// A session became usable since this was last cleared: who waits to send may go on.
    pub(super) opened: bool,
    /// A peer with a session was heard since this was last cleared. Says [`Standing::Alive`]
    /// without a look at every peer, of which a server may have thousands.
    pub(super) alive: bool,
}

impl Core {
    pub(super) fn new(config: &WgQuick, options: &WireGuardOptions) -> Self {
        Self::with_sessions(config, options, |gate, peer| Box::new(gate.session(peer)))
    }

    fn with_sessions(
        config: &WgQuick,
        options: &WireGuardOptions,
        mut session: impl FnMut(&Gate, &Peer) -> Box<dyn Session>,
    ) -> Self {
        let gate = Gate::new(&config.interface.private_key);
        let mut routes = Routes::default();
        let mut by_key = HashMap::new();
        let mut peers = Vec::with_capacity(config.peers.len());
        for (index, peer) in config.peers.iter().enumerate() {
            by_key.insert(peer.public_key, index);
            for network in &peer.allowed_ips {
                routes.insert(*network, index);
            }
            peers.push(PeerState {
                session: session(&gate, peer),
                configured: peer.endpoint.clone(),
                endpoint: None,
                path: None,
                health: Health::new(options.no_answer_after, options.seed ^ index as u64),
                indices: VecDeque::with_capacity(INDICES_PER_PEER),
                round_trip: RoundTrip::default(),
                in_use: None,
            });
        }
        Self {
            gate,
            peers,
            by_key,
            by_index: HashMap::new(),
            routes,
            blocked: VecDeque::new(),
            arrived: VecDeque::new(),
            stats: WireGuardStats::default(),
            opened: false,
            alive: false,
        }
    }

    pub(super) fn peer_mut(&mut self, peer: usize) -> Option<&mut PeerState> {
        self.peers.get_mut(peer)
    }

    /// Whether a peer is waited for: then clients know our port.
    pub(super) fn listens(&self) -> bool {
        self.peers.iter().any(|peer| peer.configured.is_none())
    }

    /// A datagram came from `from`.
    pub(super) fn arrive(&mut self, from: SocketAddr, datagram: BytesMut, now: Instant) -> Arrival {
        let mut name = data_index(&datagram);
        let (index, datagram) = match name {
            // The gate has nothing to say about data.
            Some(index) => (self.by_index.get(&index), datagram),
            None => match self.gate.admit(from, datagram) {
                Admission::Initiation(key, datagram) => (self.by_key.get(&key), datagram),
                Admission::ForIndex(index, datagram) => {
                    name = Some(index);
                    (self.by_index.get(&index), datagram)
                }
                Admission::Reply(cookie) => return Arrival::Reply((from, cookie)),
                Admission::Rejected => return Arrival::Dropped(DropReason::NotAuthentic),
            },
        };
        let Some(&index) = index else {
            return Arrival::Dropped(DropReason::NoSession);
        };
        let bytes = datagram.len() as u64;
        let response = is_response(&datagram);
        let peer = &mut self.peers[index];
        let was_ready = peer.session.is_ready();
        let opened = peer.session.open(datagram);
        match opened {
            Opened::Rejected(reason) => return Arrival::Dropped(reason),
            Opened::Nothing => return Arrival::Handled,
            Opened::Packet(_) | Opened::Keepalive | Opened::Reply(_) => {}
        }
        // Authentic: the peer is alive, and it is where this came from (whitepaper §2.1).
        peer.health.heard(now);
        peer.endpoint = Some(from);
        peer.in_use = name.or(peer.in_use);
        if let Some(name) = name.filter(|_| response) {
            peer.round_trip.answered(name, now);
        }
        let ready = peer.session.is_ready();
        self.opened |= !was_ready && ready;
        self.alive |= ready;
        self.stats.rx_datagrams += 1;
        self.stats.rx_bytes += bytes;
        match opened {
            Opened::Packet(packet) => self.accept(index, packet),
            Opened::Reply(reply) => {
                self.stats.handshakes += 1;
                self.register(index, &reply);
                Arrival::Reply((from, reply))
            }
            _ => Arrival::Handled,
        }
    }

    /// An authentic packet: is it one, and may this peer send it?
    fn accept(&mut self, peer: usize, mut packet: BytesMut) -> Arrival {
        let Some(inner) = Inner::read(&packet) else {
            return Arrival::Dropped(DropReason::Malformed);
        };
        if self.routes.peer(inner.src) != Some(peer) {
            return Arrival::Dropped(DropReason::AddressNotAllowed);
        }
        packet.truncate(inner.len);
        self.stats.rx_packets += 1;
        Arrival::Packet(packet)
    }

    /// Where a packet can go. With no session this starts a handshake, whose first message is put
    /// in `start`. `down` says that the tunnel is down: nothing waits then.
    pub(super) fn outlet(
        &mut self,
        packet: &[u8],
        down: bool,
        now: Instant,
        start: &mut Vec<Outgoing>,
    ) -> Outlet {
        let Some(inner) = Inner::read(packet) else {
            return Outlet::Drop(DropReason::Malformed);
        };
        let Some(index) = self.routes.peer(inner.dst) else {
            return Outlet::Drop(DropReason::AddressNotAllowed);
        };
        let alone = self.peers.len() == 1;
        let peer = &mut self.peers[index];
        match peer.endpoint {
            Some(to) if peer.session.is_ready() => Outlet::Open(index, to),
            Some(_) => {
                if !peer.health.is_waiting() {
                    self.initiate(index, false, now, start);
                }
                // With several peers, waiting for one would hold up the others.
                if alone && !down {
                    Outlet::Wait
                } else {
                    Outlet::Drop(DropReason::NoSession)
                }
            }
            // The endpoint's name is still being resolved.
            None if peer.configured.is_some() && alone && !down => Outlet::Wait,
            None => Outlet::Drop(DropReason::NoSession),
        }
    }

    /// Seals a packet for which there is an outlet. `false` if the session is just gone.
    pub(super) fn seal(
        &mut self,
        peer: usize,
        padded: BytesMut,
        run: &mut Run,
        now: Instant,
    ) -> bool {
        let state = &mut self.peers[peer];
        if !state.session.seal(padded, &mut run.bytes) {
            return false;
        }
        state.health.asked(now);
        self.stats.tx_packets += 1;
        true
    }

    /// Starts a handshake; its first message goes to the end of `out`.
    pub(super) fn initiate(
        &mut self,
        index: usize,
        again: bool,
        now: Instant,
        out: &mut Vec<Outgoing>,
    ) {
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        let Some(to) = peer.endpoint else { return };
        if let Some(message) = peer.session.initiate(again) {
            peer.health.asked(now);
            peer.note_asked(&message, now);
            self.register(index, &message);
            out.push((to, message));
        }
    }

    /// Name and socket were had: from now on the peer is there.
    pub(super) fn reached(
        &mut self,
        index: usize,
        at: SocketAddr,
        now: Instant,
        out: &mut Vec<Outgoing>,
    ) {
        if let Some(peer) = self.peers.get_mut(index) {
            peer.endpoint = Some(at);
            self.initiate(index, true, now, out);
        }
    }

    /// The peers with a configured endpoint whose path is to be measured: they moved, a datagram
    /// was too big for it, or it was measured [`MEASURE_EVERY`] ago. A server's clients are not among
    /// them: one on a narrow path would narrow all.
    pub(super) fn unmeasured(&self, now: Instant) -> Vec<(usize, SocketAddr)> {
        let current =
            |path: &MeasuredPath, at| path.to == at && path.again.is_some_and(|again| now < again);
        let peers = self.peers.iter().enumerate();
        peers
            .filter(|(_, peer)| peer.configured.is_some())
            .filter_map(|(index, peer)| Some((index, peer.endpoint?)))
            .filter(|(index, at)| {
                let path = self.peers[*index].path.as_ref();
                path.is_none_or(|path| !current(path, *at))
            })
            .collect()
    }

    /// Notes a path's inner MTU; returns the narrowest of all.
    pub(super) fn measured(&mut self, index: usize, to: SocketAddr, mtu: u16, now: Instant) -> u16 {
        if let Some(peer) = self.peers.get_mut(index) {
            peer.path = Some(MeasuredPath {
                to,
                mtu,
                again: now.checked_add(MEASURE_EVERY),
            });
        }
        let paths = self.peers.iter().filter_map(|peer| peer.path.as_ref());
        paths.map(|path| path.mtu).min().unwrap_or(mtu)
    }

    /// The system refused a datagram to there as too big: the path is narrower than it was.
    pub(super) fn too_big(&mut self, to: SocketAddr) {
        let paths = self.peers.iter_mut().filter_map(|peer| peer.path.as_mut());
        for path in paths.filter(|path| path.to == to) {
            path.again = None;
        }
    }

    /// Lets timers fire; what they want sent goes to `out`, peers to be approached to `due`.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Outgoing>, due: &mut Vec<usize>) {
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            match peer.session.tick() {
                Ticked::Send(message) => {
                    let handshake = sender_index(&message).is_some();
                    if let Some(to) = peer.endpoint {
                        if handshake {
                            peer.health.asked(now);
                            peer.note_asked(&message, now);
                        }
                        out.push((to, message.clone()));
                    }
                    if handshake {
                        self.register(index, &message);
                    }
                }
                // Somebody still waits for this peer; else the next packet starts anew.
                Ticked::Expired if peer.health.is_waiting() => peer.health.demand(now),
                Ticked::Expired | Ticked::Idle => {}
            }
            let peer = &mut self.peers[index];
            if peer.configured.is_some() {
                if peer.health.is_silent(now) {
                    peer.health.demand(now);
                }
                if peer.health.is_due(now) {
                    due.push(index);
                }
            }
        }
    }

    /// How the peers stand as a whole.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let mut standing = Standing::Unchanged;
        for peer in &self.peers {
            if peer.health.is_silent(now) {
                standing = Standing::Silent;
            } else if peer.session.is_ready() {
                return Standing::Alive;
            }
        }
        standing
    }

    /// The network is gone: every peer that was asked or has a session is silent.
    pub(super) fn cut_off(&mut self) {
        for peer in &mut self.peers {
            if peer.configured.is_some() || peer.session.is_ready() {
                peer.health.cut_off();
            }
        }
        self.alive = false;
    }

    /// The network is another one: every peer that can be approached is, also one whose session
    /// seems to be in order. Whether there is one.
    pub(super) fn moved(&mut self, now: Instant) -> bool {
        let peers = self.peers.iter_mut();
        let mut any = false;
        for peer in peers.filter(|peer| peer.configured.is_some()) {
            peer.health.moved(now);
            // The way there may be another, and carry less.
            peer.path = None;
            any = true;
        }
        any
    }

    /// Where a peer was before the network changed, while nothing was tried since.
    pub(super) fn last_known(&self, index: usize) -> Option<SocketAddr> {
        let peer = self.peers.get(index)?;
        let fresh = peer.health.has_moved() && peer.health.attempts() == 0;
        peer.endpoint.filter(|_| fresh)
    }

    /// Forgets every session, and that anything was asked.
    pub(super) fn forget_sessions(&mut self, now: Instant) {
        for peer in &mut self.peers {
            peer.session.forget();
            peer.health.heard(now);
        }
        self.alive = false;
    }

    /// The shortest smoothed round trip of any peer.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        let peers = self.peers.iter();
        peers.filter_map(|peer| peer.round_trip.smoothed()).min()
    }

    /// Whether `outlet` would be worth asking although no packet was refused lately.
    pub(super) fn takes(&self, up: bool) -> bool {
        self.peers.len() > 1
            || self
                .peers
                .iter()
                .any(|peer| peer.session.is_ready() || (up && !peer.health.is_waiting()))
    }

    /// Bytes of memory that peers, their sessions and what waits take, about.
    pub(super) fn bytes(&self) -> usize {
        let peers = self.peers.iter().map(|peer| {
            let session: &dyn Session = peer.session.as_ref();
            size_of::<PeerState>() + size_of_val(session)
        });
        let blocked = self.blocked.iter().map(|run| run.bytes.capacity());
        let arrived = self.arrived.iter().map(Received::bytes_left);
        peers.chain(blocked).chain(arrived).sum()
    }

    pub(super) fn snapshot(&self) -> WireGuardStats {
        let mut stats = self.stats;
        stats.last_handshake = self
            .peers
            .iter()
            .filter_map(|peer| peer.session.handshake_age())
            .min();
        stats
    }

    /// Remembers whose session a name of ours belongs to, and forgets the oldest.
    fn register(&mut self, index: usize, message: &[u8]) {
        let Some(name) = sender_index(message) else {
            return;
        };
        let PeerState {
            indices, in_use, ..
        } = &mut self.peers[index];
        if indices.len() == INDICES_PER_PEER
            && let Some(at) = indices.iter().position(|name| Some(*name) != *in_use)
            && let Some(old) = indices.remove(at)
        {
            self.by_index.remove(&old);
        }
        indices.push_back(name);
        self.by_index.insert(name, index);
    }
}

#[cfg(test)]
mod tests;
