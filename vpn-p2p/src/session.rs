//! What one peer's cryptography does: seals, opens, keeps time. No sockets.
//!
//! A [`Session`] stands between the transport and the library that implements WireGuard, so that
//! the transport's decisions can be tested with a fake. Implementations may keep a clock of their
//! own (gotatun does), so the transport calls [`Session::tick`] every [`TICK`] for every peer:
//! sessions expire only there.

use std::fmt::Debug;
use std::time::Duration;

use bytes::BytesMut;
use vpn_core::DropReason;

/// How often [`Session::tick`] is called. WireGuard's shortest timers are seconds, its jitter a
/// third of one (whitepaper §6.1).
pub const TICK: Duration = Duration::from_millis(250);

/// What became of a datagram from the peer.
#[derive(Debug)]
#[must_use]
pub enum Opened {
    /// The peer sent these bytes: an IP packet, possibly padded behind.
    Packet(BytesMut),
    /// Authentic, and nothing for us in it (keepalive).
    Keepalive,
    /// Authentic handshake message, to be answered with this datagram.
    Reply(BytesMut),
    /// Understood, but proves nothing and needs no answer (cookie).
    Nothing,
    /// Not authentic, replayed, or for a session that is gone.
    Rejected(DropReason),
}

/// What the clock brought.
#[derive(Debug)]
#[must_use]
pub enum Ticked {
    /// Nothing to do.
    Idle,
    /// This datagram is to be sent: a keepalive, or a handshake message.
    Send(BytesMut),
    /// The session and its handshake were given up and forgotten; a new one starts with
    /// [`Session::initiate`] or with a message from the peer.
    Expired,
}

/// The cryptographic state shared with one peer.
pub trait Session: Debug + Send {
    /// Seals `plain`, which is padded already, appending the datagram to `out`: 32 bytes longer.
    /// An empty one is a keepalive. The buffer should be dropped before the call returns, so that
    /// the caller can use its memory again.
    ///
    /// Returns `false`, and appends nothing, while there is no session.
    fn seal(&mut self, plain: BytesMut, out: &mut Vec<u8>) -> bool;

    /// Takes a datagram that the peer may have sent.
    fn open(&mut self, datagram: BytesMut) -> Opened;

    /// Starts a handshake and returns its first message; `None` if one is under way and `again`
    /// is not set.
    fn initiate(&mut self, again: bool) -> Option<BytesMut>;

    /// Forgets sessions and handshakes: from now on it is silent, until [`initiate`](Self::initiate)
    /// or a message from the peer.
    fn forget(&mut self);

    /// Lets timers fire. Called every [`TICK`].
    fn tick(&mut self) -> Ticked;

    /// Whether [`seal`](Self::seal) would seal: both ends have the keys, and the peer proved it.
    fn is_ready(&self) -> bool;

    /// Time since the last completed handshake, if there is a session.
    fn handshake_age(&self) -> Option<Duration>;
}
