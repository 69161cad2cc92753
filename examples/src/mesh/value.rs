//! Values of the configuration that are checked as they are read.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use vpn_core::PeerId;
use vpn_p2p::mesh::Policy;
use vpn_p2p::mesh::identity::{peer_from_base64, peer_to_base64};

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub PeerId);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        peer_from_base64(&text).map(Self).map_err(D::Error::custom)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&peer_to_base64(self.0))
    }
}

/// An address, with or without the length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Address(pub IpAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let address = text
            .parse::<IpAddr>()
            .or_else(|_| text.parse::<IpNet>().map(|net| net.addr()));
        let problem = || D::Error::custom("not an address, such as 10.77.0.2");
        address.map(Self).map_err(|_| problem())
    }
}

/// Which ways to peers may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Direct or relayed.
    #[default]
    Allow,
    /// Direct or not at all.
    DirectOnly,
    /// Never direct.
    RelayOnly,
    /// Not at all.
    Deny,
}

impl From<Way> for Policy {
    fn from(way: Way) -> Self {
        match way {
            Way::Allow => Self::Allow,
            Way::DirectOnly => Self::DirectOnly,
            Way::RelayOnly => Self::RelayOnly,
            Way::Deny => Self::Deny,
        }
    }
}
