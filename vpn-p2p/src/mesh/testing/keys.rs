//! [`Keys`] without cryptography: the layout of WireGuard's messages, and codes that only the two ends
//! of a session compute as long as nobody divides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BytesMut;

use super::clock::Clock;
use super::session::FakeSession;
use crate::mesh::keys::{Admission, Keys};
use crate::session::Session;
use crate::wg_quick::PublicKey;

/// Bytes of a first message (whitepaper §5.4.2).
pub(super) const INITIATION: usize = 148;
/// Bytes of a second message (§5.4.3).
pub(super) const RESPONSE: usize = 92;
/// Bytes of a code: as long as Poly1305's tag.
pub(super) const CODE: usize = 16;
/// Bytes before what a data message holds (§5.4.6).
pub(super) const DATA_HEADER: usize = 16;

/// A point that everybody begins from; odd, so that multiplying by it loses nothing.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// A node's fake key.
#[derive(Clone, Debug)]
pub struct FakeKeys {
    secret: u64,
    clock: Clock,
    next_index: Arc<AtomicU32>,
}

impl FakeKeys {
    /// The key with this number. Different numbers are different keys.
    pub fn new(number: u64, clock: Clock) -> Self {
        Self {
            secret: mix(number) | 1,
            clock,
            next_index: Arc::new(AtomicU32::new(mix(number ^ BASE) as u32)),
        }
    }

    /// What this key and another one's public part have in common: the same from both sides, since
    /// a·(b·G) = b·(a·G).
    pub(super) fn shared(&self, peer: PublicKey) -> u64 {
        self.secret.wrapping_mul(point(peer))
    }
}

/// The number in a public key.
fn point(key: PublicKey) -> u64 {
    u64::from_le_bytes(*key.as_bytes().first_chunk().unwrap_or(&[0; 8]))
}

fn public(secret: u64) -> PublicKey {
    let point = secret.wrapping_mul(BASE);
    let mut bytes = [0; 32];
    for (at, part) in bytes.chunks_exact_mut(8).enumerate() {
        let value = if at == 0 {
            point
        } else {
            mix(point ^ at as u64)
        };
        part.copy_from_slice(&value.to_le_bytes());
    }
    PublicKey::from_bytes(bytes)
}

impl Keys for FakeKeys {
    fn public(&self) -> PublicKey {
        public(self.secret)
    }

    fn session(&self, peer: PublicKey) -> Box<dyn Session> {
        Box::new(FakeSession::new(
            self.public(),
            self.shared(peer),
            self.clock.clone(),
            self.next_index.clone(),
        ))
    }

    fn admit(&self, _from: SocketAddr, datagram: BytesMut) -> Admission {
        match (datagram.first(), datagram.len()) {
            (Some(1), INITIATION) => {
                let key = PublicKey::from_bytes(*datagram[8..].first_chunk().unwrap_or(&[0; 32]));
                if is_authentic(self.shared(key), &datagram) {
                    Admission::Initiation(key, datagram)
                } else {
                    Admission::Rejected
                }
            }
            (Some(2), RESPONSE) => Admission::ForIndex(word(&datagram, 8), datagram),
            (Some(4), DATA_HEADER_AND_CODE..) => Admission::ForIndex(word(&datagram, 4), datagram),
            _ => Admission::Rejected,
        }
    }
}

const DATA_HEADER_AND_CODE: usize = DATA_HEADER + CODE;

/// An index that no session of this node has.
pub(super) fn draw(next: &AtomicU32) -> u32 {
    next.fetch_add(1, Ordering::Relaxed)
}

/// Four bytes of a message, 0 if it is too short.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u32::from_le_bytes(*word))
}

/// Eight bytes of a message, 0 if it is too short.
pub(super) fn long(bytes: &[u8], at: usize) -> u64 {
    let long = bytes.get(at..).and_then(<[u8]>::first_chunk);
    long.map_or(0, |long| u64::from_le_bytes(*long))
}

/// Appends the code over everything before it.
pub(super) fn seal(key: u64, out: &mut Vec<u8>, start: usize) {
    let code = code(key, &out[start..]);
    out.extend_from_slice(&code);
}

/// Whether the last bytes are the code over the rest.
pub(super) fn is_authentic(key: u64, message: &[u8]) -> bool {
    message
        .split_last_chunk::<CODE>()
        .is_some_and(|(body, tag)| code(key, body) == *tag)
}

fn code(key: u64, bytes: &[u8]) -> [u8; CODE] {
    let mut state = mix(key ^ bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = mix(state ^ u64::from_le_bytes(word));
    }
    let mut code = [0; CODE];
    code[..8].copy_from_slice(&state.to_le_bytes());
    code[8..].copy_from_slice(&mix(state).to_le_bytes());
    code
}

/// SplitMix64's mixing.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(BASE);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
