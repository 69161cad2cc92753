//! A fixed-capacity batch of packets, and the pool its buffers come from.

use std::ops::Range;

use bytes::BytesMut;

use super::{HEADROOM, Offload, Packet, TAILROOM};

/// Buffers for packets, owned by one worker.
///
/// A buffer is either in the pool or in a packet: releasing twice is impossible, because release
/// takes the packet by value.
#[derive(Debug)]
pub struct BufferPool {
    /// As they came back, with whatever is in them.
    free: Vec<Packet>,
    capacity: usize,
    largest_packet: usize,
}

impl BufferPool {
    /// A pool that keeps up to `capacity` buffers, each for a packet of up to `largest_packet`
    /// bytes. Beyond the capacity, released buffers are freed.
    pub fn new(capacity: usize, largest_packet: usize) -> Self {
        Self {
            // Most pools pass on what they get, and never hold as many.
            free: Vec::new(),
            capacity,
            largest_packet,
        }
    }

    /// An empty buffer with [`HEADROOM`] bytes in front, for up to `largest_packet` bytes.
    #[inline]
    pub fn take(&mut self) -> BytesMut {
        let mut buf = self.take_used().buf;
        make_empty(&mut buf);
        buf
    }

    /// A buffer with whatever its last packet left in it.
    #[inline]
    fn take_used(&mut self) -> Packet {
        let size = HEADROOM + self.largest_packet + TAILROOM;
        let unused = || Packet::new(BytesMut::with_capacity(size), 0);
        self.free.pop().unwrap_or_else(unused)
    }

    /// Takes a packet's buffer back. One that is too small, or shared, is freed; so is one of
    /// more than twice the size, or a pool for small packets could come to hold super-packets'.
    #[inline]
    pub fn release(&mut self, packet: Packet) {
        if self.free.len() < self.capacity && self.takes(&packet) {
            self.free.push(packet);
        }
    }

    /// Whether a packet's buffer is of the right size.
    #[inline]
    fn takes(&self, packet: &Packet) -> bool {
        let size = HEADROOM + self.largest_packet + TAILROOM;
        (size..=2 * size).contains(&packet.buf.capacity())
    }

    /// Whether all of these would be kept.
    fn takes_all(&self, packets: &[Packet]) -> bool {
        let room = self.capacity.saturating_sub(self.free.len());
        packets.len() <= room && packets.iter().all(|packet| self.takes(packet))
    }

    /// Moves buffers over from another pool until this one is full or that one empty.
    pub fn refill_from(&mut self, other: &mut Self) {
        if self.largest_packet != other.largest_packet {
            return;
        }
        let room = self.capacity - self.free.len();
        match other.free.len().checked_sub(room) {
            None | Some(0) => self.free.append(&mut other.free),
            Some(from) => self.free.extend(other.free.drain(from..)),
        }
    }

    /// Largest packet a buffer holds, in bytes.
    pub const fn largest_packet(&self) -> usize {
        self.largest_packet
    }

    /// Buffers in the pool now.
    pub fn available(&self) -> usize {
        self.free.len()
    }
}

/// Up to a fixed number of packets, in order, with a pool of buffers.
///
/// A full batch hands a packet back instead of growing.
#[derive(Debug)]
pub struct PacketBatch {
    packets: Vec<Packet>,
    capacity: usize,
    pool: BufferPool,
}

impl PacketBatch {
    /// Packets per batch by default: enough to pay for a wake-up, few enough to stay in L2.
    pub const DEFAULT_CAPACITY: usize = 64;

    /// An empty batch for `capacity` packets of up to `largest_packet` bytes each.
    pub fn new(capacity: usize, largest_packet: usize) -> Self {
        Self {
            packets: Vec::with_capacity(capacity),
            capacity,
            pool: BufferPool::new(capacity * 2, largest_packet),
        }
    }

