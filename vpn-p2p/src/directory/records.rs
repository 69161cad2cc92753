//! Which record is believed: signed by its peer, not expired, not valid for too long, well formed.
//!
//! What is signed is a context, then the record without its signature as postcard writes it. The
//! context says what the record is for, so that a signature for one purpose never counts for another.
//! Sequence numbers are compared by [`Book`](super::Book), which knows what came before.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use vpn_core::{DirectoryError, PeerId, PeerRecord};

use crate::identity::{self, Identity, SIGNATURE};

/// Longest record as it is stored, in bytes: a few dozen places a peer can be reached at, and small
/// beside what directories take in one value.
pub const MAX_RECORD: usize = 4096;

/// Virtual addresses that one record may claim: a few of each family.
pub const MAX_ADDRESSES: usize = 8;

/// Longest time from now to a record's end, unless the terms say otherwise: 24 h, in seconds.
pub const MAX_VALIDITY: u64 = 24 * 60 * 60;

/// By how much clocks may differ, unless the terms say otherwise: 5 min, in seconds.
pub const MAX_SKEW: u64 = 5 * 60;

/// What a record has to fulfil, besides its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What signatures begin with. Ends with a zero byte, and has no other, so that none is the
    /// beginning of another.
    pub context: &'static [u8],
    /// Longest time from now to its end, in seconds ([`MAX_VALIDITY`]). It bounds how long a stolen
    /// key's last record counts, and how long sequence numbers have to be remembered.
    pub max_validity: u64,
    /// By how much a writer's clock may be ahead of ours, in seconds ([`MAX_SKEW`]). It is added to
    /// `max_validity` only: a record that expired by our clock is over.
    pub max_skew: u64,
}

impl Terms {
    /// Terms with the defaults.
    pub const fn new(context: &'static [u8]) -> Self {
        Self {
            context,
            max_validity: MAX_VALIDITY,
            max_skew: MAX_SKEW,
        }
    }

    /// The latest end that a record may have now.
    pub const fn horizon(&self, unix: u64) -> u64 {
        unix.saturating_add(self.max_validity)
            .saturating_add(self.max_skew)
    }

    /// Whether its peer signed this record for this purpose, at whatever time.
    pub(crate) fn are_signed_in(&self, record: &PeerRecord) -> bool {
        let signed = signed_bytes(self.context, record);
        identity::verify(record.peer, &signed, &record.signature)
    }
}

/// Why a record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes are no record, or it claims what nobody may have: too many addresses, one twice, or
    /// one that is no host's.
    #[error("not a record")]
    Malformed,
    /// It is longer than [`MAX_RECORD`].
    #[error("longer than {MAX_RECORD} bytes")]
    TooLong,
    /// Somebody else wrote it, or changed it, or it was signed for another purpose.
    #[error("the signature is not this peer's")]
    Forged,
    /// Its time is over. Compare the clocks.
    #[error("it expired")]
    Expired,
    /// It would be valid for longer than anybody may ask for. Compare the clocks.
    #[error("it is valid for too long")]
    TooFar,
    /// One at least as new is known, or was until it expired: somebody replays it.
    #[error("sequence {have} is known already")]
    Old {
        /// The largest sequence number of this peer.
        have: u64,
    },
    /// Its peer is not among the members.
    #[error("this peer is not a member")]
    NotMember,
    /// There is no room for another peer.
    #[error("there is no room for another peer")]
    Full,
}

impl RecordError {
    /// As a directory says it about a record with this sequence number.
    pub fn of(self, offered: u64) -> DirectoryError {
        match self {
            Self::Old { have } => DirectoryError::Stale { have, offered },
            other => DirectoryError::Refused(Box::new(other)),
        }
    }
}

/// What a peer is about to say about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// The virtual addresses it claims.
    pub addresses: Vec<IpAddr>,
    /// Larger than in its last record. The time in milliseconds does, if the clock never goes back;
    /// whoever is told of a larger one continues from there.
    pub sequence: u64,
    /// When it stops being valid, in seconds since the Unix epoch.
    pub expires: u64,
    /// What else it says, in an encoding of its own.
    pub body: Bytes,
}

