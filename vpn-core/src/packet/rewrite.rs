//! Address and port translation of one packet, in place, checksums by difference.

use std::net::IpAddr;

use super::checksum::Delta;
use super::{Message, Packet, Parsed};
use crate::flow::Protocol;

/// Which side of a packet is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// A compiled translation of one side of a flow's packets: made once per flow, applied to each.
///
/// Applies to TCP, UDP and ICMP echo. An echo identifier is the port of the side that has it in
/// the [`FlowKey`](crate::FlowKey): of a request's source and of a reply's destination. The other
/// side of an echo has no port, and only its address is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    side: Side,
    addr: IpAddr,
    port: u16,
    /// Change of the addresses: IPv4 header checksum, and pseudo-header.
    addr_delta: Delta,
    /// Change of the port or echo identifier.
    port_delta: Delta,
}

impl Rewrite {
    /// The translation of `side` from `old` to `new` (address, and port or echo identifier).
    ///
    /// Both addresses are of one family.
    pub fn new(side: Side, old: (IpAddr, u16), new: (IpAddr, u16)) -> Self {
        Self {
            side,
            addr: new.0,
            port: new.1,
            addr_delta: Delta::NONE.address(old.0, new.0),
            port_delta: Delta::NONE.field(old.1, new.1),
        }
    }

    /// The address and port written.
    pub const fn target(&self) -> (IpAddr, u16) {
        (self.addr, self.port)
    }

    /// Rewrites a packet of the flow this was made for.
    ///
    /// One that has no ports to rewrite (a later fragment, an unknown protocol) gets its address
    /// rewritten only; what is no packet at all stays as it is.
    #[inline]
    pub fn apply(&self, packet: &mut Packet) {
        if let Ok(parsed) = packet.parse() {
            self.apply_parsed(packet, &parsed);
        }
    }

    /// As [`apply`](Self::apply), for who has parsed the packet already. A result from before
    /// the other side was rewritten will do: of the flow only the protocol is used.
    ///
    /// # Panics
    ///
    /// Perhaps, if `parsed` is another packet's.
    #[inline]
    pub fn apply_parsed(&self, packet: &mut Packet, parsed: &Parsed) {
        let partial = packet.offload.partial_checksum;
        let bytes = packet.bytes_mut();
        match (self.addr, bytes[0] >> 4) {
            (IpAddr::V4(addr), 4) => {
                let at = if self.side == Side::Source { 12 } else { 16 };
                bytes[at..at + 4].copy_from_slice(&addr.octets());
                update(bytes, 10, |sum| self.addr_delta.apply(sum));
            }
            (IpAddr::V6(addr), 6) => {
                let at = if self.side == Side::Source { 8 } else { 24 };
                bytes[at..at + 16].copy_from_slice(&addr.octets());
            }
            _ => return,
        }
        let transport = usize::from(parsed.transport);
        let port_at = transport + if self.side == Side::Source { 0 } else { 2 };
        let has_port = match parsed.message {
            Message::Tcp(_) | Message::Udp => true,
            Message::EchoRequest => self.side == Side::Source,
            Message::EchoReply => self.side == Side::Destination,
            _ => false,
        };
        match parsed.message {
            Message::Tcp(_) => {
                write16(bytes, port_at, self.port);
                self.update_sum(bytes, transport + 16, partial);
            }
            Message::Udp => {
                write16(bytes, port_at, self.port);
                // RFC 768: zero means that there is no checksum.
                if partial || read16(bytes, transport + 6) != 0 {
                    self.update_sum(bytes, transport + 6, partial);
                    if !partial && read16(bytes, transport + 6) == 0 {
                        write16(bytes, transport + 6, 0xffff);
                    }
                }
            }
            Message::EchoRequest | Message::EchoReply => {
                let port_delta = if has_port {
                    write16(bytes, transport + 4, self.port);
                    self.port_delta
                } else {
                    Delta::NONE
                };
                let pseudo_header = parsed.flow.protocol() == Protocol::ICMPV6;
                update(bytes, transport + 2, |sum| match (pseudo_header, partial) {
                    (true, true) => self.addr_delta.apply_partial(sum),
                    (true, false) => port_delta.apply(self.addr_delta.apply(sum)),
                    (false, _) => port_delta.apply(sum),
                });
                if !pseudo_header {
                    keep_zero_of_nothing(&mut bytes[transport..parsed.total_len as usize]);
                }
            }
            Message::IcmpError | Message::OtherIcmp => {
                if parsed.flow.protocol() == Protocol::ICMPV6 {
                    update(bytes, transport + 2, |sum| {
                        if partial {
                            self.addr_delta.apply_partial(sum)
                        } else {
                            self.addr_delta.apply(sum)
                        }
                    });
                }
            }
            Message::LaterFragment | Message::Other => {}
        }
    }

    /// A partial checksum covers the pseudo-header only: ports are not in it.
    #[inline]
    fn update_sum(&self, bytes: &mut [u8], at: usize, partial: bool) {
        update(bytes, at, |sum| {
            if partial {
                self.addr_delta.apply_partial(sum)
            } else {
                self.port_delta.apply(self.addr_delta.apply(sum))
            }
        });
    }
}

#[inline]
fn read16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn write16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// RFC 1624 §3: by difference, the checksum of nothing but zeros comes out as 0 and should be
/// 0xFFFF. Only an ICMP echo reply can be all zeros, all others have something in their header or
/// pseudo-header; the first bytes tell nearly always.
#[inline]
fn keep_zero_of_nothing(message: &mut [u8]) {
    if message.iter().all(|&byte| byte == 0) {
        write16(message, 2, 0xffff);
    }
}

#[inline]
fn update(bytes: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) {
    let old = read16(bytes, at);
    write16(bytes, at, change(old));
}
