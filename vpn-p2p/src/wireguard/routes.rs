//! Decides which peer an address belongs to (cryptokey routing, whitepaper §2). Pure.

use std::cell::Cell;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// AllowedIPs of all peers; the longest prefix decides.
#[derive(Debug, Default)]
pub(super) struct Routes {
    v4: PrefixMap<Ipv4Net, usize>,
    v6: PrefixMap<Ipv6Net, usize>,
    /// What was asked last, and the answer: packets of one flow come in a row.
    last: Cell<Option<(IpAddr, Option<usize>)>>,
}

impl Routes {
    pub(super) fn insert(&mut self, network: IpNet, peer: usize) {
        self.last.set(None);
        match network {
            IpNet::V4(network) => self.v4.insert(network.trunc(), peer),
            IpNet::V6(network) => self.v6.insert(network.trunc(), peer),
        };
    }

    /// The peer behind which this address is.
    #[inline]
    pub(super) fn peer(&self, address: IpAddr) -> Option<usize> {
        if let Some((asked, peer)) = self.last.get()
            && asked == address
        {
            return peer;
        }
        let peer = match address {
            IpAddr::V4(a) => self.v4.get_lpm(&Ipv4Net::from(a)).map(|(_, peer)| *peer),
            IpAddr::V6(a) => self.v6.get_lpm(&Ipv6Net::from(a)).map(|(_, peer)| *peer),
        };
        self.last.set(Some((address, peer)));
        peer
    }
}

/// Addresses and length of an IP packet by its own header; all else is the router's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// At most the bytes that are there: what lies behind is padding.
    pub(crate) len: usize,
}

impl Inner {
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (src, dst, len) = match bytes.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = bytes.first_chunk()?;
                let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
                if len < 20 {
                    return None;
                }
                let address = |at: usize| {
                    IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]])
                };
                (address(12), address(16), len)
            }
            6 => {
                let header: &[u8; 40] = bytes.first_chunk()?;
                let len = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
                let address = |at: usize| {
                    let mut octets = [0; 16];
                    octets.copy_from_slice(&header[at..at + 16]);
                    IpAddr::from(octets)
                };
                (address(8), address(24), len)
            }
            _ => return None,
        };
        (len <= bytes.len()).then_some(Self { src, dst, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_prefix_decides() {
        let mut routes = Routes::default();
        routes.insert("0.0.0.0/0".parse().unwrap(), 0);
        routes.insert("10.1.0.0/16".parse().unwrap(), 1);
        routes.insert("10.1.2.3/32".parse().unwrap(), 2);
        let peer = |text: &str| routes.peer(text.parse().unwrap());
        assert_eq!(peer("9.9.9.9"), Some(0));
        assert_eq!(peer("10.1.9.9"), Some(1));
        assert_eq!(peer("10.1.2.3"), Some(2));
        assert_eq!(peer("fd00::1"), None);
        assert_eq!(peer("fd00::1"), None);
        assert_eq!(peer("10.1.2.3"), Some(2));
        // What was answered before does not count any more.
        routes.insert("10.1.2.3/32".parse().unwrap(), 3);
        assert_eq!(routes.peer("10.1.2.3".parse().unwrap()), Some(3));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(inner) = Inner::read(&bytes) {
                prop_assert!(inner.len <= bytes.len());
                prop_assert_eq!(inner.src.is_ipv4(), inner.dst.is_ipv4());
            }
        }
    }
}