impl Draft {
    /// Signs it.
    ///
    /// # Errors
    ///
    /// [`RecordError::Malformed`] and [`RecordError::TooLong`]: nobody would believe it.
    pub fn sign(self, identity: &Identity, terms: &Terms) -> Result<PeerRecord, RecordError> {
        let mut record = PeerRecord {
            peer: identity.id(),
            addresses: self.addresses,
            sequence: self.sequence,
            expires: self.expires,
            body: self.body,
            signature: Bytes::new(),
        };
        let signature = identity.sign(&signed_bytes(terms.context, &record));
        record.signature = signature.to_vec().into();
        check_form(&record)?;
        Ok(record)
    }
}

/// A record that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valid(PeerRecord);

impl Valid {
    /// Believes a record, or says why not. `unix` is the time in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`RecordError`], except for what only who knows other records can say.
    pub fn check(record: PeerRecord, terms: &Terms, unix: u64) -> Result<Self, RecordError> {
        check_form(&record)?;
        if record.expires <= unix {
            return Err(RecordError::Expired);
        }
        if record.expires > terms.horizon(unix) {
            return Err(RecordError::TooFar);
        }
        if !terms.are_signed_in(&record) {
            return Err(RecordError::Forged);
        }
        Ok(Self(record))
    }

    /// The record.
    pub const fn record(&self) -> &PeerRecord {
        &self.0
    }

    /// The record alone.
    pub fn into_record(self) -> PeerRecord {
        self.0
    }

    /// Whether its time is not over.
    pub const fn lives(&self, unix: u64) -> bool {
        self.0.expires > unix
    }
}

/// What does not depend on time or keys.
fn check_form(record: &PeerRecord) -> Result<(), RecordError> {
    let addresses = &record.addresses;
    let twice = |at: usize| addresses[..at].contains(&addresses[at]);
    if record.signature.len() != SIGNATURE
        || addresses.len() > MAX_ADDRESSES
        || !addresses.iter().all(|address| usable(*address))
        || (0..addresses.len()).any(twice)
    {
        return Err(RecordError::Malformed);
    }
    if record.body.len() > MAX_RECORD || encode(record).len() > MAX_RECORD {
        return Err(RecordError::TooLong);
    }
    Ok(())
}

/// Whether an address can be a host's: not unspecified, loopback, multicast, broadcast.
pub(crate) fn usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || broadcast
        || mapped)
}

/// What a record's signature is of.
pub(crate) fn signed_bytes(context: &[u8], record: &PeerRecord) -> Vec<u8> {
    let fields = (
        record.peer.0,
        &record.addresses,
        record.sequence,
        record.expires,
        &record.body[..],
    );
    [context, &to_vec(&fields)].concat()
}

/// A record as it is stored and sent.
#[derive(Serialize, Deserialize)]
struct Stored {
    peer: [u8; 32],
    addresses: Vec<IpAddr>,
    sequence: u64,
    expires: u64,
    body: Vec<u8>,
    /// [`SIGNATURE`] bytes; serde has no arrays so long.
    signature: Vec<u8>,
}

/// A record as bytes, for directories that keep such.
pub fn encode(record: &PeerRecord) -> Vec<u8> {
    to_vec(&Stored {
        peer: record.peer.0,
        addresses: record.addresses.clone(),
        sequence: record.sequence,
        expires: record.expires,
        body: record.body.to_vec(),
        signature: record.signature.to_vec(),
    })
}

/// Reads what [`encode`] writes. Believes nothing: see [`Valid::check`].
///
/// # Errors
///
/// [`RecordError::TooLong`] and [`RecordError::Malformed`], also where something follows.
pub fn decode(bytes: &[u8]) -> Result<PeerRecord, RecordError> {
    if bytes.len() > MAX_RECORD {
        return Err(RecordError::TooLong);
    }
    let (stored, rest): (Stored, _) =
        postcard::take_from_bytes(bytes).map_err(|_| RecordError::Malformed)?;
    if !rest.is_empty() {
        return Err(RecordError::Malformed);
    }
    Ok(PeerRecord {
        peer: PeerId(stored.peer),
        addresses: stored.addresses,
        sequence: stored.sequence,
        expires: stored.expires,
        body: stored.body.into(),
        signature: stored.signature.into(),
    })
}

