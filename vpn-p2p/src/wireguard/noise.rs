//! [`Session`] over gotatun's `Tunn`, and the gate before it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use gotatun::noise::errors::WireGuardError;
use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::x25519;
use vpn_core::DropReason;

use crate::session::{Opened, Session, Ticked};
use crate::wg_quick::{Peer, PrivateKey, PublicKey};

/// Handshake messages per second and source address before cookies are demanded (whitepaper
/// §5.3); the value gotatun and the kernel's users live with.
const HANDSHAKES_PER_SECOND: u64 = 100;

fn into_bytes(kind: WgKind) -> BytesMut {
    std::mem::take(Packet::from(kind).buf_mut())
}

/// Checks what arrives on the socket before any peer's state is touched.
pub(crate) struct Gate {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    limiter: Arc<RateLimiter>,
    indices: IndexTable,
}

/// What the gate says of a datagram.
#[cfg_attr(
    not(feature = "mesh"),
    allow(unreachable_pub, reason = "public by way of the mesh's keys")
)]
#[derive(Debug)]
pub enum Admission {
    /// The first message of a handshake, from the peer with this key.
    Initiation(PublicKey, BytesMut),
    /// For the session we named so.
    ForIndex(u32, BytesMut),
    /// To be answered with this, without touching any state (cookie).
    Reply(BytesMut),
    /// Not WireGuard, or not for our key.
    Rejected,
}

impl Gate {
    pub(crate) fn new(key: &PrivateKey) -> Self {
        let secret = key.to_secret();
        let public = x25519::PublicKey::from(&secret);
        Self {
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND)),
            indices: IndexTable::from_os_rng(),
            secret,
            public,
        }
    }

    /// A new session with `peer`.
    pub(crate) fn session(&self, peer: &Peer) -> NoiseSession {
        let preshared = peer.preshared_key.as_ref().map(|key| *key.bytes());
        self.tunnel(peer.public_key, preshared, peer.persistent_keepalive)
    }

    /// A new session with who has this key, without a preshared one and silent when idle.
    #[cfg(feature = "mesh")]
    pub(crate) fn session_with(&self, peer: PublicKey) -> NoiseSession {
        self.tunnel(peer, None, None)
    }

    fn tunnel(
        &self,
        peer: PublicKey,
        preshared: Option<[u8; 32]>,
        keepalive: Option<u16>,
    ) -> NoiseSession {
        NoiseSession {
            tunn: Tunn::new(
                self.secret.clone(),
                x25519::PublicKey::from(*peer.as_bytes()),
                preshared,
                keepalive,
                self.indices.clone(),
                self.limiter.clone(),
            ),
            proven: false,
        }
    }

    pub(crate) fn admit(&self, from: SocketAddr, datagram: BytesMut) -> Admission {
        let packet = Packet::from_bytes(datagram);
        match self.limiter.verify_packet(from, packet) {
            Ok(WgKind::HandshakeInit(init)) => {
                match parse_handshake_anon(&self.secret, &self.public, &init) {
                    Ok(half) => Admission::Initiation(
                        PublicKey::from_bytes(half.peer_static_public),
                        into_bytes(init.into()),
                    ),
                    Err(_) => Admission::Rejected,
                }
            }
            Ok(kind) => {
                let index = match &kind {
                    WgKind::HandshakeInit(_) => return Admission::Rejected,
                    WgKind::HandshakeResp(p) => p.receiver_idx.get(),
                    WgKind::CookieReply(p) => p.receiver_idx.get(),
                    WgKind::Data(p) => p.header.receiver_idx.get(),
                };
                Admission::ForIndex(index, into_bytes(kind))
            }
            Err(TunnResult::WriteToNetwork(cookie)) => Admission::Reply(into_bytes(cookie)),
            Err(_) => Admission::Rejected,
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = PublicKey::from_bytes(self.public.to_bytes());
        f.debug_struct("Gate").field("public", &public).finish()
    }
}

