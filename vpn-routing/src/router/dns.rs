//! DNS: a query is decided by the name it asks for, an answer counts for the query that waits for
//! it, and what it says is what later flows are decided by.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vpn_core::packet::{Message as Kind, Packet, Parsed};
use vpn_core::{DomainName, DropReason, FlowKey, Owner, OwnerDetail, Protocol, TunnelId};

use super::Router;
use super::hold::Awaits;
use super::outbound::Known;
use super::outbound::Outcome::{self, Drop, Send, Wait};
use super::resolve::Way;
use super::revalidate::knows_enough;
use crate::conn::{Conn, ConnId, DnsFlow, Stamp};
use crate::dns::{Book, DnsLimits, Message, Noted, Pending};
use crate::rules::{Decision, Domains};

/// The port of DNS (RFC 1035 §4.2).
pub(super) const DNS_PORT: u16 = 53;

/// What a router remembers of DNS.
#[derive(Debug)]
pub(super) struct Dns {
    pub(super) pending: Pending,
    /// Of several routers, all have the same: a flow may be decided by another one than its name's.
    book: Arc<Mutex<Book>>,
    pub(super) counters: DnsCounters,
}

/// How often what happened to queries and answers in UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsCounters {
    /// Queries that were sent.
    pub queries: u64,
    /// Answers to them. A query may be repeated or lost.
    pub answers: u64,
    /// Steered flows' answers that nobody waited for: dropped as
    /// [`DnsUnexpected`](DropReason::DnsUnexpected).
    pub unexpected: u64,
    /// Queries that were not sent, because too many wait: dropped as
    /// [`DnsPendingFull`](DropReason::DnsPendingFull).
    pub refused: u64,
}

impl Dns {
    pub(super) fn new(limits: DnsLimits) -> Self {
        Self::sharing(limits, Arc::new(Mutex::new(Book::new(limits))))
    }

    /// With names that others know as well.
    pub(super) fn sharing(limits: DnsLimits, book: Arc<Mutex<Book>>) -> Self {
        Self {
            pending: Pending::new(limits),
            book,
            counters: DnsCounters::default(),
        }
    }

    pub(super) fn sweep(&mut self, now: Stamp) {
        self.pending.sweep(now);
        self.book().sweep(now);
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    /// A flow is no more.
    pub(super) fn flow_gone(&mut self, conn: &Conn) {
        if conn.dns != DnsFlow::No {
            self.pending.forget(&conn.device);
        }
    }

    /// Under which names destinations are known.
    pub(super) fn domains<'a>(
        &'a self,
        now: Stamp,
        asked: Option<&'a DomainName>,
    ) -> KnownNames<'a> {
        KnownNames {
            book: &self.book,
            now,
            asked,
        }
    }
}

fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // Each entry is whole, whoever panicked.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The book, and the name that the query at hand asks for: it counts in every tunnel.
pub(super) struct KnownNames<'a> {
    book: &'a Mutex<Book>,
    now: Stamp,
    asked: Option<&'a DomainName>,
}

impl Domains for KnownNames<'_> {
    fn visit(&self, addr: IpAddr, found: &mut dyn FnMut(Option<TunnelId>, &DomainName)) {
        if let Some(name) = self.asked {
            found(None, name);
        }
        for (tunnel, name) in locked(self.book).names(self.now, addr) {
            found(Some(tunnel), name);
        }
    }
}

/// A packet that wants a decision: its headers, and the DNS query that it carries.
pub(super) struct Asking<'a> {
    parsed: &'a Parsed,
    query: Option<Message<'a>>,
    name: Option<DomainName>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(parsed: &'a Parsed, packet: &'a Packet) -> Self {
        let query = is_query_flow(&parsed.flow)
            .then(|| datagram(parsed, packet))
            // Several datagrams in one packet may ask for several names, of several tunnels.
            .filter(|_| packet.offload.gso.is_none())
            .and_then(Message::read)
            .filter(|message| !message.is_answer());
        Self {
            parsed,
            name: query.and_then(|query| query.question().name()),
            query,
        }
    }

    /// The name it asks for.
    pub(super) const fn name(&self) -> Option<&DomainName> {
        self.name.as_ref()
    }
}

impl Deref for Asking<'_> {
    type Target = Parsed;

    fn deref(&self) -> &Parsed {
        self.parsed
    }
}

/// Whether a flow's datagrams are queries.
fn is_query_flow(flow: &FlowKey) -> bool {
    flow.dst_port() == DNS_PORT && flow.protocol() == Protocol::UDP
}

fn datagram<'a>(parsed: &Parsed, packet: &'a Packet) -> &'a [u8] {
    let bytes = packet.bytes();
    let end = bytes.len().min(parsed.total_len as usize);
    bytes
        .get(usize::from(parsed.payload)..end)
        .unwrap_or_default()
}

impl Router {
    /// What the rules in force say to a flow, or to a query for `asked` on it.
    pub(super) fn decision(
        &self,
        now: Stamp,
        owner: Option<&Owner>,
        flow: &FlowKey,
        asked: Option<&DomainName>,
    ) -> Decision {
        let domains = self.dns.domains(now, asked);
        let decision = self.rules.decide_named(owner, flow, &domains);
        self.routed(decision, flow)
    }

    /// How much of its owner that depends on.
    pub(super) fn needs_owner(
        &self,
        now: Stamp,
        flow: &FlowKey,
        asked: Option<&DomainName>,
    ) -> Option<OwnerDetail> {
        let domains = self.dns.domains(now, asked);
        self.rules.needs_owner_named(flow, &domains)
    }

