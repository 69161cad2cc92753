//! Decides which packets of one receive call go on as one: consecutive segments of a stream, equal
//! datagrams of a flow. Pure.
//!
//! The peer cut them from what an application sent at once; joined again they are looked up,
//! rewritten and written to the device once. Flows come mixed, so the newest packet of each is
//! remembered. Order within a flow is kept: what does not continue that packet takes its place.

use super::{PacketBatch, coalesce, coalesce_datagrams};
use crate::Offload;

/// Flows remembered at the same time: a sender's queue hands out few at once, and each costs one
/// compare. What a forgotten one sends goes on as it came.
const FLOWS: usize = 8;

/// Buffers of at least so many bytes take super-packets: the device has offload.
const WORTH_JOINING: usize = 16_384;

/// Protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// DNS: the router looks at each message.
const DNS: [u8; 2] = 53u16.to_be_bytes();

/// What tells flows apart. Two may have the same: they are not joined then, for all of their headers
/// is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    mixed: u64,
}

/// What one receive call remembers of its packets: a fresh one for each call.
///
/// ```
/// use vpn_core::packet::{Joiner, PacketBatch, tcp_flags};
/// use vpn_core::testing::build;
/// let (mut batch, mut joiner) = (PacketBatch::new(64, 65_535), Joiner::default());
/// for sequence in [1, 101, 201] {
///     let ends = ("203.0.113.10:80", "10.5.0.2:4000");
///     let part = build::tcp(ends.0, ends.1, tcp_flags::ACK, sequence, &[7; 100]);
///     assert!(joiner.append(&part, &mut batch));
/// }
/// assert_eq!((batch.len(), batch.packets()[0].segments()), (1, 3));
/// ```
#[derive(Debug, Default)]
pub struct Joiner {
    /// A flow, and where in the batch its newest packet is.
    newest: [Option<(Flow, usize)>; FLOWS],
    /// The place that is taken next.
    next: usize,
}

impl Joiner {
    /// Appends a packet, its checksums complete, to its flow's newest one, or else to the batch;
    /// only to the batch if that takes packets of less than 16 KiB: who reads it has no use for
    /// longer ones. `false` if the batch is full and it went nowhere.
    pub fn append(&mut self, packet: &[u8], batch: &mut PacketBatch) -> bool {
        let longest = batch.pool_mut().largest_packet();
        let flow = match longest >= WORTH_JOINING {
            true => Flow::of(packet),
            false => None,
        };
        let Some(flow) = flow else {
            return push(packet, batch);
        };
        let place = self.newest.iter().position(|entry| is(entry, flow));
        if let Some((_, at)) = place.and_then(|place| self.newest[place])
            && let Some(head) = batch.packets_mut().get_mut(at)
        {
            let joined = match flow.protocol {
                TCP => coalesce(head, packet, longest),
                _ => coalesce_datagrams(head, packet, longest),
            };
            if joined {
                return true;
            }
        }
        let at = batch.len();
        let pushed = push(packet, batch);
        if pushed {
            let place = place.unwrap_or_else(|| {
                self.next = (self.next + 1) % FLOWS;
                self.next
            });
            self.newest[place] = Some((flow, at));
        }
        pushed
    }
}

fn is(entry: &Option<(Flow, usize)>, flow: Flow) -> bool {
    entry.is_some_and(|(other, _)| other == flow)
}

/// Copied, so that the packet has room in front and a pooled buffer.
fn push(packet: &[u8], batch: &mut PacketBatch) -> bool {
    batch.push_with(|buffer| {
        buffer.extend_from_slice(packet);
        Some(Offload::NONE)
    })
}

