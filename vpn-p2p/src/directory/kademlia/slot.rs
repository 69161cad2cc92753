//! Decides under which keys records are in a DHT, and which of them a node keeps. Pure.
//!
//! A record is stored under its peer, and under each address it claims. Under an address there may be
//! claims of several peers: the best few are kept, in the order in which they win, so that no number of
//! claims pushes out whose the address is, and so that each claimant can be told of the others.

use std::net::IpAddr;

use vpn_core::{PeerId, PeerRecord};

use crate::directory::claims::winner;
use crate::directory::records::{decode, encode};

/// Claims of one address that are kept: the holder's, and enough others to tell of a conflict.
pub const MAX_CLAIMS: usize = 3;

/// Longest value, in bytes: it fits a message of the DHT (16 KiB) with the addresses around it.
pub const MAX_VALUE: usize = 12 * 1024;

const PEER: &[u8] = b"/vpn/peer/";
const ADDRESS: &[u8] = b"/vpn/address/";

/// What is asked for in the DHT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The record of this peer.
    Peer(PeerId),
    /// The records that claim this address.
    Address(IpAddr),
}

/// Why a value is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotKept {
    /// Nothing of ours is under such a key.
    #[error("not a key of this directory")]
    Key,
    /// The value holds no record that is believed and belongs under its key.
    #[error("no record that is believed")]
    Invalid,
    /// All of it is known, in newer form: somebody replays it, or is late.
    #[error("nothing new")]
    Old,
}

impl Slot {
    /// The key in the DHT.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Self::Peer(peer) => [PEER, &peer.0].concat(),
            Self::Address(IpAddr::V4(address)) => [ADDRESS, &address.octets()].concat(),
            Self::Address(IpAddr::V6(address)) => [ADDRESS, &address.octets()].concat(),
        }
    }

    /// Reads what [`key`](Self::key) writes.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        if let Some(peer) = key.strip_prefix(PEER) {
            return Some(Self::Peer(PeerId(peer.try_into().ok()?)));
        }
        let address = key.strip_prefix(ADDRESS)?;
        let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
        let address = v4.or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from));
        Some(Self::Address(address.ok()?))
    }

    /// Whether a record belongs here.
    pub fn holds(&self, record: &PeerRecord) -> bool {
        match self {
            Self::Peer(peer) => record.peer == *peer,
            Self::Address(address) => record.addresses.contains(address),
        }
    }

    /// What a node keeps here that has `old` and is given `new`. `believe` says which records count;
    /// what was kept is asked about again, since it may have expired.
    ///
    /// # Errors
    ///
    /// [`NotKept`]: what it has stays.
    pub fn merge(
        &self,
        old: &[u8],
        new: &[u8],
        mut believe: impl FnMut(&PeerRecord) -> bool,
    ) -> Result<Vec<u8>, NotKept> {
        let mut fit = |bytes: &[u8]| -> Vec<PeerRecord> {
            let mut records = unpack(bytes);
            records.retain(|record| self.holds(record) && believe(record));
            records
        };
        let offered = fit(new);
        if offered.is_empty() {
            return Err(NotKept::Invalid);
        }
        let mut kept = fit(old);
        let before = kept.clone();
        for record in offered {
            newest(&mut kept, record);
        }
        self.order(&mut kept);
        kept.truncate(MAX_CLAIMS);
        if kept == before {
            return Err(NotKept::Old);
        }
        Ok(pack(&kept))
    }

    /// Whose it is first.
    fn order(&self, records: &mut [PeerRecord]) {
        let Self::Address(address) = *self else {
            return;
        };
        for at in 0..records.len() {
            let rest = records[at..].iter().map(|record| record.peer);
            if let Some(first) = winner(address, rest)
                && let Some(found) = records[at..].iter().position(|r| r.peer == first)
            {
                records.swap(at, at + found);
            }
        }
    }
}

/// Enters a record unless one at least as new of its peer is there.
pub fn newest(records: &mut Vec<PeerRecord>, record: PeerRecord) {
    match records.iter_mut().find(|known| known.peer == record.peer) {
        Some(known) if known.sequence < record.sequence => *known = record,
        Some(_) => {}
        None => records.push(record),
    }
}

/// Records as one value, as many as fit.
pub fn pack(records: &[PeerRecord]) -> Vec<u8> {
    let mut value: Vec<Vec<u8>> = Vec::new();
    let mut bytes = 8;
    for record in records.iter().map(encode).take(MAX_CLAIMS) {
        bytes += record.len() + 8;
        if bytes > MAX_VALUE {
            break;
        }
        value.push(record);
    }
    // Lists of bytes: there is nothing in them that postcard could refuse.
    postcard::to_allocvec(&value).unwrap_or_default()
}

