//! What an answer about an owner rests on, for people.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::{Owner, OwnerAnswer, OwnerQuery};

/// What a resolver looked at, and what it concluded. For people who ask why a flow went where it
/// did; its [`Display`](fmt::Display) takes several lines, without a newline at the end.
///
/// ```
/// use vpn_core::owner::{Conclusion, Doubt, Evidence, Lookup};
/// use vpn_core::{FlowKey, OwnerDetail, OwnerQuery, Protocol};
///
/// let flow = FlowKey::new(
///     Protocol::UDP,
///     ([10, 5, 0, 2].into(), 5353),
///     ([192, 0, 2, 1].into(), 53),
/// );
/// let query = OwnerQuery { flow, detail: OwnerDetail::Uid };
/// let evidence = Evidence::new(query)
///     .looked_at(Lookup::PortSharers)
///     .concluding(Conclusion::Unknown(Doubt::NoSocket));
/// assert!(evidence.to_string().ends_with("unknown: no socket could have sent it"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// What was asked.
    pub query: OwnerQuery,
    /// Where it looked, in order.
    pub lookups: Vec<Lookup>,
    /// The sockets the last of them found, at most [`MAX_LISTED`](Self::MAX_LISTED).
    pub sockets: Vec<SocketEvidence>,
    /// Sockets beyond those.
    pub more_sockets: usize,
    /// The processes that hold the sockets, at most [`MAX_LISTED`](Self::MAX_LISTED). Empty
    /// unless processes were searched.
    pub holders: Vec<Holder>,
    /// Processes beyond those.
    pub more_holders: usize,
    /// What follows.
    pub conclusion: Conclusion,
}

impl Evidence {
    /// How many sockets, and how many processes, are listed: as many as a person reads.
    pub const MAX_LISTED: usize = 16;

    /// Nothing seen yet, and nobody found.
    pub fn new(query: OwnerQuery) -> Self {
        Self {
            query,
            lookups: Vec::new(),
            sockets: Vec::new(),
            more_sockets: 0,
            holders: Vec::new(),
            more_holders: 0,
            conclusion: Conclusion::Unknown(Doubt::NoSocket),
        }
    }

    /// Of a resolver that shows nothing.
    pub fn not_shown(query: OwnerQuery) -> Self {
        Self::new(query).concluding(Conclusion::NotShown)
    }

    /// Adds a place that was looked at.
    #[must_use]
    pub fn looked_at(mut self, lookup: Lookup) -> Self {
        self.lookups.push(lookup);
        self
    }

    /// Says which sockets were found, in the last look-up.
    #[must_use]
    pub fn with_sockets(mut self, sockets: impl IntoIterator<Item = SocketEvidence>) -> Self {
        let mut sockets = sockets.into_iter();
        self.sockets = sockets.by_ref().take(Self::MAX_LISTED).collect();
        self.more_sockets = sockets.count();
        self
    }

    /// Says which processes hold the sockets.
    #[must_use]
    pub fn with_holders(mut self, holders: impl IntoIterator<Item = Holder>) -> Self {
        let mut holders = holders.into_iter();
        self.holders = holders.by_ref().take(Self::MAX_LISTED).collect();
        self.more_holders = holders.count();
        self
    }

    /// Says what follows.
    #[must_use]
    pub fn concluding(mut self, conclusion: Conclusion) -> Self {
        self.conclusion = conclusion;
        self
    }

    /// The owner, if one was found.
    pub fn owner(&self) -> Option<&Owner> {
        match &self.conclusion {
            Conclusion::Known(owner) => Some(owner),
            _ => None,
        }
    }
}

/// Where a resolver looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lookup {
    /// A table that the host keeps.
    Table,
    /// The one socket that the kernel would give an answer of this flow to.
    ExactSocket {
        /// Index of the interface the question named; 0 for none.
        interface: u32,
    },
    /// Every socket that has the flow's source port.
    PortSharers,
    /// Sockets that send echo requests with this identifier.
    EchoSockets,
    /// Raw sockets, which send any packet of a protocol.
    RawSockets,
    /// The processes that hold a socket.
    Processes,
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("table of the host"),
            Self::ExactSocket { interface: 0 } => f.write_str("exact socket query"),
            Self::ExactSocket { interface } => {
                write!(f, "exact socket query on interface {interface}")
            }
            Self::PortSharers => f.write_str("all sockets of the source port"),
            Self::EchoSockets => f.write_str("ping sockets"),
            Self::RawSockets => f.write_str("raw sockets"),
            Self::Processes => f.write_str("processes that hold the socket"),
        }
    }
}

/// One socket that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketEvidence {
    /// Its own end. The port is the identifier of a ping socket, the protocol of a raw one.
    pub local: SocketAddr,
    /// The other end, unspecified if it is not connected.
    pub remote: SocketAddr,
    /// Its user.
    pub uid: u32,
    /// [`Owner::socket`]; 0 if no process holds it any more.
    pub socket: u64,
    /// Index of the interface it is bound to; `None` if it is not, or if that cannot be told.
    pub device: Option<u32>,
    /// Where it stands.
    pub state: SocketState,
    /// What it has to do with the flow.
    pub part: SocketPart,
}

impl fmt::Display for SocketEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> ", self.local)?;
        match self.state {
            SocketState::Connected | SocketState::Closing => write!(f, "{}", self.remote)?,
            _ => f.write_str("*")?,
        }
        write!(f, " uid {} socket {}", self.uid, self.socket)?;
        if let Some(device) = self.device {
            write!(f, " bound to interface {device}")?;
        }
        write!(f, " {}: {}", self.state, self.part)
    }
}