impl Flow {
    /// `None`: nothing that is ever joined.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (protocol, addresses, ports) = match bytes.first()? {
            0x45 => (*bytes.get(9)?, bytes.get(12..20)?, bytes.get(20..24)?),
            first if first >> 4 == 6 => (*bytes.get(6)?, bytes.get(8..40)?, bytes.get(40..44)?),
            _ => return None,
        };
        match protocol {
            TCP => {}
            UDP if ports[..2] != DNS && ports[2..] != DNS => {}
            _ => return None,
        }
        let mut mixed = u64::from(u32::from_ne_bytes(ports.try_into().ok()?));
        for word in addresses.chunks_exact(8) {
            // Odd, and without a pattern: addresses and ports do not cancel each other.
            mixed = mixed.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ u64::from_ne_bytes(word.try_into().ok()?);
        }
        Some(Self { protocol, mixed })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BufferPool, Packet, segment, tcp_flags};
    use super::*;
    use crate::testing::build;

    const HERE: &str = "10.5.0.2:4000";

    fn part(from: &str, sequence: u32, payload: &[u8]) -> Vec<u8> {
        build::tcp(from, HERE, tcp_flags::ACK, sequence, payload)
    }

    fn joined(packets: &[Vec<u8>], capacity: usize, largest: usize) -> PacketBatch {
        let mut batch = PacketBatch::new(capacity, largest);
        let mut joiner = Joiner::default();
        for packet in packets {
            joiner.append(packet, &mut batch);
        }
        batch
    }

    fn cut(batch: &PacketBatch) -> Vec<Vec<u8>> {
        let (mut pool, mut out) = (BufferPool::new(64, 2048), Vec::new());
        for packet in batch.packets() {
            segment::split(packet, &mut pool, |part| out.push(part.bytes().to_vec())).unwrap();
        }
        out
    }

    #[test]
    fn mixed_streams_become_one_packet_each() {
        let mut packets = Vec::new();
        for n in 0..20 {
            for (port, fill) in [(80, 1), (81, 2), (82, 3)] {
                let from = format!("203.0.113.10:{port}");
                packets.push(part(&from, 1 + n * 1000, &[fill; 1000]));
            }
            let from = "[2001:db8:113::10]:80";
            let to = "[fd00:5::2]:4000";
            packets.push(build::tcp(
                from,
                to,
                tcp_flags::ACK,
                1 + n * 1000,
                &[4; 1000],
            ));
        }
        let batch = joined(&packets, 64, 65_535);
        assert_eq!(batch.len(), 4);
        assert!(batch.packets().iter().all(|packet| packet.segments() == 20));
        assert_eq!(cut(&batch).len(), 80);
    }

    /// Each stream comes out as the very packets it went in as, in the same order, whatever else
    /// is between them.
    #[test]
    fn order_within_a_stream_is_kept() {
        let ends = ["203.0.113.10:80", "203.0.113.11:80"];
        let packets: Vec<Vec<u8>> = [
            (0, 1, 1000),
            (1, 1, 1000),
            (0, 1001, 1000),
            // Something is missing: from here on another packet.
            (0, 3001, 1000),
            (1, 1001, 1000),
            // What was missing comes late, and must not go in front.
            (0, 2001, 1000),
            (0, 4001, 1000),
            // Nothing in it.
            (1, 2001, 0),
            (1, 2001, 500),
        ]
        .into_iter()
        .map(|(end, sequence, len)| part(ends[end], sequence, &vec![7; len]))
        .collect();
        let batch = joined(&packets, 64, 65_535);
        assert!(batch.len() < packets.len());
        let out = cut(&batch);
        assert_eq!(out.len(), packets.len());
        for end in ends {
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let from = Flow::of(&part(end, 1, &[]));
                all.iter()
                    .filter(|packet| Flow::of(packet) == from)
                    .cloned()
                    .collect()
            };
            // The identification alone is free.
            let plain = |mut packet: Vec<u8>| {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
                packet
            };
            let (got, sent) = (of(&out), of(&packets));
            assert_eq!(
                got.into_iter().map(plain).collect::<Vec<_>>(),
                sent.into_iter().map(plain).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn equal_datagrams_become_one_packet_but_those_of_dns() {
        let datagrams = |from: &str| vec![build::udp(from, HERE, &[7; 64]); 10];
        let batch = joined(&datagrams("203.0.113.10:443"), 64, 65_535);
        assert_eq!((batch.len(), batch.packets()[0].segments()), (1, 10));
        assert_eq!(joined(&datagrams("203.0.113.10:53"), 64, 65_535).len(), 10);
        let query = vec![build::udp(HERE, "203.0.113.10:53", &[7; 64]); 10];
        assert_eq!(joined(&query, 64, 65_535).len(), 10);
    }

    #[test]
    fn more_streams_than_are_remembered_go_on_as_they_came() {
        let mut packets = Vec::new();
        for n in 0..3 {
            for end in 0..=FLOWS {
                let from = format!("203.0.113.{}:80", end + 1);
                packets.push(part(&from, 1 + n * 100, &[7; 100]));
            }
        }
        let batch = joined(&packets, 64, 65_535);
        assert_eq!(batch.len(), packets.len());
    }

    #[test]
    fn a_full_batch_still_takes_what_continues_its_packets() {
        let packets = [
            part("203.0.113.10:80", 1, &[7; 100]),
            part("203.0.113.11:80", 1, &[7; 100]),
            part("203.0.113.10:80", 101, &[7; 100]),
        ];
        let batch = joined(&packets, 1, 65_535);
        assert_eq!(batch.len(), 1);
        assert_eq!(batch.packets()[0].segments(), 2);
        // A device without offload has no room for them.
        let batch = joined(&packets, 64, 1600);
        assert_eq!(batch.len(), 3);
        let junk = joined(
            &[vec![], vec![0x45], vec![0x60; 40], vec![0x45; 23]],
            8,
            65_535,
        );
        assert_eq!(junk.len(), 4, "for others to refuse");
        let _: &[Packet] = junk.packets();
    }
}
