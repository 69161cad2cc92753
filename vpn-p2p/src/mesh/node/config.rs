//! What a node is told when it starts.

use std::net::SocketAddr;

use vpn_core::UnderlayError;

use super::INNER_MTU;
use crate::mesh::member::MemberConfig;
use crate::mesh::record::RecordError;

/// Where a hub is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubEndpoint {
    /// Its name, or address.
    pub host: String,
    /// Its port, for datagrams and for TLS over TCP.
    pub port: u16,
}

/// A node's settings.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What it is in the mesh. The hubs' places are those of [`endpoints`](Self::endpoints).
    pub member: MemberConfig,
    /// Where each hub is.
    pub endpoints: Vec<HubEndpoint>,
    /// UDP port of both families. Default 0: any.
    pub port: u16,
    /// Largest inner packet, in bytes; less while a way in use is narrower, as the
    /// [`Underlay`](vpn_core::Underlay) says. Default and most [`INNER_MTU`].
    pub mtu: u16,
    /// Where it can be reached besides, as only you can know: behind a forwarded port, say.
    pub candidates: Vec<SocketAddr>,
}

impl NodeConfig {
    /// A node with defaults but for these.
    pub const fn new(member: MemberConfig, endpoints: Vec<HubEndpoint>) -> Self {
        Self {
            member,
            endpoints,
            port: 0,
            mtu: INNER_MTU,
            candidates: Vec::new(),
        }
    }
}

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// It needs a tokio runtime for its task. Call it inside one.
    #[error("a node of the mesh must be made inside a tokio runtime")]
    NoRuntime,
    /// The session key could not be made.
    #[error("the system has no random numbers")]
    Random(#[source] std::io::Error),
    /// The port cannot be had. Choose another, or stop who has it.
    #[error("cannot listen")]
    Listen(#[source] UnderlayError),
    /// What it is to be cannot be said in a record: too many addresses, or one that is no host's.
    #[error("its own record would not be believed")]
    Record(#[source] RecordError),
    /// A hub without an endpoint, or the other way round.
    #[error("{hubs} hubs and {endpoints} endpoints: each hub has one")]
    Endpoints {
        /// Hubs of the member's configuration.
        hubs: usize,
        /// Endpoints.
        endpoints: usize,
    },
}
