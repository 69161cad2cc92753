//! Decides who may be a member: who is on a list, or who shows a certificate of the network's key.
//! Pure.
//!
//! libp2p's pre-shared keys cover TCP and not QUIC, so membership is proven one layer up, by
//! signatures alone: a [`Certificate`] says "this key is a member until then", signed by the network's
//! Ed25519 key, and a member shows it in its own signed record.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use vpn_core::{PeerId, PeerRecord};

use crate::identity::{self, Identity};

/// What every signature of a certificate begins with, so that it is none of something else.
const CONTEXT: &[u8] = b"vpn-libp2p member v1\0";

/// Addresses one certificate may name: as many as a record claims.
const MAX_ADDRESSES: usize = crate::directory::records::MAX_ADDRESSES;

/// Longest certificate in base64, in bytes.
const MAX_TEXT: usize = 1024;

/// "This key is a member until then", signed by the network's key. No secret: whoever copies it has
/// no use of it without the member's own key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    member: [u8; 32],
    expires: u64,
    addresses: Vec<IpAddr>,
    signature: Vec<u8>,
}

impl Certificate {
    /// Makes `member` one until `expires` (seconds since the Unix epoch). It may claim these
    /// addresses only, or any if there are none.
    pub fn issue(network: &Identity, member: PeerId, expires: u64, addresses: &[IpAddr]) -> Self {
        let mut certificate = Self {
            member: member.0,
            expires,
            addresses: addresses.iter().copied().take(MAX_ADDRESSES).collect(),
            signature: Vec::new(),
        };
        certificate.signature = network.sign(&certificate.signed()).to_vec();
        certificate
    }

    /// Reads what [`Display`](fmt::Display) writes: base64.
    ///
    /// # Errors
    ///
    /// [`Refusal::Certificate`]. Whether it counts is asked elsewhere.
    pub fn from_base64(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        if text.len() > MAX_TEXT {
            return Err(Refusal::Certificate);
        }
        let bytes = STANDARD.decode(text).map_err(|_| Refusal::Certificate)?;
        postcard::from_bytes(&bytes).map_err(|_| Refusal::Certificate)
    }

    /// Whose it is.
    pub const fn member(&self) -> PeerId {
        PeerId(self.member)
    }

    /// Until when it counts, in seconds since the Unix epoch.
    pub const fn expires(&self) -> u64 {
        self.expires
    }

    /// Whether it makes this peer a member of this network now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, network: PeerId, peer: PeerId, unix: u64) -> Result<(), Refusal> {
        if self.member != peer.0 || self.addresses.len() > MAX_ADDRESSES {
            return Err(Refusal::Certificate);
        }
        if self.expires <= unix {
            return Err(Refusal::Expired);
        }
        if !identity::verify(network, &self.signed(), &self.signature) {
            return Err(Refusal::Certificate);
        }
        Ok(())
    }

    fn signed(&self) -> Vec<u8> {
        let fields = (self.member, self.expires, &self.addresses);
        // Numbers and addresses: there is nothing in them that postcard could refuse.
        let fields = postcard::to_allocvec(&fields).unwrap_or_default();
        [CONTEXT, &fields].concat()
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = postcard::to_allocvec(self).unwrap_or_default();
        f.write_str(&STANDARD.encode(bytes))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} until {})", self.member(), self.expires)
    }
}

/// Why a peer is not a member, or its record not one of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is not on the list.
    #[error("not on the list")]
    Unlisted,
    /// It shows no certificate, or one that is not the network's or not its own.
    #[error("no certificate of this network")]
    Certificate,
    /// Its certificate expired, or the record would outlive it.
    #[error("its certificate expired")]
    Expired,
    /// It claims an address that list or certificate do not give it.
    #[error("it claims an address that is not its own")]
    Address,
}

/// Who may be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// These, each with the addresses it may claim (none named: any). Others are not connected.
    Listed(BTreeMap<PeerId, Vec<IpAddr>>),
    /// Whoever shows a [`Certificate`] of this key. Others are disconnected after ten seconds, in which they
    /// learn nothing of other members: their questions to the DHT wait for the proof, as does what they want
    /// kept there. Members read all of it.
    Network(PeerId),
}

impl Admission {
    /// These, with any addresses.
    pub fn list(peers: impl IntoIterator<Item = PeerId>) -> Self {
        Self::Listed(peers.into_iter().map(|peer| (peer, Vec::new())).collect())
    }

