//! What a packet costs beside the cryptography: allocations, counted; and time, shown only.
#![cfg(feature = "wireguard")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::time::{Duration, Instant};

use common::{Keys, local, port, transport, udp};
use vpn_core::packet::Packet;
use vpn_core::{DropCounters, PacketBatch, TransportState, TunnelTransport as _};
use vpn_p2p::WireGuardTransport;

const BATCH: usize = 64;
const ROUNDS: usize = 200;

/// Reads until so many packets were there; returns the time spent in `try_recv`.
fn read(end: &WireGuardTransport, batch: &mut PacketBatch, wanted: usize) -> Duration {
    let (mut received, mut spent) = (0, Duration::ZERO);
    let deadline = Instant::now() + common::PATIENCE;
    let mut drops = DropCounters::default();
    while received < wanted {
        assert!(
            Instant::now() < deadline,
            "{received} of {wanted}: {drops:?}"
        );
        let start = Instant::now();
        received += end.try_recv(batch, &mut drops).unwrap();
        spent += start.elapsed();
        batch.clear();
    }
    spent
}

/// Both ends by hand, so that nothing else allocates on this thread. The runtime's other thread
/// has the timers and the readiness of sockets.
#[test]
fn one_allocation_seals_and_none_opens() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (client, server) = runtime.block_on(async {
        let keys = Keys::new();
        let server = transport(&keys.server_file(0, "10.5.0.2/32"), local());
        let endpoint = format!("127.0.0.1:{}", port(&server));
        (
            transport(&keys.client_file(&endpoint, "0.0.0.0/0"), local()),
            server,
        )
    });
    let mut batch = PacketBatch::new(BATCH, 1500);
    let mut drops = DropCounters::default();
    let deadline = Instant::now() + common::PATIENCE;
    while [&client, &server]
        .iter()
        .any(|t| !matches!(t.state().get(), TransportState::Up(_)))
    {
        assert!(Instant::now() < deadline);
        for end in [&client, &server] {
            end.try_recv(&mut batch, &mut drops).unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let packet = udp("10.5.0.2", "198.51.100.7", &[7; 1372]);
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    let (mut sealed, mut opened) = (0, 0);
    for round in 0..ROUNDS {
        let mut out = PacketBatch::new(BATCH, 1500);
        for _ in 0..BATCH {
            assert!(out.push(Packet::from_slice(&packet)).is_ok());
        }
        let counted = allocation_counter::measure(|| {
            let start = Instant::now();
            assert_eq!(client.try_send(&mut out, &mut drops).unwrap(), BATCH);
            sealing += start.elapsed();
        });
        let mut spent = Duration::ZERO;
        let received = allocation_counter::measure(|| spent = read(&server, &mut batch, BATCH));
        opening += spent;
        // The first rounds make buffers.
        if round >= ROUNDS / 2 {
            sealed += counted.count_total;
            opened += received.count_total;
        }
    }
    let packets = (ROUNDS / 2 * BATCH) as f64;
    let (sealed, opened) = (sealed as f64 / packets, opened as f64 / packets);
    let each = |time: Duration| time.as_nanos() / (ROUNDS * BATCH) as u128;
    println!(
        "1400 B: {sealed:.2} allocations and {} ns to send, {opened:.2} and {} ns to receive",
        each(sealing),
        each(opening)
    );
    // gotatun's own: one per sealed packet.
    assert!(sealed < 1.1, "{sealed} allocations per packet sent");
    assert!(opened < 0.2, "{opened} allocations per packet received");
}
