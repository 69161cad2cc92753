//! Decides everything a member does: hubs, peers, addresses, sessions, what waits. Pure: time is an
//! argument, datagrams and packets come in, and what is to be sent comes out as a value.
//!
//! ```text
//!  packet ─▶ outlet ─▶ whose address? ─▶ session.seal ─▶ the way in use ─▶ datagram
//!                       │ nobody's yet: hub is asked, packet waits
//!  datagram ─▶ frame? hub's or relayed ─▶ whose session? ─▶ open ─▶ source its own? ─▶ packet
//! ```
//!
//! | File | What it decides |
//! |---|---|
//! | `config` | what a member is told when it starts |
//! | `addresses` | whose an address is |
//! | `lookup`, `held` | who is asked for, and what waits meanwhile |
//! | `inbound` | whose a datagram is, and whether a packet may be |
//! | `outbound` | where a packet goes, and what it looks like there |
//! | `believe` | which records count |
//! | `measure`, `status` | how it stands |
//! | `hubs` | what hubs say, and what follows |
//! | `timers` | who is woken when |

mod addresses;
pub(in crate::mesh) use addresses::is_broadcast_of;
mod believe;
mod config;

mod hubs;
mod inbound;
mod lookup;
mod measure;
mod outbound;
mod status;
mod timers;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use vpn_core::{NetworkEvent, PeerId};

use self::addresses::Addresses;
pub use self::addresses::{Conflict, Slot};
pub use self::config::{KnownPeer, MAX_PEERS, MemberConfig, RECORD_LIFETIME};
use self::hubs::Absent;
pub use self::inbound::Arrived;
use self::lookup::{Lookups, Step};
pub use self::outbound::{Outlet, Wire, plain_packets};
pub use self::status::{HubStanding, MemberStatus, PeerStanding};
use self::timers::Timers;
use super::identity::Identity;
use super::keys::Keys;
use super::limit::{Bucket, Rate};
use super::link::Link;
use super::peer::{Peer, PeerCounters, PeerEvent, PeerOut, PeerRules};
use super::record::{Record, SignedRecord};
use super::way::{Carrier, HubId, Way};
use super::wire::{Frame, Refusal, Tag, What};
use crate::held::{Held, Holding};
use crate::wg_quick::PublicKey;

/// Hubs one member uses.
pub const MAX_HUBS: usize = 4;

/// How often our own record is made anew because something changed: five times at once, as when hubs
/// answer one after the other, then every [`SIGN_PAUSE`]. A NAT that shows a new address each time
/// costs everybody who knows us a message each.
const SIGNING: Rate = Rate::new(1, 5 * SIGN_PAUSE.as_secs());

/// Questions to one hub that hints bring about: anybody can send these in its name, about as many peers
/// as there are.
const HINTED: Rate = Rate::new(10, 10);

/// See [`SIGNING`].
const SIGN_PAUSE: Duration = Duration::from_secs(3);

/// How often records are looked at for their age: seconds do not matter, they are valid for hours.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What is to be sent, or done about streams.
#[derive(Debug, PartialEq, Eq)]
pub enum Transmit {
    /// This datagram, to there.
    Udp(SocketAddr, Vec<u8>),
    /// A packet of a user that waited until now, sealed, to there: nobody repeats it, so it is not to be
    /// lost where there is no room.
    Packet(SocketAddr, Vec<u8>),
    /// This frame or datagram, by the stream to this hub.
    Tls(HubId, Vec<u8>),
    /// Open a stream to this hub, at one of these addresses.
    OpenTls(HubId, Vec<SocketAddr>),
    /// The stream to this hub is not needed any more.
    CloseTls(HubId),
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberEvent {
    /// A hub took us, or is gone: whether any is there now.
    Connected(bool),
    /// A hub does not take us.
    Refused(HubId, Refusal),
    /// Two peers claim the same.
    Conflict(Conflict),
    /// Something happened to a peer.
    Peer(PeerId, PeerEvent),
}

/// One peer, and what belongs to it here.
#[derive(Debug)]
struct Entry {
    peer: Peer,
    held: Held,
    /// It has something to be sent, told or planned.
    dirty: bool,
    /// Hubs at which it was not.
    absent: Vec<Absent>,
    /// Its datagrams come by way of several hubs, between which super-packets do not go whole.
    far: bool,
    /// When a hub was asked last whether it is there.
    asked: Option<Instant>,
    /// Until when a hub vouches for its record, in seconds since the Unix epoch.
    vouched: u64,
    /// When it was made or wanted last: who makes room.
    since: Instant,
}

/// What a question to a hub about a known peer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// Is it there?
    Present,
    /// Is it still a member?
    Member,
}

