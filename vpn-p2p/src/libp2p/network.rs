//! Touches the network through libp2p: QUIC, TCP with Noise and Yamux, circuits of relays; with the
//! bounds a VPN needs.

use std::sync::Arc;
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, Transport as _};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise, quic, relay, tcp, yamux};

use super::config::NodeError;
use super::screen::{Screen, Screened};

/// Streams of one connection: the pools of both ends take [`MAX_STREAMS`](crate::streams::config::MAX_STREAMS)
/// at the very most, the directory and the rest a few.
const STREAMS: u32 = 512;

/// Bytes that may be under way on one QUIC stream: 100 ms at 300 Mbit/s, and what the peer can make us
/// keep when we do not read.
const STREAM_WINDOW: u32 = 4 << 20;

/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// After how long without a word a connection is dead.
const SILENCE: Duration = Duration::from_secs(20);

/// How often a quiet QUIC connection is kept alive: mappings of NATs for UDP last 30 s and more.
const KEEPALIVE: Duration = Duration::from_secs(9);

/// How long dialling, encrypting and agreeing on a multiplexer may take.
const UPGRADE: Duration = Duration::from_secs(10);

/// How long others may take for the same: a few round trips, of a slow link too. Whoever begins with QUIC
/// from a forged source is waited for as long, and libp2p lets no address be proven first (QUIC's Retry).
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);

type Network = (Boxed<(PeerId, StreamMuxerBox)>, relay::client::Behaviour);

/// The transport of a node, and the part of it that finds circuits.
pub(super) fn network(keys: &Keypair, screen: Arc<Screen>) -> Result<Network, NodeError> {
    let (circuits, client) = relay::client::new(keys.public().to_peer_id());
    let noise = || noise::Config::new(keys).map_err(|_| NodeError::Key);
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS as usize);
    let circuits = circuits
        .upgrade(Version::V1Lazy)
        .authenticate(noise()?)
        .multiplex(yamux.clone())
        .timeout(UPGRADE);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise()?)
        .multiplex(yamux)
        .timeout(UPGRADE);
    let mut config = quic::Config::new(keys);
    config.max_concurrent_stream_limit = STREAMS;
    config.max_stream_data = STREAM_WINDOW;
    config.max_connection_data = CONNECTION_WINDOW;
    config.max_idle_timeout = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    config.keep_alive_interval = KEEPALIVE;
    config.handshake_timeout = UPGRADE;
    let quic = quic::tokio::Transport::new(config);
    let circuits = circuits.map(|ready, _| boxed_pair(ready));
    let tcp = tcp.map(|ready, _| boxed_pair(ready));
    let quic = quic.map(|ready, _| boxed_pair(ready));
    let all = circuits
        .or_transport(quic)
        .map(|ready, _| ready.into_inner())
        .or_transport(tcp)
        .map(|ready, _| ready.into_inner());
    let all = TransportTimeout::with_ingoing_timeout(all, HANDSHAKE);
    Ok((Screened::new(all, screen).boxed(), client))
}

fn boxed_pair<M>((peer, muxer): (PeerId, M)) -> (PeerId, StreamMuxerBox)
where
    M: libp2p::core::muxing::StreamMuxer + Send + 'static,
    M::Substream: Send + 'static,
    M::Error: Send + Sync + 'static,
{
    (peer, StreamMuxerBox::new(muxer))
}
