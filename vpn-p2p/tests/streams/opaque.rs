//! Packets that are not IP cross whole, and those that begin alike in their order.

use std::collections::HashMap;
use std::sync::Arc;

use vpn_core::{DropCounters, DropReason, Packet, PacketBatch, TransportState};
use vpn_p2p::streams::{Budget, Contents, PoolConfig, Scoring, StreamPool, memory};

const BATCH: usize = 64;

fn config(contents: Contents) -> PoolConfig {
    PoolConfig {
        contents,
        warm_streams: 4,
        // So that all streams are used.
        scoring: Scoring {
            busy_at: 4096,
            ..Scoring::default()
        },
        ..PoolConfig::default()
    }
}

/// Begins so, bears a number, and is as long as it likes.
fn datagram(kind: u64, number: u32) -> Vec<u8> {
    let mut bytes = vec![0x80];
    bytes.extend_from_slice(&kind.to_be_bytes()[1..]);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.resize(bytes.len() + (number as usize * 37) % 3000, 7);
    bytes
}

#[tokio::test]
async fn what_begins_alike_keeps_its_order() {
    const KINDS: u64 = 20;
    const EACH: u32 = 200;
    let (opener, listener) = memory::memory(32 * 1024);
    let budget = Budget::new(8 << 20);
    let near =
        StreamPool::connect(Arc::new(opener), config(Contents::Opaque), budget.clone()).unwrap();
    let far = StreamPool::listen(config(Contents::Opaque), budget).unwrap();
    for _ in 0..4 {
        far.accept(Box::new(listener.accept().await.unwrap()))
            .unwrap();
    }
    let mut state = near.state();
    while !matches!(state.next().await, TransportState::Up(_)) {}
    let mut drops = DropCounters::default();
    let (mut out, mut got) = (
        PacketBatch::new(BATCH, 65_535),
        PacketBatch::new(BATCH, 65_535),
    );
    let mut left = (0..EACH).flat_map(|n| (0..KINDS).map(move |kind| datagram(kind, n)));
    let mut seen: HashMap<[u8; 8], u32> = HashMap::new();
    let mut count = 0;
    while count < KINDS * u64::from(EACH) {
        while !out.is_full()
            && let Some(bytes) = left.next()
        {
            out.push(Packet::from_slice(&bytes)).unwrap();
        }
        near.try_send(&mut out, &mut drops).unwrap();
        if far.try_recv(&mut got).unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        for packet in got.drain() {
            let bytes = packet.bytes();
            let number = u32::from_be_bytes(*bytes[8..].first_chunk().unwrap());
            let next = seen.entry(*bytes.first_chunk().unwrap()).or_default();
            assert_eq!(number, *next);
            let kind = u64::from_be_bytes(*bytes.first_chunk().unwrap()) & 0xff;
            assert_eq!(bytes, datagram(kind, number), "whole");
            *next += 1;
            count += 1;
        }
    }
    assert_eq!(drops, DropCounters::default());
    near.close().await;
    far.close().await;
}

#[tokio::test]
async fn a_pool_for_ip_takes_nothing_else() {
    let (opener, _listener) = memory::memory(32 * 1024);
    let pool =
        StreamPool::connect(Arc::new(opener), config(Contents::Ip), Budget::new(8 << 20)).unwrap();
    let mut drops = DropCounters::default();
    let mut batch = PacketBatch::new(1, 65_535);
    batch.push(Packet::from_slice(&datagram(1, 1))).unwrap();
    assert_eq!(pool.try_send(&mut batch, &mut drops).unwrap(), 0);
    assert_eq!(drops.get(DropReason::Malformed), 1);
    pool.close().await;
}
