//! The words for where a peer stands.

/// Where a peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Packets find it; its record is not known yet.
    Registered,
    /// Its record is known; nobody wants it now.
    Announced,
    /// Attempts are made.
    Connecting,
    /// Connected, by way of a relay.
    Relayed,
    /// Connected, directly.
    Direct,
    /// There was a session, and there is none, or no way: attempts are made.
    Lost,
}

impl Stage {
    /// The name used in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Announced => "announced",
            Self::Connecting => "connecting",
            Self::Relayed => "relayed",
            Self::Direct => "direct",
            Self::Lost => "lost",
        }
    }
}
