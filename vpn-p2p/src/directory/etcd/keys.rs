//! What keys of etcd are called, and what they stand for.
//!
//! | Key | Value |
//! |---|---|
//! | `PREFIX/record/PEER` | the peer's record, as [`encode`](super::super::encode) has it |
//! | `PREFIX/address/ADDRESS` | whose the address is: the peer's key |
//! | `PREFIX/node/PEER/NET` | which address of this prefix is the peer's |
//!
//! Peers are their keys in hexadecimal, 64 digits.

use std::net::IpAddr;

use ipnet::IpNet;
use vpn_core::PeerId;

/// Makes and reads keys below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys(String);

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Record(PeerId),
    Address(IpAddr),
}

/// Kinds of entries that are followed: records and leased addresses.
pub(super) const KINDS: usize = 2;

impl Keys {
    pub(super) const fn below(prefix: String) -> Self {
        Self(prefix)
    }

    /// What all begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.0
    }

    pub(super) fn record(&self, peer: PeerId) -> String {
        format!("{}record/{}", self.0, hex(peer))
    }

    /// What the keys of each kind begin with.
    pub(super) fn kinds(&self) -> [String; KINDS] {
        [format!("{}record/", self.0), self.addresses()]
    }

    /// Of which kind a key is, also one that cannot be read.
    pub(super) fn kind_of(&self, key: &[u8]) -> Option<usize> {
        let kinds = self.kinds();
        kinds
            .iter()
            .position(|kind| key.starts_with(kind.as_bytes()))
    }

    pub(super) fn addresses(&self) -> String {
        format!("{}address/", self.0)
    }

    pub(super) fn address(&self, address: IpAddr) -> String {
        format!("{}address/{address}", self.0)
    }

    /// The prefix's slash would look like a folder.
    pub(super) fn node(&self, peer: PeerId, net: IpNet) -> String {
        let (address, length) = (net.addr(), net.prefix_len());
        format!("{}node/{}/{address}_{length}", self.0, hex(peer))
    }

    /// `None` for what is not ours, or of another version.
    pub(super) fn read(&self, key: &[u8]) -> Option<Key> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.0)?;
        match key.split_once('/')? {
            ("record", peer) => Some(Key::Record(unhex(peer)?)),
            ("address", address) => Some(Key::Address(address.parse().ok()?)),
            _ => None,
        }
    }
}

/// A peer's key in hexadecimal.
pub(super) fn hex(peer: PeerId) -> String {
    peer.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`hex`] writes.
pub(super) fn unhex(text: &str) -> Option<PeerId> {
    if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(PeerId(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let keys = Keys::below("vpn/".into());
        let peer = PeerId(std::array::from_fn(|at| at as u8 * 8));
        assert_eq!(
            keys.read(keys.record(peer).as_bytes()),
            Some(Key::Record(peer))
        );
        for address in ["10.0.0.1", "fd00::1"] {
            let address = address.parse().unwrap();
            let key = keys.address(address);
            assert_eq!(keys.kind_of(key.as_bytes()), Some(1));
            assert_eq!(keys.read(key.as_bytes()), Some(Key::Address(address)));
        }
        assert_eq!(keys.kind_of(b"vpn/record/what"), Some(0));
        let node = keys.node(peer, "10.0.0.0/24".parse().unwrap());
        assert_eq!(keys.kind_of(node.as_bytes()), None);
        for other in [
            node.as_str(),
            "vpn/record/00",
            "vpn/record/+0000000000000000000000000000000000000000000000000000000000000000",
            "other/address/10.0.0.1",
            "vpn/address/",
            "vpn/",
        ] {
            assert_eq!(keys.read(other.as_bytes()), None, "{other}");
        }
        assert_eq!(keys.read(b"vpn/\xff"), None);
    }
}
