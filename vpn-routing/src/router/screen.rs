//! The packet filter in the router: who is judged when, and how a sender is told.

use std::time::Duration;

use vpn_core::packet::{Complaint, IcmpError, Message, Offload, Packet, Parsed, TcpReset};
use vpn_core::rule::{FilterAction, FilterDirection};
use vpn_core::{DropReason, FlowKey, TransportState, TunnelId};

use super::Router;
use super::outbound::Outcome;
use crate::conn::{Conn, ConnId, Origin, Stamp};
use crate::filter::Subject;

/// How many senders are told something per second: who sends a flood must not get one back
/// (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
const TOLD_PER_SECOND: u32 = 100;

/// How many are told at once after a silence.
const TOLD_AT_ONCE: u32 = 50;

/// What is left to tell, of each kind: whom one of them silences must not miss another.
#[derive(Debug, Default)]
pub(super) struct Tells {
    /// That an application's packets are refused.
    to_apps: Bucket,
    /// That those from behind tunnels are.
    to_tunnels: Bucket,
    /// What fits a tunnel. Without it nothing large passes at all.
    sizes: Bucket,
}

/// A token bucket, in milliseconds of refill.
#[derive(Debug)]
struct Bucket {
    credit: u32,
    at: Stamp,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            credit: TOLD_AT_ONCE * Self::COST,
            at: 0,
        }
    }
}

impl Bucket {
    const COST: u32 = Duration::from_secs(1).as_millis() as u32 / TOLD_PER_SECOND;

    fn take(&mut self, now: Stamp) -> bool {
        let refill = now.wrapping_sub(self.at);
        self.at = now;
        self.credit = self
            .credit
            .saturating_add(refill)
            .min(TOLD_AT_ONCE * Self::COST);
        match self.credit.checked_sub(Self::COST) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }
}

impl Router {
    /// What the filter says to a flow that starts here.
    pub(super) fn screened(&self, tunnel: TunnelId, flow: &FlowKey) -> FilterAction {
        self.judge(FilterDirection::Outbound, tunnel, *flow)
    }

    /// What the filter says to a flow that starts behind a tunnel. `port` is the one it was sent to.
    pub(super) fn screened_guest(
        &self,
        tunnel: TunnelId,
        device: &FlowKey,
        port: u16,
    ) -> FilterAction {
        let first = device.reversed().with_destination(device.src(), port);
        self.judge(FilterDirection::Inbound, tunnel, first)
    }

    /// What the filter says to one message that is of no flow: an ICMP error.
    pub(super) fn judge_message(
        &self,
        direction: FilterDirection,
        tunnel: TunnelId,
        parsed: &Parsed,
        packet: &Packet,
    ) -> FilterAction {
        let icmp = packet.bytes().get(usize::from(parsed.transport)..);
        let subject = Subject {
            icmp: icmp.and_then(|icmp| Some((*icmp.first()?, *icmp.get(1)?))),
            ..Subject::flow(direction, tunnel, parsed.flow)
        };
        self.judge_subject(&subject)
    }

    /// What the filter says to the first fragment of a datagram, and so to the others.
    pub(super) fn judge_fragment(
        &self,
        direction: FilterDirection,
        tunnel: TunnelId,
        flow: FlowKey,
    ) -> FilterAction {
        self.judge_subject(&Subject {
            fragment: true,
            ..Subject::flow(direction, tunnel, flow)
        })
    }

    fn judge(&self, direction: FilterDirection, tunnel: TunnelId, flow: FlowKey) -> FilterAction {
        self.judge_subject(&Subject::flow(direction, tunnel, flow))
    }

    fn judge_subject(&self, subject: &Subject) -> FilterAction {
        let filters = self.rules.filters();
        if filters.is_empty() {
            return FilterAction::Accept;
        }
        let is_member = |group| {
            let group = self.groups.get(group);
            group.is_some_and(|group| group.config().members.contains(&subject.tunnel))
        };
        filters.judge(subject, is_member).action
    }

