//! A tunnel over TCP, where nothing else passes: one end opens streams, the other accepts them, and each
//! connection inside keeps its order. One stream is cut on the way. TCP alone protects nothing: put
//! TLS in its place, or use it inside of what is protected.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use vpn_core::testing::build;
use vpn_core::{Assigned, DropCounters, Packet, PacketBatch, TransportState, TunnelTransport};
use vpn_p2p::streams::{Budget, PoolConfig, StreamTransport, StreamTunnel, TcpOpener};

const CONNECTIONS: u16 = 8;
const PACKETS: u32 = 20_000;

fn tunnel(address: &str, peer: &str) -> Result<StreamTunnel, Box<dyn Error>> {
    Ok(StreamTunnel {
        assigned: Assigned {
            addresses: vec![address.parse()?],
            mtu: 1400,
            ..Assigned::default()
        },
        // What the peer may send from; all else is dropped and counted.
        allowed: vec![peer.parse()?],
        config: PoolConfig {
            max_streams_per_peer: 4,
            warm_streams: 2,
            ..PoolConfig::default()
        },
    })
}

/// Who accepts has found out who the peer is, by TLS say, and gives its streams to its tunnel. The
/// first one is led over a relay here, so that it can be cut.
async fn accept(listener: TcpListener, far: Arc<StreamTransport>, cut: CancellationToken) {
    let mut first = true;
    while let Ok((stream, _)) = listener.accept().await {
        if !std::mem::take(&mut first) {
            // A refused stream is closed; the peer tries again.
            let _ = far.accept(Box::new(stream));
            continue;
        }
        let (ours, theirs) = tokio::io::duplex(4096);
        let _ = far.accept(Box::new(theirs));
        tokio::spawn(relay(stream, ours, cut.clone()));
    }
}

async fn relay(mut stream: TcpStream, mut to: tokio::io::DuplexStream, cut: CancellationToken) {
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut stream, &mut to) => {}
        () = cut.cancelled() => println!("a stream is cut"),
    }
}

/// Numbered packets of several connections in turns, as fast as the tunnel takes them.
async fn send(near: &StreamTransport, cut: CancellationToken) -> Result<(), Box<dyn Error>> {
    let (mut batch, mut drops) = (PacketBatch::new(64, 1500), DropCounters::default());
    let mut number = 0;
    while number < PACKETS || !batch.is_empty() {
        while number < PACKETS && !batch.is_full() {
            let from = format!("10.9.0.2:{}", 4000 + number as u16 % CONNECTIONS);
            let payload = number.to_be_bytes();
            let packet = build::udp(&*from, "10.9.0.1:7", &payload);
            // There is room: the batch is not full.
            let _ = batch.push(Packet::from_slice(&packet));
            number += 1;
        }
        near.try_send(&mut batch, &mut drops)?;
        if number > PACKETS / 2 {
            cut.cancel();
        }
        near.writable().await?;
    }
    assert_eq!(
        drops.total(),
        0,
        "what there is no room for stays in the batch"
    );
    Ok(())
}

/// Takes packets until none comes any more; how many came of each connection. None overtakes another of
/// its connection.
async fn receive(far: &StreamTransport) -> Result<BTreeMap<u16, u32>, Box<dyn Error>> {
    let (mut batch, mut drops) = (PacketBatch::new(64, 1500), DropCounters::default());
    let (mut last, mut count) = (BTreeMap::new(), BTreeMap::new());
    while let Ok(ready) = tokio::time::timeout(Duration::from_secs(1), far.readable()).await {
        ready?;
        far.try_recv(&mut batch, &mut drops)?;
        for packet in batch.packets() {
            let parsed = packet.parse()?;
            let payload = &packet.bytes()[usize::from(parsed.payload)..];
            let number = u32::from_be_bytes(payload.try_into()?);
            let before = last.insert(parsed.flow.src_port(), number);
            assert!(before < Some(number), "{before:?}, then {number}");
            *count.entry(parsed.flow.src_port()).or_default() += 1;
        }
        batch.clear();
    }
    assert_eq!(drops.total(), 0);
    Ok(count)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let opener = Arc::new(TcpOpener::new(listener.local_addr()?));
    let far = tunnel("10.9.0.1/24", "10.9.0.2/32")?;
    let far = Arc::new(StreamTransport::listen(far, Budget::new(8 << 20))?);
    let near = tunnel("10.9.0.2/24", "10.9.0.1/32")?;
    let near = StreamTransport::connect(opener, near, Budget::new(8 << 20))?;
    let cut = CancellationToken::new();
    let accepting = tokio::spawn(accept(listener, far.clone(), cut.clone()));

    let mut state = near.state();
    while !matches!(state.next().await, TransportState::Up(_)) {}
    let (sent, arrived) = tokio::join!(send(&near, cut), receive(&far));
    sent?;
    let arrived: u32 = arrived?.values().sum();

    let status = near.status();
    let lost = status.counters.drops.total();
    println!(
        "{PACKETS} sent, {arrived} arrived in order, {lost} lost with the stream: {status:#?}"
    );
    assert_eq!(u64::from(PACKETS), u64::from(arrived) + lost);
    assert_eq!(status.counters.broken, 1);
    near.close().await;
    far.close().await;
    accepting.abort();
    Ok(())
}