/// Where a socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketState {
    /// Not connected: it sends to anywhere.
    Open,
    /// Connected, or about to be.
    Connected,
    /// Waits for connections.
    Listening,
    /// On its way out (TCP after the first FIN, TIME-WAIT included).
    Closing,
}

impl fmt::Display for SocketState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Connected => "connected",
            Self::Listening => "listening",
            Self::Closing => "closing",
        })
    }
}

/// What a socket has to do with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketPart {
    /// It may have sent the packet.
    Candidate,
    /// It has another address or port of its own.
    OtherSource,
    /// It is connected to somewhere else.
    OtherDestination,
    /// It is bound to another interface.
    OtherInterface,
    /// It only accepts connections.
    Listens,
    /// No process holds it: whoever made it is gone, and its user is not told.
    Orphaned,
}

impl fmt::Display for SocketPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Candidate => "may have sent it",
            Self::OtherSource => "no, another source",
            Self::OtherDestination => "no, another destination",
            Self::OtherInterface => "no, bound to another interface",
            Self::Listens => "no, it only accepts connections",
            Self::Orphaned => "no process holds it",
        })
    }
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The socket: [`Owner::socket`].
    pub socket: u64,
    /// What it runs; `None` if that cannot be told.
    pub executable: Option<Arc<Path>>,
    /// Its control group; `None` if that cannot be told.
    pub cgroup: Option<Arc<Path>>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |path: &Option<Arc<Path>>| match path {
            Some(path) => path.display().to_string(),
            None => "?".to_owned(),
        };
        write!(f, "process {} holds socket {}", self.pid, self.socket)?;
        write!(f, ", exe {}", path(&self.executable))?;
        write!(f, ", cgroup {}", path(&self.cgroup))
    }
}

/// What follows from what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Conclusion {
    /// Exactly this owner.
    Known(Owner),
    /// The answer is not there yet.
    Pending,
    /// Nobody can be named.
    Unknown(Doubt),
    /// The resolver does not say.
    NotShown,
}

impl From<Conclusion> for OwnerAnswer {
    /// A conclusion that is not shown says nothing: Unknown.
    fn from(conclusion: Conclusion) -> Self {
        match conclusion {
            Conclusion::Known(owner) => Self::Known(owner),
            Conclusion::Pending => Self::Pending,
            Conclusion::Unknown(_) | Conclusion::NotShown => Self::Unknown,
        }
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(owner) => write!(f, "{owner}"),
            Self::Pending => f.write_str("not known yet"),
            Self::Unknown(doubt) => write!(f, "unknown: {doubt}"),
            Self::NotShown => f.write_str("this resolver does not show what it looks at"),
        }
    }
}

/// Why nobody can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Doubt {
    /// Nothing could have sent it.
    NoSocket,
    /// A socket that may have sent it is held by no process any more.
    Orphaned,
    /// Sockets of several users may have sent it.
    SeveralUsers,
    /// Processes of several executables or cgroups hold the socket.
    SeveralProcesses,
    /// The process that holds it may not be looked into, or is gone.
    ProcessHidden,
    /// More sockets than are looked at.
    TooMany,
    /// The look-up failed.
    LookupFailed,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSocket => "no socket could have sent it",
            Self::Orphaned => "no process holds a socket that may have sent it",
            Self::SeveralUsers => "sockets of several users may have sent it",
            Self::SeveralProcesses => "processes of several executables or cgroups hold the socket",
            Self::ProcessHidden => "the process that holds the socket cannot be looked into",
            Self::TooMany => "more sockets than are looked at",
            Self::LookupFailed => "the look-up failed",
        })
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (asked for {})", self.query.flow, self.query.detail)?;
        for lookup in &self.lookups {
            writeln!(f, "  looked at: {lookup}")?;
        }
        for socket in &self.sockets {
            writeln!(f, "  socket {socket}")?;
        }
        if self.more_sockets > 0 {
            writeln!(f, "  and {} more sockets", self.more_sockets)?;
        }
        for holder in &self.holders {
            writeln!(f, "  {holder}")?;
        }
        if self.more_holders > 0 {
            writeln!(f, "  and {} more processes", self.more_holders)?;
        }
        write!(f, "  owner: {}", self.conclusion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FlowKey, OwnerDetail, Protocol};

    #[test]
    fn a_list_is_bounded_and_says_what_it_leaves_out() {
        let flow = FlowKey::new(
            Protocol::UDP,
            ([10, 5, 0, 2].into(), 5353),
            ([192, 0, 2, 1].into(), 53),
        );
        let query = OwnerQuery {
            flow,
            detail: OwnerDetail::Process,
        };
        let socket = |n: u64| SocketEvidence {
            local: ([10, 5, 0, 2], 5353).into(),
            remote: ([0, 0, 0, 0], 0).into(),
            uid: 1000,
            socket: n,
            device: Some(7),
            state: SocketState::Open,
            part: SocketPart::Candidate,
        };
        let evidence = Evidence::new(query)
            .looked_at(Lookup::ExactSocket { interface: 7 })
            .with_sockets((0..30).map(socket))
            .concluding(Conclusion::Unknown(Doubt::SeveralUsers));
        assert_eq!(evidence.sockets.len(), Evidence::MAX_LISTED);
        assert_eq!(evidence.more_sockets, 30 - Evidence::MAX_LISTED);
        let text = evidence.to_string();
        assert_eq!(text.lines().count(), 1 + 1 + Evidence::MAX_LISTED + 1 + 1);
        for part in [
            "exact socket query on interface 7",
            "10.5.0.2:5353 -> * uid 1000 socket 3 bound to interface 7 open: may have sent it",
            "and 14 more sockets",
            "unknown: sockets of several users",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(OwnerAnswer::from(evidence.conclusion), OwnerAnswer::Unknown);
    }
}
