//! Address and port translation of one packet, in place and in one go, checksums by difference.

use super::checksum::Delta;
use super::{Message, Packet, Parsed};
use crate::flow::{Family, FlowKey, Protocol};

impl Packet {
    /// Makes this packet, of the flow that `parsed` says, one of the flow `to`: the same protocol
    /// and family, other addresses and ports.
    ///
    /// Checksums are corrected by what changed (RFC 1624), a partial one as the sum it is. An echo
    /// has its identifier where `to` has it: a request in the source port, a reply in the
    /// destination's. What has no ports (a later fragment, an unknown protocol) gets its addresses
    /// rewritten only; a packet of the other family stays as it is.
    ///
    /// ```
    /// use vpn_core::packet::Packet;
    /// # let bytes = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcc, 10, 0, 0, 1, 10, 0, 0, 2,
    /// #              0, 7, 0, 53, 0, 8, 0, 0];
    /// let mut packet = Packet::from_slice(&bytes);
    /// let parsed = packet.parse()?;
    /// let to = parsed.flow.with_source([10, 5, 0, 2].into(), 40_000);
    /// packet.translate(&parsed, &to);
    /// assert_eq!(packet.parse()?.flow, to);
    /// # Ok::<(), vpn_core::ParseError>(())
    /// ```
    #[inline(always)]
    pub fn translate(&mut self, parsed: &Parsed, to: &FlowKey) {
        if parsed.flow.numbers() == to.numbers() && parsed.flow.ports() == to.ports() {
            return;
        }
        let partial = self.offload.partial_checksum;
        let bytes = self.bytes_mut();
        let addresses = match to.family() {
            Family::V4 => write_v4(bytes, &parsed.flow, to),
            Family::V6 => write_v6(bytes, &parsed.flow, to),
        };
        let transport = bytes.get_mut(usize::from(parsed.transport)..);
        if let (Some(addresses), Some(transport)) = (addresses, transport) {
            let end = usize::from(parsed.transport);
            let length = (parsed.total_len as usize).saturating_sub(end);
            write_ports(transport, length, partial, addresses, parsed, to);
        }
    }
}

/// Source and destination of IPv4 as one word.
#[inline]
const fn pair(flow: &FlowKey) -> u64 {
    let (src, dst) = flow.numbers();
    (src as u32 as u64) << 32 | dst as u32 as u64
}

/// Writes the addresses and corrects the header's checksum. `None` if it is no IPv4.
#[inline(always)]
fn write_v4(bytes: &mut [u8], from: &FlowKey, to: &FlowKey) -> Option<Delta> {
    let ip = bytes.first_chunk_mut::<20>()?;
    if ip[0] >> 4 != 4 {
        return None;
    }
    let delta = Delta::words([pair(from)], [pair(to)]);
    put(ip, 12, pair(to).to_be_bytes());
    update(ip, 10, |sum| delta.apply(sum));
    Some(delta)
}

/// Writes the addresses. `None` if it is no IPv6.
#[inline(always)]
fn write_v6(bytes: &mut [u8], from: &FlowKey, to: &FlowKey) -> Option<Delta> {
    let ip = bytes.first_chunk_mut::<40>()?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let words = |flow: &FlowKey| {
        let (src, dst) = flow.numbers();
        [
            (src >> 64) as u64,
            src as u64,
            (dst >> 64) as u64,
            dst as u64,
        ]
    };
    let (src, dst) = to.numbers();
    put(ip, 8, src.to_be_bytes());
    put(ip, 24, dst.to_be_bytes());
    Some(Delta::words(words(from), words(to)))
}

/// Writes the ports or the identifier, and corrects the checksum of the `length` bytes from the
/// transport header on.
#[inline(always)]
fn write_ports(
    bytes: &mut [u8],
    length: usize,
    partial: bool,
    addresses: Delta,
    parsed: &Parsed,
    to: &FlowKey,
) {
    let from = &parsed.flow;
    let ports = Delta::words([from.ports().into()], [to.ports().into()]);
    // A partial checksum covers the pseudo-header only: ports are not in it.
    let both = |sum, ports| match partial {
        true => addresses.apply_partial(sum),
        false => addresses.and(ports).apply(sum),
    };
    match parsed.message {
        Message::Tcp(_) => {
            if let Some(tcp) = bytes.first_chunk_mut::<20>() {
                put(tcp, 0, to.ports().to_be_bytes());
                update(tcp, 16, |sum| both(sum, ports));
            }
        }
        Message::Udp => {
            if let Some(udp) = bytes.first_chunk_mut::<8>() {
                put(udp, 0, to.ports().to_be_bytes());
                // RFC 768: zero means that there is no checksum.
                if partial || udp[6..] != [0, 0] {
                    update(udp, 6, |sum| match both(sum, ports) {
                        0 if !partial => 0xffff,
                        sum => sum,
                    });
                }
            }
        }
        Message::EchoRequest | Message::EchoReply => {
            let (old, new) = match parsed.message {
                Message::EchoRequest => (from.src_port(), to.src_port()),
                _ => (from.dst_port(), to.dst_port()),
            };
            let identifier = Delta::words([old.into()], [new.into()]);
            let covers_addresses = from.protocol() == Protocol::ICMPV6;
            if let Some(icmp) = bytes.first_chunk_mut::<8>() {
                put(icmp, 4, new.to_be_bytes());
                update(icmp, 2, |sum| match covers_addresses {
                    true => both(sum, identifier),
                    false => identifier.apply(sum),
                });
            }
            if !covers_addresses && let Some(message) = bytes.get_mut(..length) {
                keep_zero_of_nothing(message);
            }
        }
        Message::IcmpError | Message::OtherIcmp => {
            if from.protocol() == Protocol::ICMPV6
                && let Some(icmp) = bytes.first_chunk_mut::<8>()
            {
                update(icmp, 2, |sum| match partial {
                    true => addresses.apply_partial(sum),
                    false => addresses.apply(sum),
                });
            }
        }
        Message::LaterFragment | Message::Other => {}
    }
}

/// RFC 1624 §3: by difference, the checksum of nothing but zeros comes out as 0 and should be
/// 0xFFFF. Only an ICMP echo reply can be all zeros, all others have something in their header or
/// pseudo-header; the first bytes tell nearly always.
#[inline]
fn keep_zero_of_nothing(message: &mut [u8]) {
    if message.iter().all(|&byte| byte == 0)
        && let Some(checksum) = message.get_mut(2..4)
    {
        checksum.fill(0xff);
    }
}

#[inline(always)]
fn update<const N: usize>(bytes: &mut [u8; N], at: usize, change: impl FnOnce(u16) -> u16) {
    let new = change(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    put(bytes, at, new.to_be_bytes());
}

/// Writes a field. It lies within the header, so there is nothing to check where `at` is a number.
#[inline(always)]
fn put<const N: usize, const M: usize>(header: &mut [u8; M], at: usize, field: [u8; N]) {
    if let Some(place) = header.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = field;
    }
}