    /// Appends a packet.
    ///
    /// # Errors
    ///
    /// A full batch gives the packet back.
    #[inline]
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.is_full() {
            return Err(packet);
        }
        self.packets.push(packet);
        Ok(())
    }

    /// Takes the packets of a part of a list, as far as there is [room](Self::room), and leaves
    /// empty ones in their places; none at all if it was the whole list.
    ///
    /// A packet that is handed on by value is put together from its fields, and whoever moves it
    /// waits for that: so they are moved from memory to memory.
    #[inline]
    pub fn take_from(&mut self, list: &mut Vec<Packet>, part: Range<usize>) {
        if part.len() == list.len() && part.len() <= self.room() {
            self.packets.append(list);
            return;
        }
        let room = self.room();
        let taken = list.get_mut(part).into_iter().flatten().take(room);
        self.packets.extend(taken.map(std::mem::take));
    }

    /// How many more packets there is room for.
    #[inline(always)]
    pub const fn room(&self) -> usize {
        self.capacity.saturating_sub(self.packets.len())
    }

    /// Appends a packet that `fill` writes into a pooled buffer. `fill` gets an empty buffer with
    /// [`HEADROOM`] in front, appends the packet and returns its offload description, or `None`
    /// if there is none.
    ///
    /// Returns whether a packet was appended; `false` as well if the batch is full.
    #[inline]
    pub fn push_with(&mut self, fill: impl FnOnce(&mut BytesMut) -> Option<Offload>) -> bool {
        if self.is_full() {
            return false;
        }
        // Filled where it stays: moving what has only just been written would wait for the write.
        let packet = self.pool.take_used();
        self.packets.push(packet);
        let filled = self.packets.last_mut().and_then(|packet| packet.fill(fill));
        if filled.is_none()
            && let Some(packet) = self.packets.pop()
        {
            self.pool.release(packet);
        }
        filled.is_some()
    }

    /// Removes all packets, in order. Give each back with [`recycle`](Self::recycle), or keep it.
    pub fn drain(&mut self) -> impl DoubleEndedIterator<Item = Packet> + ExactSizeIterator + '_ {
        self.packets.drain(..)
    }

    /// Swaps the packets out for an empty list, so that the batch's pool can be used meanwhile.
    /// `list` must be empty and keeps its allocation.
    pub fn swap_out(&mut self, list: &mut Vec<Packet>) {
        debug_assert!(list.is_empty());
        std::mem::swap(&mut self.packets, list);
        let missing = self.capacity.saturating_sub(self.packets.capacity());
        self.packets.reserve(missing);
    }

    /// Removes the first `count` packets and takes their buffers back.
    pub fn recycle_front(&mut self, count: usize) {
        let count = count.min(self.packets.len());
        if count == self.packets.len() && self.pool.takes_all(&self.packets) {
            self.pool.free.append(&mut self.packets);
            return;
        }
        for packet in self.packets.drain(..count) {
            self.pool.release(packet);
        }
    }

    /// Takes one packet's buffer back.
    #[inline]
    pub fn recycle(&mut self, packet: Packet) {
        self.pool.release(packet);
    }

    /// Removes all packets and takes their buffers back.
    pub fn clear(&mut self) {
        self.recycle_front(self.packets.len());
    }

    /// The packets.
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// The packets, to be changed.
    pub fn packets_mut(&mut self) -> &mut [Packet] {
        &mut self.packets
    }

    /// How many packets.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether no packet can be appended.
    pub fn is_full(&self) -> bool {
        self.packets.len() >= self.capacity
    }

    /// How many packets it holds at most.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// The pool.
    pub fn pool_mut(&mut self) -> &mut BufferPool {
        &mut self.pool
    }
}

impl Packet {
    /// Makes the packet what `fill` appends to its emptied buffer.
    #[inline]
    fn fill(&mut self, fill: impl FnOnce(&mut BytesMut) -> Option<Offload>) -> Option<()> {
        make_empty(&mut self.buf);
        self.start = HEADROOM as u32;
        self.offload = fill(&mut self.buf)?;
        Some(())
    }
}

/// Leaves the headroom only. What is in it does not matter: whoever uses it writes it.
#[inline]
fn make_empty(buf: &mut BytesMut) {
    if buf.len() >= HEADROOM {
        buf.truncate(HEADROOM);
    } else {
        buf.resize(HEADROOM, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_batch_hands_the_packet_back() {
        let mut batch = PacketBatch::new(1, 100);
        assert!(batch.push(Packet::from_slice(b"one")).is_ok());
        assert_eq!(
            batch.push(Packet::from_slice(b"two")).unwrap_err().bytes(),
            b"two"
        );
        assert!(!batch.push_with(|_| Some(Offload::NONE)));
    }

    /// L-22: a buffer that was given back twice was two packets' at the same time.
    #[test]
    fn buffers_go_round() {
        let mut batch = PacketBatch::new(4, 100);
        for _ in 0..3 {
            let filled = batch.push_with(|buf| {
                buf.extend_from_slice(&[7; 100]);
                Some(Offload::NONE)
            });
            assert!(filled);
            assert_eq!(batch.packets()[0].headroom(), HEADROOM);
            assert_eq!(batch.packets()[0].len(), 100);
            assert!(batch.packets()[0].tailroom() >= TAILROOM);
            batch.clear();
            assert_eq!(batch.pool_mut().available(), 1);
        }
        assert!(!batch.push_with(|_| None));
        assert_eq!(batch.pool_mut().available(), 1);
    }

    #[test]
    fn small_buffers_are_not_pooled() {
        let mut batch = PacketBatch::new(4, 1000);
        batch.recycle(Packet::from_slice(b"small"));
        assert_eq!(batch.pool_mut().available(), 0);
    }

    #[test]
    fn a_pool_for_small_packets_keeps_no_large_buffers() {
        let mut batch = PacketBatch::new(4, 1500);
        batch.recycle(Packet::from_slice(&[0; 65_535]));
        assert_eq!(batch.pool_mut().available(), 0);
        batch.recycle(Packet::from_slice(&[0; 2000]));
        assert_eq!(batch.pool_mut().available(), 1);
    }
}
