//! What is on the other side of a device or a transport, played by a test.

use async_trait::async_trait;

use super::drive::yields;
use crate::packet::{Packet, Parsed};
use crate::testing::build;

/// The other side of a device (its applications) or of a transport (its peer).
///
/// Packets carry a number, so that order, loss and repetition can be told whatever happens to
/// them on their way. [`numbered`] makes such packets and [`number_of`] reads them; a device that has
/// a say in what its packets look like brings its own.
#[async_trait]
pub trait FarEnd: Send + Sync {
    /// Sends a packet with this number to the implementation.
    async fn send(&self, number: u16);

    /// The number of the next packet that the implementation delivered here. Waits for ever if none
    /// comes.
    async fn receive(&self) -> u16;

    /// A packet with this number that the implementation carries.
    fn packet(&self, number: u16) -> Packet {
        Packet::from_slice(&numbered(number))
    }

    /// The number of a packet that was received; `None` for what the system says by itself, which
    /// is passed over.
    fn number(&self, packet: &[u8]) -> Option<u16> {
        number_of(packet)
    }

    /// A packet that the implementation refuses, and counts. By default one that is larger than
    /// it says it takes; `None` if it takes everything.
    fn refused(&self, largest: usize) -> Option<Packet> {
        Some(Packet::from_slice(&vec![0x45; largest + 1]))
    }

    /// Whether it stops taking packets when nobody takes them from it, after some thousand at
    /// most. Not so where a system swallows what is too much. Default: it does.
    fn fills_up(&self) -> bool {
        true
    }

    /// Returns when what did not happen until then will not happen any more. The default gives way
    /// to other tasks a thousand times, which is enough in memory; where a kernel, a thread or a
    /// network has a part in it, sleep for some seconds.
    async fn patience(&self) {
        yields(1000).await;
    }
}

/// A UDP datagram from 10.5.0.2 to 203.0.113.10 that carries a number.
pub fn numbered(number: u16) -> Vec<u8> {
    build::udp("10.5.0.2:4000", "203.0.113.10:7", &number.to_be_bytes())
}

/// The number of a packet that [`numbered`] made, or of any UDP datagram whose payload is two bytes.
pub fn number_of(packet: &[u8]) -> Option<u16> {
    let parsed = Parsed::from_bytes(packet).ok()?;
    let payload = packet.get(usize::from(parsed.payload)..)?;
    Some(u16::from_be_bytes(payload.try_into().ok()?))
}
