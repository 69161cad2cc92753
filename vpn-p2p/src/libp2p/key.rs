//! Decides how a peer is called by libp2p: both names stand for one Ed25519 key. Pure.

use libp2p::identity::{Keypair, PublicKey, ed25519};
use libp2p::multihash::Multihash;
use vpn_core::PeerId;

use crate::identity::Identity;

/// What is in front of an Ed25519 key in libp2p's encoding of public keys: its type, and 32 bytes.
const PREFIX: [u8; 4] = [0x08, 0x01, 0x12, 0x20];

/// Code of the multihash that is the hashed bytes themselves, as used for keys so short.
const IDENTITY_HASH: u64 = 0;

/// The name of a peer in libp2p; `None` if its bytes are no point of the curve.
pub fn to_libp2p(peer: PeerId) -> Option<libp2p::PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&peer.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// Whom a name of libp2p stands for; `None` if its key is not an Ed25519 key: such are not of us.
pub fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    let hash: &Multihash<64> = peer.as_ref();
    let key = hash.digest().strip_prefix(&PREFIX)?;
    (hash.code() == IDENTITY_HASH).then_some(PeerId(key.try_into().ok()?))
}

/// The identity as libp2p takes it.
pub(super) fn keypair(identity: &Identity) -> Option<Keypair> {
    let mut secret = identity.reveal_bytes();
    Keypair::ed25519_from_bytes(&mut *secret).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_lead_to_each_other_and_other_keys_to_nobody() {
        let identity = Identity::generate().unwrap();
        let theirs = to_libp2p(identity.id()).unwrap();
        assert_eq!(from_libp2p(&theirs), Some(identity.id()));
        let pair = keypair(&identity).unwrap();
        assert_eq!(pair.public().to_peer_id(), theirs);
        // Random bytes: a name by a hash, as long keys have it.
        assert_eq!(from_libp2p(&libp2p::PeerId::random()), None);
    }
}
