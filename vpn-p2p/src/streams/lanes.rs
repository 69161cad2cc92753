//! Decides which connections keep together: a connection belongs to a lane for good, and a lane to one
//! stream as long as anything of it is on the way.
//!
//! There is a fixed number of lanes, so nothing grows with the number of connections, and nothing has
//! to be forgotten in time. Connections that share a lane share its stream: the order of a lane holds
//! the order of each.

use std::hash::{Hash, Hasher};

use vpn_core::FlowKey;

use super::frame::StreamId;

/// Lanes of one peer. Many more than streams, so that each stream gets its share: two busy connections
/// meet in one with a probability of 1 in 256. Four kilobytes a peer.
pub const LANES: usize = 256;

/// The lane of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane(u16);

impl Lane {
    /// The lane of this connection. Later fragments have no ports: those of two hosts are one
    /// connection of its own.
    #[inline]
    pub fn of(flow: &FlowKey) -> Self {
        let mut mix = Mix(0);
        flow.hash(&mut mix);
        Self((mix.finish() >> 48) as u16 % LANES as u16)
    }

    /// The lane of whatever begins so.
    #[inline]
    pub fn of_prefix(prefix: &[u8]) -> Self {
        let mut mix = Mix(0);
        for part in prefix.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            mix.write_u64(u64::from_le_bytes(word));
        }
        // A lone word needs a second round: its upper bits are mixed less than those of a flow.
        mix.write_u64(prefix.len() as u64);
        Self((mix.finish() >> 48) as u16 % LANES as u16)
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Multiply and fold: quick, and spread enough for 256 lanes. Who chooses addresses and ports so that
/// all of them meet in one slows down nobody but their own peer.
struct Mix(u64);

impl Hasher for Mix {
    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9_94d0_49bb_1331_11eb);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    stream: StreamId,
    /// Packets that wait for that stream, or are on it and were not acknowledged.
    pending: u32,
}

/// Which stream each lane is on.
#[derive(Debug)]
pub(super) struct Lanes(Box<[Entry]>);

impl Lanes {
    pub(super) fn new() -> Self {
        let unused = Entry {
            stream: StreamId::ours(0),
            pending: 0,
        };
        Self(vec![unused; LANES].into_boxed_slice())
    }

    /// The stream that the lane has to keep; `None` if nothing of it is on the way.
    #[inline]
    pub(super) fn stream(&self, lane: Lane) -> Option<StreamId> {
        let entry = &self.0[lane.index()];
        (entry.pending > 0).then_some(entry.stream)
    }

    /// One packet more is on its way, by this stream.
    #[inline]
    pub(super) fn add(&mut self, lane: Lane, stream: StreamId) {
        let entry = &mut self.0[lane.index()];
        entry.stream = stream;
        entry.pending += 1;
    }

    /// One packet less is on its way: it arrived, was dropped, or is to go another way.
    #[inline]
    pub(super) fn remove(&mut self, lane: Lane) {
        let entry = &mut self.0[lane.index()];
        entry.pending = entry.pending.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpn_core::Protocol;

    #[test]
    fn connections_spread_over_the_lanes() {
        let mut used = vec![0_u32; LANES];
        for port in 0..LANES as u16 * 8 {
            for last in 1..=2 {
                let (src, dst) = ([10, 5, 0, last].into(), [203, 0, 113, 10].into());
                let flow = FlowKey::new(Protocol::TCP, (src, 1024 + port), (dst, 443));
                used[Lane::of(&flow).index()] += 1;
            }
        }
        // Sixteen each on average.
        assert!(used.iter().all(|&n| (2..=48).contains(&n)), "{used:?}");
    }

    #[test]
    fn prefixes_spread_over_the_lanes_and_keep_theirs() {
        let mut used = vec![0_u32; LANES];
        for n in 0..LANES as u32 * 16 {
            let [a, b, c, d] = n.to_le_bytes();
            let prefix = [0x80, 1, 0, 0, a, b, c, d];
            assert_eq!(Lane::of_prefix(&prefix), Lane::of_prefix(&prefix));
            used[Lane::of_prefix(&prefix).index()] += 1;
        }
        assert!(used.iter().all(|&n| (2..=48).contains(&n)), "{used:?}");
        assert_ne!(Lane::of_prefix(&[0]), Lane::of_prefix(&[0, 0]));
    }
}
