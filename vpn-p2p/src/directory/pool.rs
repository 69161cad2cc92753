//! Which addresses of a prefix may be given to nodes, and in which order a node tries them.
//!
//! Of an IPv4 prefix the first (network) and last (broadcast) address are never given, and of an IPv6
//! prefix the first (subnet-router anycast, RFC 4291 §2.6.1); prefixes of one or two IPv4 addresses
//! (RFC 3021), one or two IPv6 addresses (RFC 6164) have no such ones. Everything else is a node's,
//! unless it is reserved: there is no gateway inside a mesh, so none is kept back for one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use vpn_core::PeerId;

/// What the hash of a node's first choice begins with.
const CONTEXT: &[u8] = b"vpn-directory address v1\0";

/// The addresses of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    net: IpNet,
    reserved: BTreeSet<IpAddr>,
}

impl Pool {
    /// All addresses of this prefix that are hosts'.
    pub fn new(net: IpNet) -> Self {
        Self {
            net: net.trunc(),
            reserved: BTreeSet::new(),
        }
    }

    /// Gives none of these to nodes.
    #[must_use]
    pub fn reserve(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let net = self.net;
        let inside = addresses.into_iter().filter(|a| net.contains(a));
        self.reserved.extend(inside);
        self
    }

    /// The prefix.
    pub const fn net(&self) -> IpNet {
        self.net
    }

    /// How many addresses there are for nodes; `u128::MAX` stands for that and one more.
    pub fn size(&self) -> u128 {
        let (first, count) = self.hosts();
        let reserved = self.reserved.iter().filter_map(|a| self.number(*a));
        let reserved =
            reserved.filter(|number| (first..first.saturating_add(count)).contains(number));
        count - reserved.count() as u128
    }

    /// Whether this address may be a node's.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, count) = self.hosts();
        let number = self.number(address);
        number.is_some_and(|number| number >= first && number - first < count)
            && !self.reserved.contains(&address)
    }

    /// All addresses for nodes, in the order in which this node tries them: from a place that follows
    /// from its key, so that a node comes back to the same address, and a thousand nodes that start at
    /// once rarely try the same.
    pub fn choices(&self, peer: PeerId) -> impl Iterator<Item = IpAddr> {
        let (first, count) = self.hosts();
        let start = self.start(peer, count);
        (0..count)
            .map(move |step| first + (start + step) % count.max(1))
            .filter_map(|number| self.address(number))
            .filter(|address| !self.reserved.contains(address))
    }

    /// A number below `count`.
    fn start(&self, peer: PeerId, count: u128) -> u128 {
        let mut hash = Sha256::new();
        hash.update(CONTEXT);
        hash.update(self.net.to_string());
        hash.update([0]);
        hash.update(peer.0);
        let hash: [u8; 32] = hash.finalize().into();
        let mut number = [0; 16];
        number.copy_from_slice(&hash[..16]);
        // Half of the range, so that adding a step never overflows.
        (u128::from_be_bytes(number) % count.max(1)).min(u128::MAX / 2)
    }

    /// Number of the first address for hosts within the prefix, and how many follow.
    fn hosts(&self) -> (u128, u128) {
        let bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        match self.net {
            _ if bits < 2 => (0, all),
            IpNet::V4(_) => (1, all - 2),
            IpNet::V6(_) => (1, all - 1),
        }
    }

    fn number(&self, address: IpAddr) -> Option<u128> {
        if !self.net.contains(&address) {
            return None;
        }
        Some(bits(address) - bits(self.net.network()))
    }

    fn address(&self, number: u128) -> Option<IpAddr> {
        let whole = bits(self.net.network()).checked_add(number)?;
        match self.net {
            IpNet::V4(_) => Some(IpAddr::V4(u32::try_from(whole).ok()?.into())),
            IpNet::V6(_) => Some(IpAddr::V6(whole.into())),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(net: &str) -> Pool {
        Pool::new(net.parse().unwrap())
    }

    #[test]
    fn a_24_has_254_addresses_and_each_is_tried_once() {
        let pool = pool("10.7.0.9/24");
        assert_eq!(pool.size(), 254);
        let all: BTreeSet<IpAddr> = pool.choices(PeerId([3; 32])).collect();
        assert_eq!(all.len(), 254);
        for never in ["10.7.0.0", "10.7.0.255", "10.7.1.1", "fd00::1"] {
            let never = never.parse().unwrap();
            assert!(!all.contains(&never) && !pool.contains(never));
        }
        assert!(all.iter().all(|address| pool.contains(*address)));
    }

    #[test]
    fn small_and_large_prefixes() {
        for (net, size) in [
            ("10.0.0.1/32", 1),
            ("10.0.0.0/31", 2),
            ("10.0.0.0/30", 2),
            ("0.0.0.0/0", (1 << 32) - 2),
            ("fd00::1/128", 1),
            ("fd00::/127", 2),
            ("fd00::/126", 3),
            ("fd00::/64", (1 << 64) - 1),
            ("::/0", u128::MAX - 1),
        ] {
            let pool = pool(net);
            assert_eq!(pool.size(), size, "{net}");
            for peer in 0..20 {
                let tried: Vec<IpAddr> = pool.choices(PeerId([peer; 32])).take(5).collect();
                assert_eq!(tried.len() as u128, size.min(5), "{net}");
                assert!(tried.iter().all(|address| pool.contains(*address)), "{net}");
            }
        }
    }

    #[test]
    fn what_is_reserved_is_not_given() {
        let gateway = "10.0.0.1".parse().unwrap();
        let pool = pool("10.0.0.0/29").reserve([gateway, "10.9.9.9".parse().unwrap()]);
        assert_eq!((pool.size(), pool.contains(gateway)), (5, false));
        assert_eq!(pool.choices(PeerId([1; 32])).count(), 5);
    }

    proptest! {
        #[test]
        fn a_node_comes_back_to_its_choice_and_others_choose_otherwise(keys in proptest::collection::hash_set(any::<[u8; 32]>(), 20)) {
            let pool = pool("fd00::/48");
            let first = |key: &[u8; 32]| pool.choices(PeerId(*key)).next();
            let chosen: BTreeSet<_> = keys.iter().map(first).collect();
            prop_assert_eq!(chosen.len(), 20);
            prop_assert!(keys.iter().all(|key| chosen.contains(&first(key))));
        }
    }
}
