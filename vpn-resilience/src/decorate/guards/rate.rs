//! Decides how much a tunnel takes: packets or bytes at a rate.

use std::time::Instant;

use vpn_core::Packet;

use crate::decorate::guard::{Admission, Guard, Rest};
use crate::rate::{RateConfig, RateCounters, RateLimit};

/// What a token stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateUnit {
    /// A packet; a super-packet is as many as its segments.
    #[default]
    Packets,
    /// A byte of an IP packet.
    Bytes,
}

/// Lets a tunnel take packets or bytes at a rate. The rest stays with the caller: this delays, and
/// drops nothing.
#[derive(Debug)]
pub struct TunnelRate {
    limit: RateLimit,
    unit: RateUnit,
    room_at: Option<Instant>,
}

impl TunnelRate {
    /// A rate, in packets. For bytes see [`unit`](Self::unit).
    pub const fn new(config: RateConfig) -> Self {
        Self {
            limit: RateLimit::new(config),
            unit: RateUnit::Packets,
            room_at: None,
        }
    }

    /// What a token stands for. Default [`RateUnit::Packets`].
    #[must_use]
    pub const fn unit(mut self, unit: RateUnit) -> Self {
        self.unit = unit;
        self
    }

    /// What was admitted: tokens are packets or bytes, requests are packets.
    pub const fn counters(&self) -> RateCounters {
        self.limit.counters()
    }

    fn tokens(&self, packet: &Packet) -> u64 {
        match self.unit {
            RateUnit::Packets => packet.segments() as u64,
            RateUnit::Bytes => packet.len() as u64,
        }
    }
}

impl Guard for TunnelRate {
    fn admit(&mut self, now: Instant, packets: &[Packet]) -> Admission {
        self.room_at = None;
        for (at, packet) in packets.iter().enumerate() {
            if let Err(limited) = self.limit.take(self.tokens(packet), now) {
                self.room_at = Some(limited.retry_at);
                return Admission::First(at);
            }
        }
        Admission::All
    }

    fn sent(&mut self, _now: Instant, _offered: usize, left: &[Packet]) -> Rest {
        for packet in left {
            self.limit.put_back(self.tokens(packet));
        }
        Rest::Keep
    }

    fn room_at(&self) -> Option<Instant> {
        self.room_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vpn_core::testing::build;

    fn packets(count: u8) -> Vec<Packet> {
        let packet = |i| Packet::from_slice(&build::udp("10.0.0.1:1", "10.0.0.2:2", &[i]));
        (0..count).map(packet).collect()
    }

    #[test]
    fn what_is_too_much_waits_and_what_was_not_taken_costs_nothing() {
        let now = Instant::now();
        let config = RateConfig {
            per_second: 10,
            burst: 3,
        };
        let (mut guard, packets) = (TunnelRate::new(config), packets(5));
        assert_eq!(guard.admit(now, &packets), Admission::First(3));
        let room = guard.room_at().unwrap();
        assert_eq!(room, now + Duration::from_millis(100));
        // Below there was room for one.
        guard.sent(now, 3, &packets[1..3]);
        assert_eq!(guard.admit(now, &packets[1..]), Admission::First(2));
        assert_eq!(guard.counters().tokens, 3);
        assert_eq!(guard.counters().admitted, 3, "what was left over is not");
    }

    #[test]
    fn a_super_packet_is_as_many_as_its_segments() {
        let whole = build::super_tcp("10.0.0.1:1", "10.0.0.2:2", 16, 1, 1000, &[7; 2500]);
        let (len, config) = (whole.len() as u64, RateConfig::default());
        assert_eq!(TunnelRate::new(config).tokens(&whole), 3);
        let bytes = TunnelRate::new(config).unit(RateUnit::Bytes);
        assert_eq!(bytes.tokens(&whole), len);
    }
}
