//! What a node says about itself, signed with its identity: session key, addresses, candidates.
//!
//! A [`Record`] becomes a [`SignedRecord`] by [`sign`](Record::sign) or [`verify`](SignedRecord::verify)
//! and in no other way, so whoever holds one need not ask again who wrote it. What is signed is
//! [`CONTEXT`], then the record without its signature as postcard writes it.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpn_core::{PeerId, PeerRecord};

use crate::directory::records::{self, signed_bytes, usable};
use crate::identity::{self, Identity, SIGNATURE};
use crate::wg_quick::PublicKey;

/// What every signature of a record begins with, so that it is never taken for one of something else.
pub const CONTEXT: &[u8] = b"vpn-mesh record v1\0";

/// Longest record on the wire, in bytes: it fits one datagram with room for what is around it.
pub const MAX_RECORD: usize = 1000;

/// Virtual addresses of one node: a few of each family.
pub const MAX_ADDRESSES: usize = 8;

/// Networks behind one node.
pub const MAX_ROUTES: usize = 16;

/// Places one node may be found at.
pub const MAX_CANDIDATES: usize = 16;

/// Longest name, in bytes (as a label of DNS, RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 63;

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose record.
    pub peer: PeerId,
    /// What people call it: letters, digits, `-`, `_` and `.`. May be empty; proves nothing.
    pub name: String,
    /// The WireGuard key its sessions have.
    pub session: PublicKey,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Networks behind it. A claim: the receiver's policy says what is made of it.
    pub routes: Vec<IpNet>,
    /// Where datagrams may reach it: local addresses, and those its hubs saw.
    pub candidates: Vec<SocketAddr>,
    /// Larger is newer; a smaller or equal one never replaces a record.
    pub sequence: u64,
    /// When it stops being valid, in seconds since the Unix epoch.
    pub expires: u64,
}

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes are no record of this version, or say what no record may say.
    #[error("not a record")]
    Malformed,
    /// Somebody else wrote it, or changed it on the way.
    #[error("the signature is not this peer's")]
    Forged,
    /// Its time is over.
    #[error("it expired")]
    Expired,
    /// A newer one of this peer is known.
    #[error("a newer one is known")]
    Old,
}

/// Everything of a record that is not a field of [`PeerRecord`] itself.
#[derive(Serialize, Deserialize)]
struct Body {
    version: u8,
    name: String,
    session: [u8; 32],
    routes: Vec<(IpAddr, u8)>,
    candidates: Vec<SocketAddr>,
}

const VERSION: u8 = 1;

impl Record {
    /// Signs it. What is too much for a record is left out from the end of its lists, candidates
    /// first; so it always fits.
    pub fn sign(mut self, identity: &Identity) -> SignedRecord {
        self.peer = identity.id();
        self.addresses.truncate(MAX_ADDRESSES);
        self.routes.truncate(MAX_ROUTES);
        self.candidates.truncate(MAX_CANDIDATES);
        if !valid_name(&self.name) {
            self.name.clear();
        }
        loop {
            let signed = self.signed(identity);
            if signed.to_bytes().len() <= MAX_RECORD {
                return signed;
            }
            if self.candidates.pop().is_none() && self.routes.pop().is_none() {
                self.name.clear();
            }
        }
    }

    fn signed(&self, identity: &Identity) -> SignedRecord {
        let body = Body {
            version: VERSION,
            name: self.name.clone(),
            session: *self.session.as_bytes(),
            routes: self
                .routes
                .iter()
                .map(|net| (net.addr(), net.prefix_len()))
                .collect(),
            candidates: self.candidates.clone(),
        };
        let mut wire = PeerRecord {
            peer: self.peer,
            addresses: self.addresses.clone(),
            sequence: self.sequence,
            expires: self.expires,
            body: encode(&body).into(),
            signature: Bytes::new(),
        };
        wire.signature = identity.sign(&signed_bytes(CONTEXT, &wire)).to_vec().into();
        SignedRecord {
            record: self.clone(),
            wire,
        }
    }
}

/// A record whose signature is its peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRecord {
    record: Record,
    wire: PeerRecord,
}

