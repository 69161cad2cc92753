//! What happens to the network below the tunnels.

use std::fmt;

/// Something happened to the network below the tunnels, or to the machine.
///
/// Whoever watches the system says so (on Linux `vpn-tun`'s `watch`, on a phone the host), once
/// per happening: a burst of system messages is one event, and what the tunnels' own interfaces do
/// is none. Every transport hears of it by
/// [`network_changed`](crate::TunnelTransport::network_changed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// There is a network, and it is another one, or another way to it: an address that was in use
    /// is gone, a default route moved, a link came back.
    Changed,
    /// There is no network any more.
    Lost,
    /// The machine is about to sleep. Not every system says so: after a sleep that was not
    /// announced there is only [`Woke`](Self::Woke).
    Slept,
    /// The machine slept and is awake. The other ends may have given up on us meanwhile, and the
    /// network may be another one.
    Woke,
}

impl NetworkEvent {
    /// The name used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Lost => "lost",
            Self::Slept => "slept",
            Self::Woke => "woke",
        }
    }

    /// Whether what was connected before has to prove itself again.
    pub const fn calls_for_reconnect(self) -> bool {
        matches!(self, Self::Changed | Self::Woke)
    }
}

impl fmt::Display for NetworkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