/// Reads what [`pack`] writes; what is no record is left out.
pub fn unpack(value: &[u8]) -> Vec<PeerRecord> {
    if value.len() > MAX_VALUE {
        return Vec::new();
    }
    let Ok(value) = postcard::from_bytes::<Vec<Vec<u8>>>(value) else {
        return Vec::new();
    };
    let records = value.iter().take(MAX_CLAIMS);
    records.filter_map(|bytes| decode(bytes).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::records::{Draft, Terms, Valid};
    use crate::identity::Identity;

    const TERMS: Terms = Terms::new(b"test record v1\0");
    const NOW: u64 = 1_000_000;

    fn record(peer: u8, sequence: u64, expires: u64) -> PeerRecord {
        let draft = Draft {
            addresses: vec![[10, 7, 0, 1].into()],
            sequence,
            expires,
            ..Draft::default()
        };
        draft
            .sign(&Identity::from_bytes(&[peer; 32]), &TERMS)
            .unwrap()
    }

    fn merge(slot: Slot, old: &[u8], new: &[PeerRecord], unix: u64) -> Result<Vec<u8>, NotKept> {
        let believe = |record: &PeerRecord| Valid::check(record.clone(), &TERMS, unix).is_ok();
        slot.merge(old, &pack(new), believe)
    }

    #[test]
    fn keys_say_what_they_are_for() {
        for slot in [
            Slot::Peer(PeerId([7; 32])),
            Slot::Address([10, 7, 0, 1].into()),
            Slot::Address("fd00::1".parse().unwrap()),
        ] {
            assert_eq!(Slot::from_key(&slot.key()), Some(slot));
        }
        for wrong in [&b"/vpn/peer/short"[..], b"/vpn/address/x", b"/pk/1234", b""] {
            assert_eq!(Slot::from_key(wrong), None);
        }
    }

    #[test]
    fn forged_replayed_expired_and_rolled_back_are_not_kept() {
        let slot = Slot::Peer(record(1, 1, NOW).peer);
        let kept = merge(slot, &[], &[record(1, 5, NOW + 10)], NOW).unwrap();
        for (offered, why) in [
            (record(1, 5, NOW + 10), NotKept::Old),
            (record(1, 4, NOW + 20), NotKept::Old),
            (record(1, 6, NOW), NotKept::Invalid),
            (record(2, 6, NOW + 10), NotKept::Invalid),
        ] {
            assert_eq!(merge(slot, &kept, &[offered], NOW), Err(why));
        }
        let mut forged = record(1, 6, NOW + 10);
        forged.sequence = 7;
        assert_eq!(merge(slot, &kept, &[forged], NOW), Err(NotKept::Invalid));
        let newer = merge(slot, &kept, &[record(1, 6, NOW + 10)], NOW).unwrap();
        assert_eq!(unpack(&newer), [record(1, 6, NOW + 10)]);
        assert_eq!(
            slot.merge(&[], b"nonsense", |_| true),
            Err(NotKept::Invalid)
        );
    }

    #[test]
    fn claims_are_kept_alike_in_any_order_and_the_holder_stays() {
        let address: IpAddr = [10, 7, 0, 1].into();
        let slot = Slot::Address(address);
        let all: Vec<PeerRecord> = (1..=9).map(|peer| record(peer, 1, NOW + 10)).collect();
        let fold = |records: &[PeerRecord]| {
            records.iter().fold(Vec::new(), |kept, record| {
                merge(slot, &kept, std::slice::from_ref(record), NOW).unwrap_or(kept)
            })
        };
        let mut turned = all.clone();
        turned.reverse();
        let (one, other) = (unpack(&fold(&all)), unpack(&fold(&turned)));
        assert_eq!(one, other);
        assert_eq!(one.len(), MAX_CLAIMS);
        assert_eq!(
            winner(address, all.iter().map(|r| r.peer)),
            Some(one[0].peer)
        );
    }

    #[test]
    fn what_expired_makes_room() {
        let slot = Slot::Address([10, 7, 0, 1].into());
        let kept = merge(slot, &[], &[record(1, 1, NOW + 10)], NOW).unwrap();
        let later = merge(slot, &kept, &[record(2, 1, NOW + 90)], NOW + 10).unwrap();
        assert_eq!(unpack(&later), [record(2, 1, NOW + 90)]);
    }
}