impl SignedRecord {
    /// Believes a record, or says why not. `unix` is the time in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`RecordError`], except [`Old`](RecordError::Old): that is for who knows an older one to say.
    pub fn verify(wire: PeerRecord, unix: u64) -> Result<Self, RecordError> {
        let too_many = wire.addresses.len() > MAX_ADDRESSES || wire.body.len() > MAX_RECORD;
        if too_many || wire.signature.len() != SIGNATURE {
            return Err(RecordError::Malformed);
        }
        let body: Body = postcard::from_bytes(&wire.body).map_err(|_| RecordError::Malformed)?;
        let routes: Option<Vec<IpNet>> = body
            .routes
            .iter()
            .map(|&(address, length)| IpNet::new(address, length).ok().map(|net| net.trunc()))
            .collect();
        let record = Record {
            peer: wire.peer,
            name: body.name,
            session: PublicKey::from_bytes(body.session),
            addresses: wire.addresses.clone(),
            routes: routes.ok_or(RecordError::Malformed)?,
            candidates: body.candidates,
            sequence: wire.sequence,
            expires: wire.expires,
        };
        let fits = body.version == VERSION
            && valid_name(&record.name)
            && record.routes.len() <= MAX_ROUTES
            && record.candidates.len() <= MAX_CANDIDATES
            && record.addresses.iter().all(|address| usable(*address));
        if !fits {
            return Err(RecordError::Malformed);
        }
        if record.expires <= unix {
            return Err(RecordError::Expired);
        }
        if !identity::verify(wire.peer, &signed_bytes(CONTEXT, &wire), &wire.signature) {
            return Err(RecordError::Forged);
        }
        Ok(Self { record, wire })
    }

    /// Reads what [`to_bytes`](Self::to_bytes) writes, and believes it or not.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub fn from_bytes(bytes: &[u8], unix: u64) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::Malformed);
        }
        let wire = records::decode(bytes).map_err(|_| RecordError::Malformed)?;
        Self::verify(wire, unix)
    }

    /// The record as it crosses networks, at most [`MAX_RECORD`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        records::encode(&self.wire)
    }

    /// What it says.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// As directories keep it.
    pub const fn wire(&self) -> &PeerRecord {
        &self.wire
    }

    /// Whether it may replace `known`: of the same peer, and newer.
    pub fn replaces(&self, known: &Self) -> bool {
        self.record.peer == known.record.peer && self.record.sequence > known.record.sequence
    }
}

/// Whether a name is one: letters, digits, `-`, `_`, `.`, or nothing at all.
pub fn valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Lists and numbers: there is nothing in them that postcard could refuse.
fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            peer: PeerId([0; 32]),
            name: "laptop".into(),
            session: PublicKey::from_bytes([7; 32]),
            addresses: vec!["10.7.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            routes: vec!["192.168.7.0/24".parse().unwrap()],
            candidates: vec![
                "192.0.2.1:5".parse().unwrap(),
                "[2001:db8::1]:6".parse().unwrap(),
            ],
            sequence: 9,
            expires: 1000,
        }
    }

    #[test]
    fn it_is_read_as_it_was_signed_until_it_expires() {
        let identity = Identity::generate().unwrap();
        let signed = record().sign(&identity);
        let bytes = signed.to_bytes();
        let read = SignedRecord::from_bytes(&bytes, 999).unwrap();
        assert_eq!(read, signed);
        assert_eq!(read.record().peer, identity.id());
        assert_eq!(
            SignedRecord::from_bytes(&bytes, 1000),
            Err(RecordError::Expired)
        );
        assert!(!read.replaces(&signed), "the same is not newer");
    }

    /// Each byte matters, whichever is changed; so do cuts.
    #[test]
    fn no_changed_byte_is_believed() {
        let signed = record().sign(&Identity::generate().unwrap());
        let bytes = signed.to_bytes();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            assert_ne!(
                SignedRecord::from_bytes(&forged, 0).ok().as_ref(),
                Some(&signed),
                "{at}"
            );
            assert!(SignedRecord::from_bytes(&forged, 0).is_err(), "byte {at}");
            assert!(
                SignedRecord::from_bytes(&bytes[..at], 0).is_err(),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn nobody_signs_for_another() {
        let (identity, thief) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mut wire = record().sign(&thief).wire().clone();
        wire.peer = identity.id();
        assert_eq!(SignedRecord::verify(wire, 0), Err(RecordError::Forged));
    }

    #[test]
    fn the_longest_fits() {
        let mut long = record();
        long.name = "x".repeat(MAX_NAME);
        long.addresses = vec!["fd00::2".parse().unwrap(); 99];
        long.routes = vec!["fd00:1::/64".parse().unwrap(); 99];
        long.candidates = vec!["[2001:db8::1]:65535".parse().unwrap(); 99];
        long.sequence = u64::MAX;
        long.expires = u64::MAX;
        let signed = long.sign(&Identity::generate().unwrap());
        let bytes = signed.to_bytes();
        assert!(bytes.len() <= MAX_RECORD, "{}", bytes.len());
        assert_eq!(SignedRecord::from_bytes(&bytes, 0).unwrap(), signed);
    }

    #[test]
    fn what_no_record_may_say_is_refused() {
        let identity = Identity::generate().unwrap();
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "ff02::1",
        ] {
            let mut odd = record();
            odd.addresses = vec![address.parse().unwrap()];
            let bytes = odd.sign(&identity).to_bytes();
            assert_eq!(
                SignedRecord::from_bytes(&bytes, 0),
                Err(RecordError::Malformed)
            );
        }
        let mut odd = record();
        odd.name = "a\nb".into();
        assert_eq!(odd.sign(&identity).record().name, "");
    }
}