/// A member of the mesh.
#[derive(Debug)]
pub struct Member {
    identity: Identity,
    keys: Box<dyn Keys>,
    config: MemberConfig,
    seed: u64,
    /// Largest inner packet, in bytes.
    mtu: u16,
    links: Vec<Link>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    by_tag: HashMap<Tag, Slot>,
    by_session: HashMap<PublicKey, Slot>,
    by_index: HashMap<u32, Slot>,
    addresses: Addresses,
    lookups: Lookups,
    holding: Holding,
    timers: Timers,
    dirty: Vec<Slot>,
    own: SignedRecord,
    /// Where our own sockets are, as far as this machine knows.
    local: Vec<SocketAddr>,
    renew_own: Instant,
    /// Records of ours, made because something changed.
    signing: Bucket,
    /// The least number of the next one, for a hub knows one before it.
    least: u64,
    /// What was done with peers that are forgotten: sums must not become less.
    forgotten: PeerCounters,
    /// When records are looked at for their age.
    next_look: Instant,
    /// Questions to hubs whether peers are there.
    checks: Vec<(u32, Slot, Check)>,
    next_check: u32,
    /// Those that hints bring about, by hub.
    hinted: Vec<Bucket>,
    conflicts: HashMap<Claim, u64>,
    out: VecDeque<Transmit>,
    events: VecDeque<MemberEvent>,
    was_connected: bool,
}

/// What was claimed, and by whom: it is told once, and counted from then on.
type Claim = (ipnet::IpNet, PeerId);

