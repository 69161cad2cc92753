//! IPv4 packets cut into fragments (RFC 791 §3.2), as a router does for those that may be.

use bytes::BytesMut;

use super::checksum::{fold, sum};
use super::segment::complete_checksum;
use super::{HEADROOM, Packet, TAILROOM};

/// "More fragments" and "don't fragment" of the flags field.
const MORE: u16 = 0x2000;
const DONT: u16 = 0x4000;
const OFFSET: u16 = 0x1fff;

/// Options end, and the only one of a single byte besides.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
/// An option with this bit is in every fragment.
const COPIED: u8 = 0x80;

impl Packet {
    /// Whether a router may cut this packet into fragments: IPv4 without "don't fragment".
    pub fn may_be_fragmented(&self) -> bool {
        let bytes = self.bytes();
        let Some(flags) = bytes.get(6) else {
            return false;
        };
        bytes[0] >> 4 == 4 && flags & (DONT >> 8) as u8 == 0
    }

    /// Cuts it into fragments of at most `mtu` bytes, itself a fragment or not. `None` if it may
    /// not be cut, if it is a super-packet or reaches beyond the end of any datagram, if it carries
    /// nothing, or if `mtu` leaves no room for eight bytes.
    pub fn fragments(mut self, mtu: u16) -> Option<Vec<Self>> {
        if !self.may_be_fragmented() || self.offload.gso.is_some() {
            return None;
        }
        // The checksum covers the whole datagram, of which only the first fragment has it.
        complete_checksum(&mut self).ok()?;
        let bytes = self.bytes();
        let header = usize::from(bytes[0] & 0xf) * 4;
        let whole = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let payload = bytes.get(header..whole)?;
        let field = u16::from_be_bytes([bytes[6], bytes[7]]);
        let room = usize::from(mtu).checked_sub(header)? & !7;
        let none = room == 0 || payload.is_empty();
        if none || usize::from(field & OFFSET) * 8 + payload.len() > usize::from(u16::MAX) {
            return None;
        }
        let later = later_header(&bytes[..header]);
        let mut list = Vec::with_capacity(payload.len().div_ceil(room));
        for (index, chunk) in payload.chunks(room).enumerate() {
            let ip = if index == 0 { &bytes[..header] } else { &later };
            let place = (field & OFFSET) + (index * room / 8) as u16;
            let last = (index + 1) * room >= payload.len();
            let more = if last { field & MORE } else { MORE };
            list.push(one(ip, chunk, place | more));
        }
        Some(list)
    }
}

/// One fragment with this flags field.
fn one(ip: &[u8], payload: &[u8], field: u16) -> Packet {
    let length = ip.len() + payload.len();
    let mut buf = BytesMut::with_capacity(HEADROOM + length + TAILROOM);
    buf.resize(HEADROOM, 0);
    buf.extend_from_slice(ip);
    buf.extend_from_slice(payload);
    let bytes = &mut buf[HEADROOM..HEADROOM + ip.len()];
    bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    bytes[6..8].copy_from_slice(&field.to_be_bytes());
    bytes[10..12].copy_from_slice(&[0, 0]);
    let checksum = !fold(sum(bytes, 0));
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    Packet::new(buf, HEADROOM)
}

/// The header of fragments but the first: options that are not copied become "no operation".
fn later_header(ip: &[u8]) -> Vec<u8> {
    let mut header = ip.to_vec();
    let mut at = 20;
    while let Some(&kind) = header.get(at) {
        let length = match kind {
            END => break,
            NO_OPERATION => 1,
            _ => header
                .get(at + 1)
                .map_or(1, |&length| usize::from(length))
                .max(2),
        };
        let end = (at + length).min(header.len());
        if kind & COPIED == 0 {
            header[at..end].fill(NO_OPERATION);
        }
        at = end;
    }
    header
}