/// Lists and numbers: there is nothing in them that postcard could refuse.
fn to_vec(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms::new(b"test record v1\0");
    const NOW: u64 = 1_000_000;

    fn identity() -> Identity {
        Identity::from_bytes(&[7; 32])
    }

    fn draft() -> Draft {
        Draft {
            addresses: vec!["10.7.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            sequence: 3,
            expires: NOW + 100,
            body: Bytes::from_static(b"where"),
        }
    }

    fn signed(draft: Draft) -> PeerRecord {
        draft.sign(&identity(), &TERMS).unwrap()
    }

    fn check(record: PeerRecord, unix: u64) -> Result<Valid, RecordError> {
        Valid::check(record, &TERMS, unix)
    }

    #[test]
    fn a_record_is_believed_until_it_expires() {
        let record = signed(draft());
        let read = decode(&encode(&record)).unwrap();
        assert_eq!(read, record);
        let valid = check(read, NOW + 99).unwrap();
        assert!(valid.lives(NOW + 99) && !valid.lives(NOW + 100));
        assert_eq!(check(record, NOW + 100), Err(RecordError::Expired));
    }

    #[test]
    fn nobody_is_valid_for_longer_than_the_terms_have_it() {
        let end = |expires| check(signed(Draft { expires, ..draft() }), NOW);
        assert!(end(NOW + MAX_VALIDITY + MAX_SKEW).is_ok());
        for far in [NOW + MAX_VALIDITY + MAX_SKEW + 1, u64::MAX] {
            assert_eq!(end(far), Err(RecordError::TooFar));
        }
    }

    #[test]
    fn a_signature_is_for_one_purpose_and_of_one_peer() {
        let other = Terms::new(b"another record v1\0");
        let record = draft().sign(&identity(), &other).unwrap();
        assert_eq!(check(record, NOW), Err(RecordError::Forged));
        let mut record = signed(draft());
        record.peer = Identity::from_bytes(&[8; 32]).id();
        assert_eq!(check(record, NOW), Err(RecordError::Forged));
    }

    #[test]
    fn what_nobody_may_claim_is_refused() {
        let claims = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            draft_of(addresses).sign(&identity(), &TERMS)
        };
        for odd in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(claims(&[odd]), Err(RecordError::Malformed), "{odd}");
        }
        assert_eq!(
            claims(&["10.0.0.1", "10.0.0.1"]),
            Err(RecordError::Malformed)
        );
        let many = (1..=9).map(|host| IpAddr::from([10, 0, 0, host])).collect();
        assert_eq!(
            draft_of(many).sign(&identity(), &TERMS),
            Err(RecordError::Malformed)
        );
        let body = vec![0; MAX_RECORD].into();
        let long = Draft { body, ..draft() }.sign(&identity(), &TERMS);
        assert_eq!(long, Err(RecordError::TooLong));
    }

    fn draft_of(addresses: Vec<IpAddr>) -> Draft {
        Draft {
            addresses,
            ..draft()
        }
    }

    #[test]
    fn each_byte_counts_and_nothing_may_follow() {
        let record = signed(draft());
        let bytes = encode(&record);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut forged = bytes.clone();
                forged[at] ^= 1 << bit;
                let read = decode(&forged).and_then(|record| check(record, NOW));
                assert!(read.is_err(), "byte {at}, bit {bit}");
            }
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode(&longer), Err(RecordError::Malformed));
    }

    proptest! {
        /// Whatever comes, reading ends, and nothing is believed that nobody signed.
        #[test]
        fn nothing_unsigned_is_believed(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(record) = decode(&bytes) {
                prop_assert!(check(record, NOW).is_err());
            }
        }

        #[test]
        fn what_is_signed_is_read_again(
            v4 in proptest::collection::btree_set(any::<[u8; 4]>(), 0..8),
            sequence: u64,
            body in proptest::collection::vec(any::<u8>(), 0..500),
        ) {
            let addresses: Vec<IpAddr> =
                v4.into_iter().map(IpAddr::from).filter(|a| usable(*a)).collect();
            let record = Draft { addresses, sequence, expires: NOW + 1, body: body.into() }
                .sign(&identity(), &TERMS)
                .unwrap();
            let read = decode(&encode(&record)).unwrap();
            prop_assert_eq!(check(read, NOW).map(Valid::into_record), Ok(record));
        }
    }
}
