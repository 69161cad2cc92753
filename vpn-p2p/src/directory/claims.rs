//! Whose an address is that several claim: decided from the records alone, so that everybody who has
//! the same records decides the same.
//!
//! The claim with the smallest [`rank`] wins: a hash of the address and the key. Neither the order in
//! which records came nor what they say about time counts: a time that a peer says about itself can be
//! any, and "who came first" differs from place to place. A new key is as likely to win as an old one,
//! so a node asks before it claims ([`Pool`](super::Pool) has further choices), and an address that
//! nobody may take is leased where one place decides (etcd), or bound to keys by configuration.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use vpn_core::PeerId;

/// What ranks begin with, so that they are no hash of something else.
const CONTEXT: &[u8] = b"vpn-directory claim v1\0";

/// Where a claim stands among those of its address; the smallest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank([u8; 32]);

impl Rank {
    /// None is before it.
    pub(super) const FIRST: Self = Self([0; 32]);
}

/// The rank of this peer's claim.
pub fn rank(address: IpAddr, peer: PeerId) -> Rank {
    let mut hash = Sha256::new();
    hash.update(CONTEXT);
    match address {
        IpAddr::V4(address) => hash.update(address.octets()),
        IpAddr::V6(address) => hash.update(address.octets()),
    }
    hash.update(peer.0);
    Rank(hash.finalize().into())
}

/// Whose the address is, of those who claim it; nobody's if there are none.
pub fn winner(address: IpAddr, claimants: impl IntoIterator<Item = PeerId>) -> Option<PeerId> {
    claimants
        .into_iter()
        .min_by_key(|peer| (rank(address, *peer), *peer))
}

/// Several claim one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub winner: PeerId,
    /// Who claims it as well.
    pub losers: Vec<PeerId>,
}

impl Conflict {
    /// Writes it to the log.
    pub fn report(&self) {
        let Self {
            address,
            winner,
            losers,
        } = self;
        tracing::warn!(%address, %winner, ?losers, "several peers claim one address");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_order_does_not_matter(
            mut peers in proptest::collection::vec(any::<[u8; 32]>(), 1..8),
            address: [u8; 4],
            turn in 0usize..8,
        ) {
            let decide = |peers: &[[u8; 32]]| winner(address.into(), peers.iter().map(|p| PeerId(*p)));
            let first = decide(&peers);
            prop_assert!(first.is_some_and(|peer| peers.contains(&peer.0)));
            let turn = turn % peers.len();
            peers.rotate_left(turn);
            peers.reverse();
            prop_assert_eq!(decide(&peers), first);
            // Who loses may leave, and nothing changes.
            peers.retain(|peer| Some(PeerId(*peer)) == first || peer[0] % 2 == 0);
            prop_assert_eq!(decide(&peers), first);
        }
    }

    #[test]
    fn no_peer_wins_everywhere() {
        let peers = [PeerId([1; 32]), PeerId([2; 32])];
        let won = |peer| {
            let all = (0..=255).map(|host| IpAddr::from([10, 0, 0, host]));
            all.filter(|address| winner(*address, peers) == Some(peer))
                .count()
        };
        assert!((64..192).contains(&won(peers[0])), "{}", won(peers[0]));
        assert_eq!(won(peers[0]) + won(peers[1]), 256);
        assert_eq!(winner([10, 0, 0, 1].into(), []), None);
    }
}
