//! The cryptography of one node's sessions, behind a trait: WireGuard's, or a fake for simulations
//! on virtual time.

use std::fmt::Debug;
use std::net::SocketAddr;

use bytes::BytesMut;

use crate::session::Session;
use crate::wg_quick::{PrivateKey, PublicKey};
use crate::wireguard::noise::{self, Gate};

pub use crate::wireguard::noise::Admission;

/// One node's session key, what is made of it, and what stands before it.
pub trait Keys: Debug + Send {
    /// The public part, as records name it.
    fn public(&self) -> PublicKey;

    /// A new session with who has this key. It has no handshake yet.
    fn session(&self, peer: PublicKey) -> Box<dyn Session>;

    /// Checks a datagram that is WireGuard's (first byte 1 to 4) and no data, before any session is
    /// touched: whose is it? Under load it demands cookies from `from` (whitepaper §5.3).
    fn admit(&self, from: SocketAddr, datagram: BytesMut) -> Admission;
}

/// WireGuard's, by gotatun.
#[derive(Debug)]
pub struct NoiseKeys {
    gate: Gate,
    public: PublicKey,
}

impl NoiseKeys {
    /// Sessions of this key.
    pub fn new(key: &PrivateKey) -> Self {
        Self {
            gate: Gate::new(key),
            public: key.public(),
        }
    }
}

impl Keys for NoiseKeys {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn session(&self, peer: PublicKey) -> Box<dyn Session> {
        Box::new(self.gate.session_with(peer))
    }

    fn admit(&self, from: SocketAddr, datagram: BytesMut) -> Admission {
        self.gate.admit(from, datagram)
    }
}

/// The session that a data message is for, by the name its receiver gave it (whitepaper §5.4.6).
#[inline]
pub fn data_index(datagram: &[u8]) -> Option<u32> {
    noise::data_index(datagram)
}

/// The name the sender of a handshake message gave to its session (whitepaper §5.4.2, §5.4.3).
pub fn sender_index(datagram: &[u8]) -> Option<u32> {
    noise::sender_index(datagram)
}