/// The name our side gave to a handshake: bytes 4 to 7 of initiation and response (whitepaper
/// §5.4.2, §5.4.3). `None` for other messages.
pub(crate) fn sender_index(datagram: &[u8]) -> Option<u32> {
    match datagram {
        [1 | 2, 0, 0, 0, a, b, c, d, ..] => Some(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// The session that a data message is for, by the name we gave it: bytes 4 to 7 (whitepaper §5.4.6).
/// `None` for other messages, and for one that is too short for its tag.
#[inline]
pub(crate) fn data_index(datagram: &[u8]) -> Option<u32> {
    match datagram {
        [4, 0, 0, 0, a, b, c, d, ..] if datagram.len() >= 32 => {
            Some(u32::from_le_bytes([*a, *b, *c, *d]))
        }
        _ => None,
    }
}

/// Whether a datagram is the second message of a handshake (whitepaper §5.4.3).
pub(super) fn is_response(datagram: &[u8]) -> bool {
    matches!(datagram, [2, 0, 0, 0, ..])
}

/// One peer's `Tunn`.
pub(crate) struct NoiseSession {
    tunn: Tunn,
    /// There is a session, and the peer showed that it has its keys: as initiator by its response,
    /// as responder by the first packet sealed with them (whitepaper §5.4.6). gotatun would already
    /// send before that. Noted here because asking gotatun reads the clock.
    proven: bool,
}

impl Session for NoiseSession {
    fn seal(&mut self, plain: BytesMut, out: &mut Vec<u8>) -> bool {
        if !self.proven {
            return false;
        }
        match self
            .tunn
            .encapsulate_with_session(Packet::from_bytes(plain))
        {
            Ok(sealed) => {
                let bytes: Packet = sealed.into();
                out.extend_from_slice(bytes.as_ref());
                true
            }
            Err(_) => {
                self.proven = false;
                false
            }
        }
    }

    fn open(&mut self, datagram: BytesMut) -> Opened {
        let Ok(kind) = Packet::from_bytes(datagram).try_into_wg() else {
            return Opened::Rejected(DropReason::Malformed);
        };
        let response = matches!(kind, WgKind::HandshakeResp(_));
        match self.tunn.handle_incoming_packet(kind) {
            TunnResult::Done => Opened::Nothing,
            TunnResult::WriteToNetwork(reply) => {
                self.proven |= response;
                Opened::Reply(into_bytes(reply))
            }
            TunnResult::WriteToTunnel(mut packet) => {
                self.proven = true;
                if packet.is_empty() {
                    Opened::Keepalive
                } else {
                    Opened::Packet(std::mem::take(packet.buf_mut()))
                }
            }
            TunnResult::Err(WireGuardError::NoCurrentSession) => {
                Opened::Rejected(DropReason::NoSession)
            }
            TunnResult::Err(_) => Opened::Rejected(DropReason::NotAuthentic),
        }
    }

    fn initiate(&mut self, again: bool) -> Option<BytesMut> {
        let init = self.tunn.format_handshake_initiation(again)?;
        Some(into_bytes(init.into()))
    }

    fn forget(&mut self) {
        self.tunn.reset();
        self.proven = false;
    }

    fn tick(&mut self) -> Ticked {
        let ticked = self.tunn.update_timers();
        // Sessions go nowhere else.
        self.proven &= self.tunn.time_since_last_handshake().is_some();
        match ticked {
            Ok(None) => Ticked::Idle,
            Ok(Some(kind)) => Ticked::Send(into_bytes(kind)),
            Err(_) => {
                // The only error is "expired", and gotatun repeats it until it is reset.
                self.tunn.reset();
                self.proven = false;
                Ticked::Expired
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.proven
    }

    fn handshake_age(&self) -> Option<Duration> {
        self.tunn.time_since_last_handshake()
    }
}

impl fmt::Debug for NoiseSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoiseSession")
            .field("proven", &self.proven)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wg_quick::WgQuick;

    /// Two ends with a session that both have proven.
    fn pair() -> (NoiseSession, NoiseSession) {
        let keys = [(); 2].map(|()| PrivateKey::generate().unwrap());
        let [mut a, mut b] = [(0, 1), (1, 0)].map(|(me, other): (usize, usize)| {
            let file = format!(
                "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\n",
                *keys[me].reveal_base64(),
                keys[other].public(),
            );
            let config = WgQuick::parse("test", &file).unwrap();
            Gate::new(&keys[me]).session(&config.peers[0])
        });
        let init = a.initiate(false).unwrap();
        let Opened::Reply(response) = b.open(init) else {
            panic!("no response");
        };
        let Opened::Reply(keepalive) = a.open(response) else {
            panic!("no keepalive");
        };
        assert!(!b.is_ready(), "not proven");
        assert!(matches!(b.open(keepalive), Opened::Keepalive));
        assert!(a.is_ready() && b.is_ready());
        (a, b)
    }

    fn seal(session: &mut NoiseSession) -> BytesMut {
        let mut out = Vec::new();
        assert!(session.seal(BytesMut::from(&[7; 32][..]), &mut out));
        BytesMut::from(&out[..])
    }

    /// Pitfall: a batch of super-packets reorders more than a window of 64 forgives.
    #[test]
    fn a_packet_may_come_eight_thousand_late_and_once() {
        const WINDOW: usize = 8192;
        let (mut a, mut b) = pair();
        let sealed: Vec<BytesMut> = (0..WINDOW + 8).map(|_| seal(&mut a)).collect();
        let mut opens = |at: usize| matches!(b.open(sealed[at].clone()), Opened::Packet(_));
        assert!(opens(WINDOW + 7));
        assert!(opens(8), "the oldest in the window");
        assert!(!opens(8), "again");
        assert!(!opens(7), "too old");
        assert!(opens(4000));
    }

    #[test]
    fn data_is_told_by_its_first_bytes_and_is_as_long_as_its_tag() {
        let (mut a, _) = pair();
        let datagram = seal(&mut a);
        let name = u32::from_le_bytes([datagram[4], datagram[5], datagram[6], datagram[7]]);
        assert_eq!(data_index(&datagram), Some(name));
        assert_eq!(data_index(&datagram[..31]), None);
        let init = a.initiate(true).unwrap();
        assert_eq!(data_index(&init), None);
        a.forget();
        assert!(!a.is_ready());
    }
}
