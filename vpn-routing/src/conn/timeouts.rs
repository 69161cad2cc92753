//! How long a silent flow is remembered, by protocol and phase.

use std::time::Duration;

use vpn_core::packet::{Message, tcp_flags};

/// Where in its life a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// UDP.
    Udp,
    /// UDP from behind a tunnel, before anybody here answered.
    UdpAsked,
    /// An ICMP echo.
    Icmp,
    /// A protocol the router knows the number of, and nothing else.
    Other,
    /// TCP before an answer came, from its SYN or from the middle.
    TcpOpening,
    /// TCP from behind a tunnel, before anybody here answered.
    TcpAsked,
    /// TCP from behind a tunnel after the answer, which the other side has not confirmed.
    TcpAnswered,
    /// TCP after an answer came.
    TcpEstablished,
    /// TCP after a FIN of this side.
    TcpClosingHere,
    /// TCP after a FIN of the far side.
    TcpClosingThere,
    /// TCP after a FIN of both sides.
    TcpLastAck,
    /// TCP after the acknowledgment of the last FIN. It answers for what is repeated.
    TcpFinished,
    /// TCP after a RST.
    TcpClosed,
    /// TCP that the router ended: what is left of it is answered with a RST.
    TcpReset,
    /// TCP that the router ended without a word: what is left of it goes nowhere.
    TcpDropped,
}

impl Phase {
    /// Each, by its number.
    pub(super) const ALL: [Self; 15] = [
        Self::Udp,
        Self::UdpAsked,
        Self::Icmp,
        Self::Other,
        Self::TcpOpening,
        Self::TcpAsked,
        Self::TcpAnswered,
        Self::TcpEstablished,
        Self::TcpClosingHere,
        Self::TcpClosingThere,
        Self::TcpLastAck,
        Self::TcpFinished,
        Self::TcpClosed,
        Self::TcpReset,
        Self::TcpDropped,
    ];

    /// The phase of a new flow with this first message.
    pub const fn first(message: Message) -> Self {
        match message {
            Message::Udp => Self::Udp,
            // The last words of a connection that is not known any more.
            Message::Tcp(flags) if flags & tcp_flags::RST != 0 => Self::TcpClosed,
            // From the middle of one: nobody has answered here yet.
            Message::Tcp(_) => Self::TcpOpening,
            Message::Other => Self::Other,
            _ => Self::Icmp,
        }
    }

    /// The phase of a flow that somebody behind a tunnel began with this message.
    pub const fn asked(message: Message) -> Self {
        match message {
            Message::Udp => Self::UdpAsked,
            Message::Tcp(_) => Self::TcpAsked,
            _ => Self::Icmp,
        }
    }

    /// The phase after a message of either direction. Only an inbound one can establish: whoever
    /// began the connection, the other side has then proven that it takes part.
    #[must_use]
    pub const fn after(self, message: Message, inbound: bool) -> Self {
        let Message::Tcp(flags) = message else {
            return match self {
                Self::UdpAsked if !inbound => Self::Udp,
                _ => self,
            };
        };
        // The usual way.
        if matches!(self, Self::TcpEstablished) && flags & (tcp_flags::RST | tcp_flags::FIN) == 0 {
            return self;
        }
        match self {
            Self::TcpReset | Self::TcpDropped => self,
            _ if flags & tcp_flags::RST != 0 => Self::TcpClosed,
            Self::TcpClosed => self,
            Self::TcpAsked if !inbound && flags & tcp_flags::SYN != 0 => Self::TcpAnswered,
            Self::TcpAsked => self,
            // A repeated SYN confirms nothing.
            Self::TcpAnswered if !inbound || flags & tcp_flags::SYN != 0 => self,
            // Whatever the app sends: nobody has answered.
            Self::TcpOpening if !inbound => self,
            Self::TcpFinished => self,
            Self::TcpLastAck if flags & tcp_flags::FIN != 0 => self,
            Self::TcpLastAck => Self::TcpFinished,
            _ if flags & tcp_flags::FIN != 0 => match (self, inbound) {
                (Self::TcpClosingHere, true) | (Self::TcpClosingThere, false) => Self::TcpLastAck,
                (_, true) => Self::TcpClosingThere,
                (_, false) => Self::TcpClosingHere,
            },
            Self::TcpOpening | Self::TcpAnswered => Self::TcpEstablished,
            other => other,
        }
    }

    /// Whether the flow is a TCP connection that both sides use, or have used to its end.
    pub const fn is_live_tcp(self) -> bool {
        matches!(
            self,
            Self::TcpEstablished
                | Self::TcpClosingHere
                | Self::TcpClosingThere
                | Self::TcpLastAck
                | Self::TcpFinished
        )
    }

    /// Whether the router ended the flow, and its entry only answers for it.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::TcpReset | Self::TcpDropped)
    }

    /// Whether somebody behind a tunnel began the flow, and both sides do not use it yet.
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::UdpAsked | Self::TcpAsked | Self::TcpAnswered)
    }

    /// Whether a flow from behind a tunnel gives its place to another one of its rule: it never
    /// was a connection, or is none any more.
    pub const fn makes_room(self) -> bool {
        self.is_half_open() || matches!(self, Self::TcpClosed | Self::TcpFinished)
    }

    /// Whether the flow may go when the table is full. A live TCP connection may not.
    pub const fn may_be_evicted(self) -> bool {
        !matches!(self, Self::TcpEstablished)
    }
}

/// How long a silent flow is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP. RFC 4787 REQ-5: at least 2 minutes, 5 recommended. Default 5 minutes.
    pub udp: Duration,
    /// A flow from behind a tunnel that nobody here has answered, or whose answer was not
    /// confirmed. Default 30 seconds: a retried handshake fits.
    pub asked: Duration,
    /// ICMP echo. RFC 5508 REQ-1: at least 60 seconds. Default 60 seconds.
    pub icmp: Duration,
    /// Protocols without ports, such as GRE and ESP. Default 10 minutes, as Linux has it.
    pub other: Duration,
    /// TCP that is established. RFC 5382 REQ-5: at least 2 h 4 min. Default 2 h 4 min.
    pub tcp_established: Duration,
    /// TCP that is opening, closing or ended by the router. RFC 5382 REQ-5: at least 4 minutes. Default 4 minutes.
    pub tcp_transitory: Duration,
    /// TCP after a RST. Default 10 seconds, for late packets.
    pub tcp_closed: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            asked: Duration::from_secs(30),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(600),
            tcp_established: Duration::from_secs(7440),
            tcp_transitory: Duration::from_secs(240),
            tcp_closed: Duration::from_secs(10),
        }
    }
}

impl Timeouts {
    /// The timeout of a phase, in milliseconds.
    #[inline]
    pub fn of(&self, phase: Phase) -> u32 {
        let duration = match phase {
            Phase::Udp => self.udp,
            Phase::UdpAsked | Phase::TcpAsked | Phase::TcpAnswered => self.asked,
            Phase::Icmp => self.icmp,
            Phase::Other => self.other,
            Phase::TcpEstablished => self.tcp_established,
            Phase::TcpOpening
            | Phase::TcpClosingHere
            | Phase::TcpClosingThere
            | Phase::TcpLastAck
            | Phase::TcpFinished
            | Phase::TcpReset
            | Phase::TcpDropped => self.tcp_transitory,
            Phase::TcpClosed => self.tcp_closed,
        };
        // Half of the stamp's range at most, so that wrapping comparison stays right.
        duration.as_millis().min(u128::from(u32::MAX / 2)) as u32
    }
}