impl Member {
    /// A member that begins to register at its hubs at once. `unix` is the time in seconds since the
    /// Unix epoch, everywhere here.
    pub fn new(
        config: MemberConfig,
        identity: Identity,
        keys: Box<dyn Keys>,
        now: Instant,
        unix: u64,
    ) -> Self {
        let mut config = config;
        config.hubs.truncate(MAX_HUBS);
        let seed = config
            .seed
            .unwrap_or_else(|| u64::from_le_bytes(Tag::from(identity.id()).0));
        let own = config.addresses.iter().map(ipnet::IpNet::addr).collect();
        let pinned = (config.peers.iter())
            .flat_map(|known| known.addresses.iter().map(|address| (*address, known.peer)))
            .collect();
        let links = (config.hubs.iter().zip(0..))
            .map(|(hub, place)| Link::new(hub.clone(), seed ^ place, now))
            .collect();
        let record = blank(&identity, &config, keys.public());
        let mut member = Self {
            own: record.sign(&identity),
            identity,
            keys,
            seed,
            mtu: crate::mesh::node::INNER_MTU,
            links,
            entries: Vec::new(),
            free: Vec::new(),
            by_tag: HashMap::new(),
            by_session: HashMap::new(),
            by_index: HashMap::new(),
            addresses: Addresses::new(own, pinned, config.inside()),
            lookups: Lookups::default(),
            holding: Holding::default(),
            timers: Timers::default(),
            dirty: Vec::new(),
            local: Vec::new(),
            renew_own: now,
            signing: Bucket::full(SIGNING, now),
            least: 0,
            forgotten: PeerCounters::default(),
            next_look: now + LOOK_EVERY,
            checks: Vec::new(),
            next_check: 0,
            hinted: vec![Bucket::full(HINTED, now); config.hubs.len()],
            conflicts: HashMap::new(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            was_connected: false,
            config,
        };
        member.sign_own(now, unix);
        member
    }

    /// Who we are.
    pub fn id(&self) -> PeerId {
        self.identity.id()
    }

    /// Our own record as it is now.
    pub const fn own_record(&self) -> &SignedRecord {
        &self.own
    }

    /// Where our sockets are, as far as this machine knows: its addresses with the sockets' ports.
    pub fn set_local(&mut self, local: Vec<SocketAddr>, now: Instant, unix: u64) {
        let usable = |at: &SocketAddr| self.is_candidate(*at);
        let local: Vec<SocketAddr> = local.into_iter().filter(usable).collect();
        if local != self.local {
            self.local = local;
            self.sign_soon(now, unix);
        }
    }

    /// By which address what goes to hubs leaves: tells networks apart.
    pub fn leaves_by(&mut self, address: IpAddr, now: Instant) {
        for link in &mut self.links {
            link.leaves_by(address, now);
        }
    }

    /// The addresses of a hub, as its name resolved.
    pub fn set_endpoints(&mut self, hub: HubId, endpoints: Vec<SocketAddr>, now: Instant) {
        if let Some(link) = self.links.get_mut(usize::from(hub.0)) {
            link.set_endpoints(endpoints, now);
        }
    }

    /// Largest inner packet from now on, in bytes: what waits and is larger is dropped. Default
    /// [`INNER_MTU`](crate::mesh::node::INNER_MTU).
    pub const fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Where datagrams leave for now, and whether a relay's header is in front of them: for each hub by
    /// UDP and each peer with a direct way.
    pub fn in_use(&self) -> Vec<(SocketAddr, bool)> {
        let hubs = self.links.iter().filter_map(Link::way);
        let hubs = hubs.filter_map(|(via, to)| (via == Carrier::Udp).then_some((to, true)));
        let peers = self.entries.iter().flatten();
        let direct = peers.filter_map(|entry| match entry.peer.way()? {
            Way::Direct(to) => Some((to, false)),
            Way::Relay(_) => None,
        });
        hubs.chain(direct).collect()
    }

    /// Wants to know this peer, and be connected with it.
    pub fn connect(&mut self, peer: PeerId, now: Instant) {
        match self.slot_of(peer) {
            Some(slot) => self.demand(slot, now),
            None => self.look_up(What::Peer(peer.0), None, now),
        }
    }

    /// The stream to a hub is there, or could not be had, or ended.
    pub fn tls(&mut self, hub: HubId, is_open: bool, now: Instant) {
        if let Some(link) = self.links.get_mut(usize::from(hub.0)) {
            match is_open {
                true => link.tls_opened(now),
                false => link.tls_failed(now),
            }
        }
    }

    /// The network below is another one.
    pub fn network_changed(&mut self, event: NetworkEvent, now: Instant) {
        if !event.calls_for_reconnect() {
            return;
        }
        for link in &mut self.links {
            link.network_changed(now);
        }
        for slot in 0..self.entries.len() {
            if let Some(entry) = self.entry_mut(Slot(slot)) {
                entry.peer.network_changed(now);
            }
        }
    }

    /// Says good-bye to everybody. What it has to say is still to be [polled](Self::poll).
    pub fn bye(&mut self, now: Instant) {
        for slot in 0..self.entries.len() {
            if let Some(entry) = self.entry_mut(Slot(slot)) {
                entry.peer.stop(now);
            }
        }
        self.settle(now);
        for link in &mut self.links {
            link.bye(now);
        }
    }

    /// Whether a hub took us, or a peer is connected.
    pub fn is_connected(&self) -> bool {
        self.has_hub()
            || self
                .entries
                .iter()
                .flatten()
                .any(|entry| entry.peer.way().is_some())
    }

    /// Whether a hub took us.
    pub fn has_hub(&self) -> bool {
        self.links.iter().any(|link| link.way().is_some())
    }

    /// Where hubs answer, or are asked first.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.links
            .iter()
            .filter_map(|link| link.status().endpoint)
            .collect()
    }

    /// By which way packets go to this peer, if they can go.
    pub fn way(&self, peer: PeerId) -> Option<Way> {
        self.entry(self.slot_of(peer)?)?.peer.way()
    }

    /// Memory it takes, about, in bytes.
    pub fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Option<Entry>>()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let links = self.links.iter().filter_map(Link::next_timeout).min();
        [
            links,
            self.timers.next(),
            self.lookups.next_timeout(),
            Some(self.renew_own),
            Some(self.next_look),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, unix: u64) {
        if self.renew_own <= now {
            self.sign_own(now, unix);
        }
        if self.next_look <= now {
            self.next_look = now + LOOK_EVERY;
            self.look_at_ages(now, unix);
        }
        for link in &mut self.links {
            link.handle_timeout(now);
        }
        self.follow_links(now, unix);
        while let Some(slot) = self.timers.take_due(now) {
            if let Some(entry) = self.entry_mut(slot) {
                entry.peer.handle_timeout(now);
            }
            if let Some(Some(entry)) = self.entries.get_mut(slot.0) {
                entry.held.expire(now, &mut self.holding);
            }
            // It is planned anew, and never for now: what is due was done.
            self.settle(now);
        }
        self.lookups.handle_timeout(now, &mut self.holding);
        self.settle(now);
    }

    /// What is to be sent next. Call it until it is `None`, after every call that changes anything.
    pub fn poll(&mut self, now: Instant, unix: u64) -> Option<Transmit> {
        self.follow_links(now, unix);
        self.settle(now);
        self.out.pop_front()
    }

