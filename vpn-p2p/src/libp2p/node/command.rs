//! Decides nothing: what the node's task can be asked to do.

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use tokio::sync::oneshot;
use vpn_core::{PeerId, PeerRecord};

use super::process::Process;

/// What the node's task is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Be connected with this peer, by one of these or whatever else is known.
    Connect {
        peer: PeerId,
        endpoints: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// What is under this key in the directory.
    Get {
        key: Vec<u8>,
        reply: oneshot::Sender<Result<Vec<Vec<u8>>, String>>,
    },
    /// Keep this in the directory for so long.
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lives: std::time::Duration,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// This peer said who it is, and is a member.
    Admit {
        peer: PeerId,
        endpoints: Vec<Multiaddr>,
        /// What it says about itself, believed.
        record: Box<PeerRecord>,
        /// When its certificate ends, in seconds since the Unix epoch.
        until: Option<u64>,
        /// Which of its processes is at the other end of which connection.
        at: (ConnectionId, Process),
    },
    /// A directory says that this member can be reached there.
    Met(PeerId, Vec<Multiaddr>),
    /// This peer could not prove that it is a member.
    Refuse(PeerId),
    /// The own record is another one: tell everybody connected.
    Tell,
    /// The connections of this peer are dead, or as good as that.
    Disconnect(PeerId),
    /// The network below is another one.
    NetworkChanged,
}