    /// Whether a connection to it may begin. With a network's key everybody may, to show what it has.
    pub fn may_connect(&self, peer: PeerId) -> bool {
        match self {
            Self::Listed(peers) => peers.contains_key(&peer),
            Self::Network(_) => true,
        }
    }

    /// Whether who is connected is a member already.
    pub const fn is_proven(&self) -> bool {
        matches!(self, Self::Listed(_))
    }

    /// Whether this record, whose signature was checked, is one of a member.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(
        &self,
        record: &PeerRecord,
        certificate: Option<&Certificate>,
        unix: u64,
    ) -> Result<(), Refusal> {
        let own = match self {
            Self::Listed(peers) => peers.get(&record.peer).ok_or(Refusal::Unlisted)?,
            Self::Network(network) => {
                let certificate = certificate.ok_or(Refusal::Certificate)?;
                certificate.check(*network, record.peer, unix)?;
                // Or it would count for as long as somebody keeps it.
                if record.expires > certificate.expires {
                    return Err(Refusal::Expired);
                }
                &certificate.addresses
            }
        };
        let is_own = |address: &IpAddr| own.is_empty() || own.contains(address);
        if record.addresses.iter().all(is_own) {
            Ok(())
        } else {
            Err(Refusal::Address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::records::{Draft, Terms};

    const NOW: u64 = 1_000_000;

    fn record(of: &Identity, address: [u8; 4]) -> PeerRecord {
        let draft = Draft {
            addresses: vec![address.into()],
            sequence: 1,
            expires: NOW + 5,
            ..Draft::default()
        };
        draft.sign(of, &Terms::new(b"test\0")).unwrap()
    }

    #[test]
    fn a_certificate_is_one_members_for_a_time_and_for_its_addresses() {
        let [network, member, other] = [1, 2, 3].map(|n| Identity::from_bytes(&[n; 32]));
        let own = [10, 7, 0, 2];
        let issued = Certificate::issue(&network, member.id(), NOW + 5, &[own.into()]);
        let read = Certificate::from_base64(&issued.to_string()).unwrap();
        assert_eq!(read, issued);
        let admission = Admission::Network(network.id());
        let check = |of: &Identity, address, certificate, unix| {
            admission.check(&record(of, address), certificate, unix)
        };
        assert_eq!(check(&member, own, Some(&read), NOW), Ok(()));
        assert_eq!(
            check(&member, own, Some(&read), NOW + 5),
            Err(Refusal::Expired)
        );
        assert_eq!(check(&member, own, None, NOW), Err(Refusal::Certificate));
        assert_eq!(
            check(&other, own, Some(&read), NOW),
            Err(Refusal::Certificate)
        );
        let foreign = Some(&read);
        assert_eq!(
            check(&member, [10, 7, 0, 3], foreign, NOW),
            Err(Refusal::Address)
        );
        let forged = Certificate::issue(&other, member.id(), NOW + 5, &[]);
        assert_eq!(
            check(&member, own, Some(&forged), NOW),
            Err(Refusal::Certificate)
        );
        let short = Certificate::issue(&network, member.id(), NOW + 4, &[own.into()]);
        assert_eq!(
            check(&member, own, Some(&short), NOW),
            Err(Refusal::Expired)
        );
        let mut longer = issued.clone();
        longer.expires += 1;
        assert_eq!(
            check(&member, own, Some(&longer), NOW),
            Err(Refusal::Certificate)
        );
        for wrong in ["", "x", "AAAA", &"A".repeat(2000)] {
            assert!(Certificate::from_base64(wrong).is_err());
        }
    }

    #[test]
    fn a_list_says_who_and_with_which_addresses() {
        let [one, other] = [1, 2].map(|n| Identity::from_bytes(&[n; 32]));
        let own = [10, 7, 0, 2];
        let list = Admission::Listed([(one.id(), vec![own.into()])].into());
        assert!(list.may_connect(one.id()) && !list.may_connect(other.id()));
        assert_eq!(list.check(&record(&one, own), None, NOW), Ok(()));
        let taken = list.check(&record(&one, [10, 7, 0, 3]), None, NOW);
        assert_eq!(taken, Err(Refusal::Address));
        let stranger = list.check(&record(&other, own), None, NOW);
        assert_eq!(stranger, Err(Refusal::Unlisted));
    }
}
