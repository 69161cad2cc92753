use std::time::Duration;

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Swarm, SwarmBuilder};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const ONE: StreamProtocol = StreamProtocol::new("/test/one/1");
const OTHER: StreamProtocol = StreamProtocol::new("/test/other/1");

fn swarm() -> Swarm<Substreams> {
    SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
        .with_tokio()
        .with_quic()
        .with_behaviour(|_| Substreams::default())
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

fn run(mut swarm: Swarm<Substreams>) {
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
}

async fn empty(control: &Control, peer: &PeerId) {
    let gone = async {
        while control.0.lock().lines.to(peer).is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("something is left");
}

#[tokio::test]
async fn streams_are_opened_accepted_and_refused_and_nothing_is_left_of_who_is_gone() {
    let (mut here, mut there) = (swarm(), swarm());
    let (mine, theirs) = (here.behaviour().control(), there.behaviour().control());
    let mut incoming = theirs.accept(ONE).unwrap();
    assert!(theirs.accept(ONE).is_err());
    let peer = *there.local_peer_id();
    let me = *here.local_peer_id();
    let refused = mine.open(peer, ONE).await.unwrap_err();
    assert!(matches!(refused, OpenError::Io(e) if e.kind() == io::ErrorKind::NotConnected));
    there
        .listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap())
        .unwrap();
    let place = loop {
        if let Some(SwarmEvent::NewListenAddr { address, .. }) = there.next().await {
            break address;
        }
    };
    run(there);
    here.dial(place).unwrap();
    while !here.is_connected(&peer) {
        here.next().await;
    }
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let run = async { while here.next().await.is_some() {} };
        tokio::select! {
            () = run => {}
            _ = stopped => {}
        }
    });
    // All of those that come together are taken.
    let opened = futures_util::future::join_all((0..50).map(|_| mine.open(peer, ONE)));
    let opened = timeout(PATIENCE, opened).await.unwrap();
    let mut ids = Vec::new();
    for (number, opened) in opened.into_iter().enumerate() {
        let (id, mut stream) = opened.unwrap();
        ids.push(id);
        stream.write_all(&[number as u8]).await.unwrap();
        stream.close().await.unwrap();
    }
    let mut came = Vec::new();
    for _ in 0..50 {
        let arrived = timeout(PATIENCE, incoming.arrived()).await.unwrap();
        let mut arrived = arrived.unwrap();
        assert_eq!(arrived.peer, me);
        let mut bytes = Vec::new();
        arrived.stream.read_to_end(&mut bytes).await.unwrap();
        came.extend(bytes);
    }
    came.sort_unstable();
    assert!(came.iter().copied().eq(0..50), "{came:?}");
    let refused = timeout(PATIENCE, mine.open_on(ids[0], OTHER))
        .await
        .unwrap();
    assert!(matches!(refused, Err(OpenError::Unsupported(other)) if other == OTHER));
    assert!(mine.is_there(ids[0]));
    drop(stop);
    empty(&theirs, &me).await;
    let refused = timeout(PATIENCE, mine.open(peer, ONE)).await.unwrap();
    assert!(matches!(refused, Err(OpenError::Io(_))));
}
