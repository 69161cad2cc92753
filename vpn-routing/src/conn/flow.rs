//! A flow as it is entered and told.

use vpn_core::packet::{Message, TcpMarks};
use vpn_core::{FlowKey, Generation, RuleId, TunnelId};

use super::{Phase, Stamp};
use crate::nat::MappingId;

/// Which application a flow is counted under; given by the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerSlot(pub u32);

/// Where the bytes of a flow are counted; given by the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UsageSlot(pub u32);

/// Who began a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// An application of this host, or one behind it.
    #[default]
    Device,
    /// Somebody behind the tunnel: an inbound rule admitted it.
    Tunnel,
}

/// What the answers on a flow are good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFlow {
    /// They are no DNS in UDP.
    #[default]
    No,
    /// Queries to a resolver the application chose: answers pass, and what was asked for is
    /// learned.
    Chosen,
    /// Queries that were steered: an answer passes if it was asked for.
    Steered,
}

/// Tells two sockets of one application apart, one of which may have had the other's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket(u32);

impl Socket {
    /// From an owner's [`socket`](vpn_core::Owner::socket): halves of longer numbers fall together.
    pub const fn new(number: u64) -> Self {
        Self((number ^ number >> 32) as u32)
    }

    /// A number that gives this one again.
    pub const fn number(self) -> u64 {
        self.0 as u64
    }
}

/// One flow, as it is entered and told. The table keeps it smaller: see `record`.
#[derive(Clone, Debug)]
pub struct Conn {
    /// As the application's socket has it.
    pub device: FlowKey,
    /// As the tunnel carries it, outbound; of the same protocol and family.
    pub wire: FlowKey,
    /// Through which tunnel.
    pub tunnel: TunnelId,
    /// The rules its decision was made under.
    pub generation: Generation,
    /// Where in its life the flow is.
    pub phase: Phase,
    /// When a packet of either direction was last seen.
    pub last_seen: Stamp,
    /// When an outbound packet was last seen: the owner may have changed since.
    pub last_outbound: Stamp,
    /// Whether a packet of it came through its tunnel.
    pub answered: bool,
    /// Whether its datagrams are DNS queries; what began behind a tunnel is none.
    pub dns: DnsFlow,
    /// Who began it.
    pub origin: Origin,
    /// Where the sender of outbound segments stands, for a RST that it believes; of TCP only.
    pub marks: TcpMarks,
    /// The rule that decided; `None` for the default action.
    pub rule: Option<RuleId>,
    /// Which socket of the owner.
    pub socket: Socket,
    /// Where its bytes are counted, and whose flow it is.
    pub usage: UsageSlot,
    /// The endpoint-independent mapping it counts in; of other protocols than TCP.
    pub mapping: Option<MappingId>,
}

impl Conn {
    /// A packet went out.
    pub fn saw_outbound(&mut self, now: Stamp, message: Message) {
        self.last_seen = now;
        self.last_outbound = now;
        self.phase = self.phase.after(message, false);
    }

    /// An answer came in.
    pub fn saw_inbound(&mut self, now: Stamp, message: Message) {
        self.last_seen = now;
        self.answered = true;
        self.phase = self.phase.after(message, true);
    }
}
