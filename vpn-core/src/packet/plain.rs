//! Packets of the usual shape, read and translated without a detour: IPv4 without options, whole,
//! TCP or UDP, and as long as they say. Nearly every packet is one.

use super::checksum::Delta;
use super::{Message, Offload, Packet, TcpMarks};
use crate::flow::{FlowKey, Protocol};

/// The longest header looked at: IPv4 and TCP without options.
const HEADER: usize = 40;

/// A packet of the usual shape. What [`Packet::parse`] and [`Packet::translate`] do with one, in a
/// third of the instructions: all fields lie at known places.
#[derive(Debug)]
pub struct Plain<'a> {
    header: &'a mut [u8; HEADER],
    len: usize,
    is_tcp: bool,
    offload: Offload,
}

impl Packet {
    /// The packet, if it is of the usual shape; `None` says nothing about it, not even that it is
    /// wrong.
    #[inline(always)]
    pub fn plain(&mut self) -> Option<Plain<'_>> {
        let offload = self.offload;
        let bytes = self.bytes_mut();
        let len = bytes.len();
        let header = bytes.first_chunk_mut::<HEADER>()?;
        // Version, header length and total length; fragment offset and "more fragments".
        let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        if first & 0xff00_ffff != 0x4500_0000 | len as u32 || fragment & 0x3fff != 0 {
            return None;
        }
        let is_tcp = match Protocol(header[9]) {
            Protocol::TCP => {
                let tcp = usize::from(header[32] >> 4) * 4;
                (20..=len - 20).contains(&tcp).then_some(true)?
            }
            Protocol::UDP => {
                let udp = usize::from(u16::from_be_bytes([header[24], header[25]]));
                (udp == len - 20).then_some(false)?
            }
            _ => return None,
        };
        Some(Plain {
            header,
            len,
            is_tcp,
            offload,
        })
    }
}

impl Plain<'_> {
    /// The flow it is of.
    #[inline(always)]
    pub fn flow(&self) -> FlowKey {
        let protocol = match self.is_tcp {
            true => Protocol::TCP,
            false => Protocol::UDP,
        };
        let (addresses, ports) = (self.addresses(), self.ports());
        let src = ((addresses >> 32) as u32, (ports >> 16) as u16);
        FlowKey::v4(protocol, src, (addresses as u32, ports as u16))
    }

    /// What kind of message.
    #[inline(always)]
    pub const fn message(&self) -> Message {
        match self.is_tcp {
            true => Message::Tcp(self.header[33]),
            false => Message::Udp,
        }
    }

    /// Length of the packet in bytes.
    #[inline(always)]
    pub const fn total_len(&self) -> usize {
        self.len
    }

    /// Length of the largest packet that this is on a wire: of a super-packet, a segment's.
    #[inline(always)]
    pub fn largest(&self) -> usize {
        match self.offload.gso {
            Some(gso) => self.headers() + usize::from(gso.size),
            None => self.len,
        }
    }

    /// How many packets this is on a wire, as [`Packet::segments`](super::Packet::segments).
    #[inline(always)]
    pub fn segments(&self) -> usize {
        match self.offload.gso {
            Some(gso) => {
                let payload = self.len.saturating_sub(self.headers());
                payload.div_ceil(usize::from(gso.size).max(1)).max(1)
            }
            None => 1,
        }
    }

    /// Length of the headers in bytes.
    #[inline(always)]
    fn headers(&self) -> usize {
        20 + match self.is_tcp {
            true => usize::from(self.header[32] >> 4) * 4,
            false => 8,
        }
    }

    /// Where the sender of a segment without SYN and FIN, with ACK, stands. Of anything else it says
    /// nothing.
    #[inline(always)]
    pub const fn marks(&self) -> TcpMarks {
        let h = &self.header;
        let headers = 20 + (h[32] >> 4) as usize * 4;
        let data = self.len.wrapping_sub(headers) as u32;
        TcpMarks {
            next: u32::from_be_bytes([h[24], h[25], h[26], h[27]]).wrapping_add(data),
            acknowledged: u32::from_be_bytes([h[28], h[29], h[30], h[31]]),
        }
    }

    /// Makes it one of the flow `to`, of the same protocol and family, as [`Packet::translate`]
    /// does.
    #[inline(always)]
    pub fn translate(&mut self, to: &FlowKey) {
        let (src, dst) = to.numbers();
        let addresses = u64::from(src as u32) << 32 | u64::from(dst as u32);
        let (old, old_ports, ports) = (self.addresses(), self.ports(), to.ports());
        if old == addresses && old_ports == ports {
            return;
        }
        let moved = Delta::words([old], [addresses]);
        let all = Delta::words([old, old_ports.into()], [addresses, ports.into()]);
        // A partial checksum covers the pseudo-header only: ports are not in it.
        let (partial, header) = (self.offload.partial_checksum, &mut *self.header);
        let both = |sum| match partial {
            true => moved.apply_partial(sum),
            false => all.apply(sum),
        };
        let [a0, a1, a2, a3, a4, a5, a6, a7] = addresses.to_be_bytes();
        let [p0, p1, p2, p3] = ports.to_be_bytes();
        let ip = moved.apply(u16::from_be_bytes([header[10], header[11]]));
        [header[10], header[11]] = ip.to_be_bytes();
        [
            header[12], header[13], header[14], header[15], header[16], header[17], header[18],
            header[19], header[20], header[21], header[22], header[23],
        ] = [a0, a1, a2, a3, a4, a5, a6, a7, p0, p1, p2, p3];
        if self.is_tcp {
            let sum = both(u16::from_be_bytes([header[36], header[37]]));
            [header[36], header[37]] = sum.to_be_bytes();
            return;
        }
        let old = u16::from_be_bytes([header[26], header[27]]);
        // RFC 768: zero means that there is no checksum.
        if partial || old != 0 {
            let sum = match both(old) {
                0 if !partial => 0xffff,
                sum => sum,
            };
            [header[26], header[27]] = sum.to_be_bytes();
        }
    }

    #[inline(always)]
    const fn addresses(&self) -> u64 {
        let h = &self.header;
        u64::from_be_bytes([h[12], h[13], h[14], h[15], h[16], h[17], h[18], h[19]])
    }

    #[inline(always)]
    const fn ports(&self) -> u32 {
        let h = &self.header;
        u32::from_be_bytes([h[20], h[21], h[22], h[23]])
    }
}
