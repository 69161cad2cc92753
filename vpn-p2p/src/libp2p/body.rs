//! Decides what bytes mean inside a node's record: its network, name, places to reach it at,
//! certificate. Pure.

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use super::admission::Certificate;
use super::membership::NetworkId;
use crate::directory::records::{RecordError, Terms};

/// What nodes sign for. A record lives two hours at most, so that an address is free soon after its
/// holder is gone for good.
pub const TERMS: Terms = Terms {
    max_validity: 2 * 60 * 60,
    ..Terms::new(b"vpn-libp2p record v1\0")
};

/// Places one node may be found at.
pub const MAX_ENDPOINTS: usize = 8;

/// Longest place in its binary form, in bytes: two keys, two IPv6 addresses, and what is between.
const MAX_ENDPOINT: usize = 256;

/// Longest name, in bytes (as a label of DNS, RFC 1035 §2.3.4).
const MAX_NAME: usize = 63;

const VERSION: u8 = 2;

/// What a node says about itself, beside its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Of which network the record is.
    pub network: NetworkId,
    /// What people call it: letters, digits, `-`, `_` and `.`. May be empty; proves nothing.
    pub name: String,
    /// Where it listens, circuits of relays included. What is too much is left out.
    pub endpoints: Vec<Multiaddr>,
    /// That it is a member, where the network has a key.
    pub certificate: Option<Certificate>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u8,
    network: [u8; 16],
    name: String,
    endpoints: Vec<Vec<u8>>,
    certificate: Option<Certificate>,
}

impl Body {
    /// For a record.
    pub fn encode(&self) -> Vec<u8> {
        let endpoints = self.endpoints.iter().map(Multiaddr::to_vec);
        let wire = Wire {
            version: VERSION,
            network: self.network.0,
            name: if valid_name(&self.name) {
                self.name.clone()
            } else {
                String::new()
            },
            endpoints: endpoints
                .filter(|endpoint| endpoint.len() <= MAX_ENDPOINT)
                .take(MAX_ENDPOINTS)
                .collect(),
            certificate: self.certificate.clone(),
        };
        // Lists and bytes: there is nothing in them that postcard could refuse.
        postcard::to_allocvec(&wire).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    ///
    /// [`RecordError::Malformed`]. A place of a kind that is not known is left out.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let wire: Wire = postcard::from_bytes(bytes).map_err(|_| RecordError::Malformed)?;
        if wire.version != VERSION
            || wire.endpoints.len() > MAX_ENDPOINTS
            || wire.endpoints.iter().any(|e| e.len() > MAX_ENDPOINT)
            || !valid_name(&wire.name)
        {
            return Err(RecordError::Malformed);
        }
        let endpoints = wire.endpoints.into_iter();
        Ok(Self {
            network: NetworkId(wire.network),
            name: wire.name,
            endpoints: endpoints
                .filter_map(|bytes| Multiaddr::try_from(bytes).ok())
                .collect(),
            certificate: wire.certificate,
        })
    }
}

/// Whether a name is one: letters, digits, `-`, `_`, `.`, or nothing at all.
pub fn valid_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.len() <= MAX_NAME && name.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_it_was_written_and_bounded() {
        let endpoint: Multiaddr = "/ip4/192.0.2.1/udp/4001/quic-v1".parse().unwrap();
        let body = Body {
            network: NetworkId::of("home"),
            name: "laptop".into(),
            endpoints: vec![endpoint.clone(); 3],
            certificate: None,
        };
        assert_eq!(Body::decode(&body.encode()), Ok(body.clone()));
        let many = Body {
            network: NetworkId::default(),
            name: "no name!".into(),
            endpoints: vec![endpoint; 30],
            certificate: None,
        };
        let read = Body::decode(&many.encode()).unwrap();
        assert_eq!(
            (read.name.as_str(), read.endpoints.len()),
            ("", MAX_ENDPOINTS)
        );
        for cut in 0..body.encode().len() {
            assert!(Body::decode(&body.encode()[..cut]).is_err());
        }
    }
}