    fn screened_conn(&self, conn: &Conn) -> FilterAction {
        match conn.origin {
            Origin::Device => self.screened(conn.tunnel, &conn.device),
            Origin::Tunnel => self.screened_guest(conn.tunnel, &conn.device, conn.wire.src_port()),
        }
    }

    /// Judges a flow in the table again, under other rules than before; ends it if it may not
    /// pass any more.
    pub(super) fn filtered_since(&mut self, now: Stamp, id: ConnId) -> Option<Outcome> {
        let conn = self.conns.get(id)?;
        let tunnel = conn.tunnel;
        let action = self.screened_conn(&conn);
        let outcome = filter_outcome(action, tunnel)?;
        self.dismiss(now, id);
        Some(outcome)
    }

    /// Tells an application that its packet may not pass.
    pub(super) fn reject_to_app(&mut self, now: Stamp, parsed: &Parsed, packet: &Packet) {
        if let Some(refusal) = Refusal::of(parsed, packet).filter(|_| self.tells.to_apps.take(now))
        {
            self.refuse_to_app(&refusal);
        }
    }

    /// Tells an application by ICMP why its packet does not pass.
    pub(super) fn complain_to_app(
        &mut self,
        now: Stamp,
        complaint: Complaint,
        parsed: &Parsed,
        packet: &Packet,
    ) {
        let bucket = match complaint {
            Complaint::TooBig { .. } => &mut self.tells.sizes,
            _ => &mut self.tells.to_apps,
        };
        let refusal = Refusal::saying(complaint, parsed, packet);
        if let Some(refusal) = refusal.filter(|_| bucket.take(now)) {
            self.refuse_to_app(&refusal);
        }
    }

    fn refuse_to_app(&mut self, refusal: &Refusal<'_>) {
        let made = self.device.push_with(|buffer| {
            refusal.write(buffer);
            Some(Offload::NONE)
        });
        self.accounts.made += u64::from(made);
    }

    /// Tells somebody behind a tunnel that their packet may not pass.
    pub(super) fn reject_to_tunnel(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        parsed: &Parsed,
        packet: &Packet,
    ) {
        let refusal = Refusal::of(parsed, packet);
        let Some(refusal) = refusal.filter(|_| self.tells.to_tunnels.take(now)) else {
            return;
        };
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        if !matches!(slot.state, TransportState::Up(_)) {
            return;
        }
        let made = slot.queue.push_with(|buffer| {
            refusal.write(buffer);
            Some(Offload::NONE)
        });
        if made && slot.queue.len() == 1 {
            self.tunnels.list(tunnel);
        }
        self.accounts.made += u64::from(made);
    }
}

/// What becomes of an outbound packet that the filter stops; `None` if it passes.
pub(super) fn filter_outcome(action: FilterAction, tunnel: TunnelId) -> Option<Outcome> {
    match action {
        FilterAction::Accept => None,
        FilterAction::Drop => Some(Outcome::Drop(DropReason::BlockedByFilter, Some(tunnel))),
        FilterAction::Reject => Some(Outcome::Reject(tunnel)),
    }
}

/// How a sender is told.
enum Refusal<'a> {
    Reset(TcpReset),
    Error(IcmpError<'a>),
}

impl<'a> Refusal<'a> {
    fn of(parsed: &'a Parsed, packet: &'a Packet) -> Option<Self> {
        match parsed.message {
            Message::Tcp(_) => TcpReset::answering(packet.bytes(), parsed).map(Self::Reset),
            _ => Self::saying(Complaint::Prohibited, parsed, packet),
        }
    }

    fn saying(complaint: Complaint, parsed: &'a Parsed, packet: &'a Packet) -> Option<Self> {
        IcmpError::new(complaint, packet.bytes(), parsed).map(Self::Error)
    }

    fn write(&self, out: &mut bytes::BytesMut) {
        match self {
            Self::Reset(reset) => reset.write(out),
            Self::Error(message) => message.write(out),
        }
    }
}