    /// What the answers on a new flow will be good for.
    pub(super) fn dns_flow(&self, flow: &FlowKey) -> DnsFlow {
        match (is_query_flow(flow), self.steers(flow)) {
            (false, _) => DnsFlow::No,
            (true, false) => DnsFlow::Chosen,
            (true, true) => DnsFlow::Steered,
        }
    }

    /// Whether a flow is a query to an address that stands for "the resolver of my tunnel": the
    /// virtual one, one the system names, or another tunnel's.
    pub(super) fn steers(&self, flow: &FlowKey) -> bool {
        let dns =
            flow.dst_port() == DNS_PORT && matches!(flow.protocol(), Protocol::UDP | Protocol::TCP);
        let resolves = |addr: IpAddr| {
            self.config.resolvers.contains(&addr)
                || self.config.steered.contains(&addr)
                || self
                    .tunnels
                    .iter()
                    .filter_map(|(_, t)| t.assigned.as_ref())
                    .any(|assigned| assigned.dns.contains(&addr))
        };
        dns && resolves(flow.dst())
    }

    /// A query on a DNS flow in the table, which may have asked for other names, under other rules,
    /// before. `None`: it goes where they went.
    pub(super) fn redirect_query(
        &mut self,
        now: Stamp,
        id: ConnId,
        asking: &Asking<'_>,
        owner_asked: Option<OwnerDetail>,
    ) -> Option<Outcome> {
        let conn = self.conns.get(id)?;
        let owner = self.owner_named(&conn);
        let needs = self.needs_owner(now, &conn.device, asking.name());
        if !knows_enough(needs, owner) && owner_asked < needs {
            return needs.map(|detail| Wait(Awaits::Owner(detail)));
        }
        let tunnel = conn.tunnel;
        let decision = self.decision(now, owner, &conn.device, asking.name());
        match self.resolve(&decision, &conn.device, owner) {
            // This name is blocked; other queries of the socket still wait for their answers.
            Way::Block(reason) => Some(Drop(reason, Some(tunnel))),
            Way::Down(at) => Some(Drop(DropReason::TunnelDown, at)),
            Way::Through(to) if to != tunnel => {
                let known = Known::Answer(needs, self.owner_of(id));
                Some(self.replace_flow(now, id, asking, known))
            }
            Way::Through(_) => {
                self.decided(id, &decision);
                None
            }
        }
    }

    /// A packet is about to be sent on a flow: if it is a query, its answer is waited for.
    pub(super) fn note_query(&mut self, now: Stamp, id: ConnId, asking: &Asking<'_>) -> Outcome {
        let Some(conn) = self.conns.get(id) else {
            return Send(id);
        };
        let noted = match (conn.dns, &asking.query) {
            (DnsFlow::No, _) | (DnsFlow::Chosen, None) => return Send(id),
            // To a resolver that the application did not choose, only what can be decided and
            // whose answer can be told from a forged one.
            (DnsFlow::Steered, None) => return Drop(DropReason::Malformed, Some(conn.tunnel)),
            (_, Some(query)) => {
                let owner = self.usages.owner(conn.usage);
                self.dns.pending.note(now, &conn.device, owner, query)
            }
        };
        match (noted, conn.dns) {
            (Noted::Full, DnsFlow::Steered) => {
                self.dns.counters.refused += 1;
                Drop(DropReason::DnsPendingFull, Some(conn.tunnel))
            }
            // Nothing is learned from its answer.
            (Noted::Full, _) => Send(id),
            (Noted::Waits, _) => {
                self.dns.counters.queries += 1;
                Send(id)
            }
        }
    }

    /// A packet came back on a DNS flow: if answers count there, it must be one that is waited for;
    /// and the name it is about must not be blocked by now.
    pub(super) fn take_answer(
        &mut self,
        now: Stamp,
        id: ConnId,
        parsed: &Parsed,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        match self.conns.get(id) {
            Some(conn) if conn.dns != DnsFlow::No && parsed.message == Kind::Udp => {
                let (device, tunnel) = (conn.device, conn.tunnel);
                let steered = conn.dns == DnsFlow::Steered;
                self.take_answers(now, &device, tunnel, steered, parsed, packet)?;
                let answer = Message::read(datagram(parsed, packet));
                let name = answer.and_then(|answer| answer.question().name());
                self.blocked_since(now, id, name.as_ref())
                    .map_or(Ok(()), Err)
            }
            _ => Ok(()),
        }
    }

    #[inline(never)]
    fn take_answers(
        &mut self,
        now: Stamp,
        device: &FlowKey,
        tunnel: TunnelId,
        steered: bool,
        parsed: &Parsed,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        let dns = &mut self.dns;
        let bytes = datagram(parsed, packet);
        let each = packet
            .offload
            .gso
            .map_or(bytes.len(), |gso| gso.size.into());
        // An empty datagram is one too.
        let datagrams = bytes
            .chunks(each.max(1))
            .chain(bytes.is_empty().then_some(bytes));
        for bytes in datagrams {
            let answer = Message::read(bytes);
            let waited = answer.filter(|answer| dns.pending.answered(now, device, answer));
            match waited {
                Some(answer) => {
                    dns.counters.answers += 1;
                    for learned in answer.addresses() {
                        dns.book().learn(now, tunnel, &learned);
                    }
                }
                None if steered => {
                    dns.counters.unexpected += 1;
                    return Err(DropReason::DnsUnexpected);
                }
                None => {}
            }
        }
        Ok(())
    }
}
