//! Decides which records are believed: signed by their peer, of this network, and a member's. Pure.
//!
//! A record names its network, or one of a network would count in every other that has the same
//! members.

use sha2::{Digest as _, Sha256};
use vpn_core::PeerRecord;

use super::admission::{Admission, Refusal};
use super::body::{Body, TERMS};
use crate::directory::records::{RecordError, Valid};

/// What names are hashed with, so that a hash is of nothing else.
const CONTEXT: &[u8] = b"vpn-libp2p network v1\0";

/// Stands for a network's name in its members' records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkId(pub(super) [u8; 16]);

impl NetworkId {
    /// That of a name; networks without a name have one and the same.
    pub fn of(name: &str) -> Self {
        if name.is_empty() {
            return Self::default();
        }
        let hash = Sha256::new_with_prefix(CONTEXT).chain_update(name);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Self(id)
    }
}

/// A network, and who may be a member of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which network.
    pub network: NetworkId,
    /// Who may be a member.
    pub admission: Admission,
}

/// Why a node's record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotBelieved {
    /// It is no valid record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is one of another network. Compare [`NodeConfig::network`](super::NodeConfig::network).
    #[error("it is of another network")]
    Network,
    /// It is not one of a member.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Membership {
    /// Believes a node's record, or says why not: signature, end, form, network, membership, addresses.
    ///
    /// # Errors
    ///
    /// [`NotBelieved`], except for what only who knows other records can say.
    pub fn believe(&self, record: PeerRecord, unix: u64) -> Result<(Valid, Body), NotBelieved> {
        let valid = Valid::check(record, &TERMS, unix)?;
        let body = Body::decode(&valid.record().body)?;
        if body.network != self.network {
            return Err(NotBelieved::Network);
        }
        self.admission
            .check(valid.record(), body.certificate.as_ref(), unix)?;
        Ok((valid, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::records::Draft;
    use crate::identity::Identity;

    const NOW: u64 = 1_000_000;

    #[test]
    fn a_record_of_one_network_is_none_of_another_with_the_same_members() {
        let identity = Identity::from_bytes(&[1; 32]);
        let membership = |name: &str| Membership {
            network: NetworkId::of(name),
            admission: Admission::list([identity.id()]),
        };
        let record = |name: &str| {
            let body = Body {
                network: NetworkId::of(name),
                ..Body::default()
            };
            let draft = Draft {
                sequence: 1,
                expires: NOW + 10,
                body: body.encode().into(),
                ..Draft::default()
            };
            draft.sign(&identity, &TERMS).unwrap()
        };
        let names = ["", "one", "two"];
        for (of, at) in names.iter().flat_map(|of| names.map(|at| (of, at))) {
            let believed = membership(at).believe(record(of), NOW);
            let wanted = match *of == at {
                true => Ok(()),
                false => Err(NotBelieved::Network),
            };
            assert_eq!(believed.map(drop), wanted, "{of:?} at {at:?}");
        }
    }
}