    /// What is to be told next.
    pub fn poll_event(&mut self) -> Option<MemberEvent> {
        self.events.pop_front()
    }

    /// A packet that waited, for tests of who sends it.
    #[cfg(test)]
    pub(in crate::mesh) fn waited(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        self.out.push_back(Transmit::Packet(to, datagram));
    }

    /// Collects what peers want to send and tell, and plans their next wake-up.
    pub fn settle(&mut self, now: Instant) {
        while let Some(slot) = self.dirty.pop() {
            self.settle_one(slot, now);
        }
    }

    fn settle_one(&mut self, slot: Slot, now: Instant) {
        let Some(entry) = self.entries.get_mut(slot.0).and_then(Option::as_mut) else {
            return;
        };
        entry.dirty = false;
        let (mut outs, mut events) = (Vec::new(), Vec::new());
        while let Some(out) = entry.peer.poll(now) {
            outs.push(out);
        }
        while let Some(event) = entry.peer.poll_event() {
            events.push(event);
        }
        let (new, old) = entry.peer.take_names();
        let (id, tag) = (entry.peer.id(), entry.peer.tag());
        for name in old {
            self.by_index.remove(&name);
        }
        for name in new {
            self.by_index.insert(name, slot);
        }
        for out in outs {
            match out {
                PeerOut::Introduce(hub) => {
                    let record = self.own.to_bytes();
                    let introduce = Frame::Introduce { record: &record }.to_bytes();
                    self.relay(hub, tag, &introduce, now);
                }
                PeerOut::Datagram(way, datagram) => self.transmit(way, tag, &datagram, now),
            }
        }
        for event in events {
            if let PeerEvent::Record(record) = event {
                self.claimed(slot, *record, now);
                continue;
            }
            match event {
                PeerEvent::Ready | PeerEvent::Path(_) => self.release(slot, now),
                PeerEvent::Gone => self.drop_held(slot),
                PeerEvent::Record(_) => {}
            }
            self.tell(MemberEvent::Peer(id, event));
        }
        let at = self.entry(slot).and_then(|entry| {
            let times = [entry.peer.next_timeout(), entry.held.next_timeout()];
            times.into_iter().flatten().min()
        });
        self.timers.set(slot, at);
    }

    /// What waits for a peer that will not be connected goes nowhere.
    fn drop_held(&mut self, slot: Slot) {
        if let Some(Some(entry)) = self.entries.get_mut(slot.0) {
            entry
                .held
                .drop_all(vpn_core::DropReason::NoSession, &mut self.holding);
        }
    }

    fn tell(&mut self, event: MemberEvent) {
        /// Whoever does not ask loses the oldest.
        const MAX_EVENTS: usize = 1024;
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn slot_of(&self, peer: PeerId) -> Option<Slot> {
        let slot = *self.by_tag.get(&Tag::from(peer))?;
        (self.entry(slot)?.peer.id() == peer).then_some(slot)
    }

    fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(slot.0)?.as_ref()
    }

    /// The entry, which will be settled.
    fn entry_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(slot.0)?.as_mut()?;
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(slot);
        }
        Some(entry)
    }

    /// Somebody wants to send to this peer.
    fn demand(&mut self, slot: Slot, now: Instant) {
        let relays = self.relays_for(slot, now);
        if let Some(entry) = self.entry_mut(slot) {
            entry.since = now;
            entry.peer.set_relays(&relays, now);
            entry.peer.demand(now);
        }
    }

    fn look_up(&mut self, what: What, packet: Option<&vpn_core::Packet>, now: Instant) {
        let hubs = self.hubs();
        let step = self
            .lookups
            .want(what, packet, &hubs, now, &mut self.holding);
        self.ask(step, now);
    }

    fn ask(&mut self, step: Step, now: Instant) {
        if let Step::Ask(hub, id, what) = step
            && let Some(link) = self.links.get_mut(usize::from(hub.0))
        {
            link.find(id, what, now);
        }
    }

    /// What `peer` may do, and what may be done with it.
    fn rules_of(&self, peer: PeerId) -> PeerRules {
        self.config.rules_of(peer)
    }
}

/// What our record says but for what changes.
fn blank(identity: &Identity, config: &MemberConfig, session: PublicKey) -> Record {
    Record {
        peer: identity.id(),
        name: config.name.clone(),
        session,
        addresses: config.addresses.iter().map(ipnet::IpNet::addr).collect(),
        routes: config.routes.clone(),
        candidates: Vec::new(),
        sequence: 0,
        expires: 0,
    }
}

#[cfg(test)]
mod tests;
