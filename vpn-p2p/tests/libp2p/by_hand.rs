//! A node of libp2p made by hand: it speaks the protocols and does what a test wants.

use std::time::Duration;

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, kad};
use vpn_core::PeerRecord;
use vpn_p2p::directory::records::encode;

#[derive(NetworkBehaviour)]
pub(crate) struct ByHand {
    pub(crate) kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    pub(crate) streams: libp2p_stream::Behaviour,
}

/// Number `n`.
pub(crate) fn swarm(n: u8) -> Swarm<ByHand> {
    let keys = Keypair::ed25519_from_bytes([n; 32]).unwrap();
    SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_quic()
        .with_behaviour(|keys| {
            let own = keys.public().to_peer_id();
            let config = kad::Config::new(StreamProtocol::new("/vpn/kad/1"));
            let mut kad = kad::Behaviour::with_config(own, MemoryStore::new(own), config);
            kad.set_mode(Some(kad::Mode::Server));
            let identify = identify::Config::new("/vpn/1".to_owned(), keys.public());
            let identify = identify::Behaviour::new(identify);
            let streams = libp2p_stream::Behaviour::new();
            ByHand {
                kad,
                identify,
                streams,
            }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build()
}

/// Before it dials, so that it can say where it listens.
pub(crate) async fn listen(swarm: &mut Swarm<ByHand>) {
    swarm
        .listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap())
        .unwrap();
    while !matches!(swarm.next().await, Some(SwarmEvent::NewListenAddr { .. })) {}
}

/// Says who it is; whether that was answered.
pub(crate) async fn say_hello(
    streams: &mut libp2p_stream::Control,
    to: PeerId,
    record: &PeerRecord,
) -> bool {
    const HELLO: StreamProtocol = StreamProtocol::new("/vpn/hello/3");
    let Ok(mut stream) = streams.open_stream(to, HELLO).await else {
        return false;
    };
    let words = [&[0; 8][..], &encode(record)].concat();
    let mut answer = Vec::new();
    let said = async {
        stream.write_all(&words).await?;
        stream.close().await?;
        stream.read_to_end(&mut answer).await
    };
    said.await.is_ok() && !answer.is_empty()
}
