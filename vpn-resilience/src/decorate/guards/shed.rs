//! Decides when what is to be sent is dropped, because a tunnel takes nothing any more.
//!
//! Packets that wait behind a tunnel that stalls are old when it goes on: calls that nobody listens
//! to, queries that were asked again. They are dropped instead, and the first packets after the
//! stall are fresh ones.

use std::time::{Duration, Instant};

use vpn_core::{DropReason, Packet};

use crate::counters::counters;
use crate::decorate::guard::{Guard, Rest};
use crate::time::later;

/// How long a tunnel may take nothing, by default: longer than a scheduler's pause, shorter than
/// anybody waits for an answer.
const PATIENCE: Duration = Duration::from_millis(100);

counters! {
    /// What was shed, and how often.
    pub struct ShedCounters {
        /// Times that a tunnel took nothing for too long.
        stalls,
        /// Packets dropped in these, as [`DropReason::QueueFull`].
        packets,
    }
}

/// Drops what a tunnel does not take in time.
#[derive(Debug)]
pub struct TunnelShed {
    patience: Duration,
    /// Since when there is no room below.
    full_since: Option<Instant>,
    shedding: bool,
    counters: ShedCounters,
}

impl Default for TunnelShed {
    /// After 100 ms.
    fn default() -> Self {
        Self::new(PATIENCE)
    }
}

impl TunnelShed {
    /// Sheds what is to be sent once the tunnel took nothing for so long.
    pub const fn new(patience: Duration) -> Self {
        Self {
            patience,
            full_since: None,
            shedding: false,
            counters: ShedCounters::ZERO,
        }
    }

    /// Whether it sheds now.
    pub const fn is_shedding(&self) -> bool {
        self.shedding
    }

    /// What was shed so far.
    pub const fn counters(&self) -> ShedCounters {
        self.counters
    }
}

impl Guard for TunnelShed {
    fn sent(&mut self, now: Instant, offered: usize, left: &[Packet]) -> Rest {
        if offered == 0 {
            return Rest::Keep;
        }
        if left.len() < offered {
            // It takes something. Not all, perhaps: the rest may wait from now on.
            self.full_since = (!left.is_empty()).then_some(now);
            self.shedding = false;
            return Rest::Keep;
        }
        let since = *self.full_since.get_or_insert(now);
        if now < later(since, self.patience) {
            return Rest::Keep;
        }
        self.counters.stalls += u64::from(!self.shedding);
        self.shedding = true;
        self.counters.packets += left.len() as u64;
        Rest::Drop(DropReason::QueueFull)
    }

    fn room(&mut self, now: Instant, there_is: bool) {
        if !there_is {
            self.full_since.get_or_insert(now);
        } else if !self.shedding {
            self.full_since = None;
        }
    }

    fn takes_at(&self) -> Option<Instant> {
        self.full_since.map(|since| later(since, self.patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(count: usize) -> Vec<Packet> {
        std::iter::repeat_with(Packet::default)
            .take(count)
            .collect()
    }

    #[test]
    fn what_a_stalled_tunnel_does_not_take_is_dropped_until_it_takes_something() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let (mut guard, some) = (TunnelShed::default(), packets(8));
        assert_eq!(guard.sent(ms(0), 8, &some), Rest::Keep);
        assert_eq!(guard.takes_at(), Some(ms(100)));
        assert_eq!(guard.sent(ms(99), 8, &some), Rest::Keep);
        assert_eq!(
            guard.sent(ms(100), 8, &some),
            Rest::Drop(DropReason::QueueFull)
        );
        assert_eq!(
            guard.sent(ms(101), 3, &some[..3]),
            Rest::Drop(DropReason::QueueFull)
        );
        assert!(guard.is_shedding());
        // It goes on.
        assert_eq!(guard.sent(ms(500), 8, &some[..2]), Rest::Keep);
        assert_eq!(guard.takes_at(), Some(ms(600)));
        assert_eq!(guard.sent(ms(501), 8, &[]), Rest::Keep);
        assert_eq!(guard.takes_at(), None);
        let counters = guard.counters();
        assert_eq!((counters.stalls, counters.packets), (1, 11));
        // Full, without anything left over: who waits for room is let go on in time, too.
        guard.room(ms(600), false);
        guard.room(ms(650), false);
        assert_eq!(guard.takes_at(), Some(ms(700)));
        guard.room(ms(660), true);
        assert_eq!(guard.takes_at(), None);
    }
}
