//! Runs of packets of the usual shape, on the usual way, to one place: read, found, translated and
//! counted where they are, then moved together.
//!
//! What is decided here is what [`settled`](Router::settled) decides, for fewer kinds of packets and
//! in a third of the instructions; whatever is not quite usual is left to it.

use vpn_core::TunnelId;
use vpn_core::packet::{Message, Packet, Plain, tcp_flags};

use super::Router;
use super::ahead::Ahead;
use crate::conn::{Record, Stamp, V4};

/// Of a segment in the middle of a connection.
const IN_THE_MIDDLE: u8 = tcp_flags::ACK;
const FLAGS_THAT_MATTER: u8 = tcp_flags::ACK | tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;

/// Whether nothing about its flow changes with this packet but the time.
#[inline(always)]
fn changes_nothing(record: &Record<V4>, plain: &Plain<'_>) -> bool {
    match plain.message() {
        Message::Tcp(flags) => {
            flags & FLAGS_THAT_MATTER == IN_THE_MIDDLE && record.state().is_established()
        }
        _ => record.state().is_plain_udp(),
    }
}

impl Router {
    /// Routes packets from the device, the first of which is at `start`, as long as they are on the
    /// usual way to one tunnel which has room for them. Returns where the next one is.
    #[inline(always)]
    pub(super) fn run_out(
        &mut self,
        now: Stamp,
        packets: &mut Vec<Packet>,
        start: usize,
        ahead: &mut Ahead,
    ) -> usize {
        if !self.hold.is_empty() {
            return start;
        }
        let (mut run, mut wire, mut sum) = (0, 0, 0);
        let mut to: Option<TunnelId> = None;
        while let Some(packet) = packets.get_mut(start + run) {
            let Some(mut plain) = packet.plain() else {
                break;
            };
            let found = self.conns.find_v4(&plain.flow());
            let Some(record) = found.and_then(|place| self.conns.v4(place)) else {
                break;
            };
            let tunnel = record.tunnel();
            let is_udp = plain.message() == Message::Udp;
            if !changes_nothing(record, &plain)
                || record.generation() != self.generation
                || is_udp && now.wrapping_sub(record.last_outbound()) >= self.recheck
                || to.is_some_and(|to| to != tunnel)
            {
                break;
            }
            let Some(slot) = self.tunnels.get(tunnel) else {
                break;
            };
            if plain.total_len() > usize::from(slot.mtu) && plain.largest() > usize::from(slot.mtu)
                || !slot.carries()
                || slot.queue.room() <= run
            {
                break;
            }
            if !is_udp {
                record.mark(plain.marks());
            }
            record.sent(now);
            plain.translate(&record.wire());
            let bytes = plain.total_len() as u64;
            self.usages.sent(record.usage(), bytes);
            to = Some(tunnel);
            run += 1;
            wire += plain.segments() as u64;
            sum += bytes;
            if ahead.is_due(start + run) {
                ahead.look_out(&self.conns, packets);
            }
        }
        if let Some(tunnel) = to
            && let Some(slot) = self.tunnels.get_mut(tunnel)
        {
            let was_empty = slot.queue.is_empty();
            slot.queue.take_from(packets, start..start + run);
            slot.counters.tx_packets += wire;
            slot.counters.tx_bytes += sum;
            if was_empty {
                self.tunnels.list(tunnel);
            }
        }
        start + run
    }

    /// The same for packets from a tunnel, to the device.
    #[inline(always)]
    pub(super) fn run_in(
        &mut self,
        now: Stamp,
        tunnel: TunnelId,
        packets: &mut Vec<Packet>,
        start: usize,
        ahead: &mut Ahead,
    ) -> usize {
        if self.generation.is_cold() {
            return start;
        }
        let (mut run, mut wire, mut sum) = (0, 0, 0);
        let room = self.device.room();
        while let Some(packet) = packets.get_mut(start + run).filter(|_| run < room) {
            let Some(mut plain) = packet.plain() else {
                break;
            };
            let found = self.conns.find_wire_v4(tunnel, &plain.flow().reversed());
            let Some(record) = found.and_then(|place| self.conns.v4(place)) else {
                break;
            };
            if !changes_nothing(record, &plain) || record.generation() != self.generation {
                break;
            }
            record.received(now);
            plain.translate(&record.device().reversed());
            let bytes = plain.total_len() as u64;
            self.usages.received(record.usage(), bytes);
            run += 1;
            wire += plain.segments() as u64;
            sum += bytes;
            if ahead.is_due(start + run) {
                ahead.look_in(&self.conns, tunnel, packets);
            }
        }
        self.device.take_from(packets, start..start + run);
        if let Some(slot) = self.tunnels.get_mut(tunnel) {
            slot.counters.rx_packets += wire;
            slot.counters.rx_bytes += sum;
        }
        start + run
    }
}
