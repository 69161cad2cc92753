//! A device with several queues, in a namespace of its own: every flow keeps its order.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use common::{Result, in_namespace};
use tokio::net::UdpSocket;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{DropCounters, Parsed, TunDevice};
use vpn_tun::{LinuxTun, TunConfig};

const QUEUES: u16 = 4;
const FLOWS: u16 = 32;
const PACKETS: u32 = 60;

async fn queues(offload: bool) -> Result<Vec<LinuxTun>> {
    let config = TunConfig::named("vpn0".parse()?)
        .mtu(1400)
        .queue_len(10_000);
    let queues = NonZeroU16::new(QUEUES).ok_or("no queues")?;
    let queues = LinuxTun::create_queues(config.offload(offload), queues)?;
    let handle = common::netlink();
    let (index, address) = (queues[0].index(), "10.5.0.2".parse()?);
    handle.address().add(index, address, 16).execute().await?;
    common::link_up(&handle, index).await?;
    Ok(queues)
}

/// By source port: which queues its packets came out of, and their numbers in order of arrival.
type Seen = BTreeMap<u16, (BTreeSet<usize>, Vec<u32>)>;

/// Reads all queues in turn until everything is there; answers on the queue a packet came from, if
/// that is asked for.
async fn read(queues: &[LinuxTun], expected: usize, answer: bool, seen: &mut Seen) -> Result<()> {
    let mut batch = PacketBatch::new(7, 65_535);
    let mut answers = PacketBatch::new(7, 65_535);
    let mut drops = DropCounters::default();
    let mut count = 0;
    let all = async {
        while count < expected {
            tokio::task::yield_now().await;
            for (number, queue) in queues.iter().enumerate() {
                queue.try_recv(&mut batch, &mut drops)?;
                for packet in batch.packets() {
                    let Ok(parsed) = Parsed::from_bytes(packet.bytes()) else {
                        continue;
                    };
                    if parsed.flow.dst_port() != 53 {
                        continue;
                    }
                    let at = usize::from(parsed.payload);
                    let sequence = u32::from_be_bytes(packet.bytes()[at..at + 4].try_into()?);
                    let flow = seen.entry(parsed.flow.src_port()).or_default();
                    flow.0.insert(number);
                    flow.1.push(sequence);
                    count += 1;
                    if answer {
                        let mut bytes = packet.bytes().to_vec();
                        let (src, dst) = bytes[12..20].split_at_mut(4);
                        src.swap_with_slice(dst);
                        bytes[20..24].rotate_left(2);
                        let answer = Packet::from_slice(&bytes).with_offload(packet.offload);
                        answers.push(answer).unwrap();
                    }
                }
                batch.clear();
                queue.try_send(&mut answers, &mut drops)?;
                answers.clear();
            }
        }
        Result::Ok(())
    };
    let done = tokio::time::timeout(Duration::from_secs(20), all).await;
    done.map_err(|_| "packets are missing")?
}

async fn keeps_order(offload: bool, answer: bool) -> Result<()> {
    let queues = queues(offload).await?;
    let mut flows = Vec::new();
    for _ in 0..FLOWS {
        let socket = UdpSocket::bind("10.5.0.2:0").await?;
        socket.connect("10.5.0.7:53").await?;
        flows.push(socket);
    }
    let mut seen = Seen::new();
    // In parts: answers move flows between them.
    for part in 0..3 {
        for n in part * PACKETS..(part + 1) * PACKETS {
            for flow in &flows {
                flow.send(&n.to_be_bytes()).await?;
            }
        }
        let expected = usize::from(FLOWS) * PACKETS as usize;
        read(&queues, expected, answer, &mut seen).await?;
    }
    assert_eq!(seen.len(), usize::from(FLOWS));
    let expected: Vec<u32> = (0..3 * PACKETS).collect();
    let mut used: BTreeSet<usize> = BTreeSet::new();
    for (port, (queues, numbers)) in &seen {
        assert_eq!(numbers, &expected, "flow {port}");
        assert_eq!(queues.len(), 1, "flow {port} came out of {queues:?}");
        used.extend(queues);
    }
    assert!(used.len() > 1, "only {used:?} of {QUEUES} queues was used");
    println!("{FLOWS} flows in {} of {QUEUES} queues", used.len());
    Ok(())
}

#[test]
fn every_flow_keeps_its_queue_and_order() {
    in_namespace(|| keeps_order(false, false));
    in_namespace(|| keeps_order(false, true));
}

#[test]
fn also_with_offload() {
    in_namespace(|| keeps_order(true, true));
}

#[test]
fn the_interface_goes_with_the_last_queue() {
    in_namespace(|| async {
        let mut queues = queues(false).await?;
        let handle = common::netlink();
        while let Some(queue) = queues.pop() {
            assert!(common::index(&handle, "vpn0").await.is_ok());
            queue.shutdown();
        }
        common::gone(&handle, "vpn0").await?;
        let many = NonZeroU16::new(257).ok_or("zero")?;
        assert!(LinuxTun::create_queues(TunConfig::default(), many).is_err());
        Ok(())
    });
}
