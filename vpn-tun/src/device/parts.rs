//! Makes of a packet with offload those that a program without it takes. Pure.

use vpn_core::packet::segment::{self, SegmentError};
use vpn_core::packet::{BufferPool, Packet};

/// Room for a segment, in bytes, before its buffer grows: an ordinary packet.
const USUAL: usize = 2048;

/// Why not all parts were taken.
#[derive(Debug)]
pub(crate) enum Stopped<E> {
    /// The packet makes no sense.
    Malformed,
    /// The first part was not taken: nothing has happened.
    Before(E),
    /// Some were taken, and the rest was not.
    Amid,
}

/// Hands out the packet as it is, or its segments, each with its checksum complete.
pub(crate) fn each<E>(
    packet: &Packet,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), Stopped<E>> {
    let malformed = |_: SegmentError| Stopped::Malformed;
    if packet.offload.gso.is_none() {
        if !packet.offload.partial_checksum {
            return take(packet.bytes()).map_err(Stopped::Before);
        }
        let mut whole = packet.shrunk();
        segment::complete_checksum(&mut whole).map_err(malformed)?;
        return take(whole.bytes()).map_err(Stopped::Before);
    }
    let mut pool = BufferPool::new(1, USUAL);
    let (mut taken, mut result) = (0, Ok(()));
    segment::split(packet, &mut pool, |part| {
        if result.is_ok() {
            result = take(part.bytes());
            taken += usize::from(result.is_ok());
        }
    })
    .map_err(malformed)?;
    result.map_err(|error| match taken {
        0 => Stopped::Before(error),
        _ => Stopped::Amid,
    })
}
