//! Remembers for a moment which flows nobody can own. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use vpn_core::flow::FlowKey;

/// How long a flow stays nobody's without another look: short enough for a person not to notice
/// that a port became somebody's, long enough to make a flood of such packets cheap.
pub const UNKNOWN_FOR: Duration = Duration::from_millis(100);

/// How many such flows are remembered; the oldest is forgotten first, and looked up again.
pub const MAX_UNKNOWN: usize = 1024;

/// Flows that were looked up in vain, and when.
#[derive(Debug, Default)]
pub(super) struct Negative {
    flows: hashbrown::HashMap<FlowKey, Instant, foldhash::quality::RandomState>,
    order: VecDeque<(Instant, FlowKey)>,
}

impl Negative {
    pub(super) fn contains(&mut self, now: Instant, flow: &FlowKey) -> bool {
        self.forget(now);
        self.flows.contains_key(flow)
    }

    pub(super) fn insert(&mut self, now: Instant, flow: FlowKey) {
        self.forget(now);
        if self.order.len() >= MAX_UNKNOWN {
            self.forget_first();
        }
        if self.flows.insert(flow, now).is_none() {
            self.order.push_back((now, flow));
        }
    }

    fn forget(&mut self, now: Instant) {
        let old = |since: &Instant| now.saturating_duration_since(*since) > UNKNOWN_FOR;
        while self.order.front().is_some_and(|(since, _)| old(since)) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, flow)) = self.order.pop_front() {
            self.flows.remove(&flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpn_core::flow::Protocol;

    fn flow(port: u16) -> FlowKey {
        FlowKey::new(
            Protocol::UDP,
            ([10, 5, 0, 2].into(), port),
            ([192, 0, 2, 1].into(), 53),
        )
    }

    #[test]
    fn it_forgets_after_a_moment_and_holds_no_more_than_its_bound() {
        let (mut unknown, now) = (Negative::default(), Instant::now());
        unknown.insert(now, flow(1));
        assert!(unknown.contains(now + UNKNOWN_FOR, &flow(1)));
        assert!(!unknown.contains(now + UNKNOWN_FOR, &flow(2)));
        let later = now + UNKNOWN_FOR + Duration::from_millis(1);
        assert!(!unknown.contains(later, &flow(1)));
        assert!(unknown.flows.is_empty());
        for port in 0..MAX_UNKNOWN as u16 + 10 {
            unknown.insert(later, flow(port));
        }
        assert_eq!(unknown.flows.len(), MAX_UNKNOWN);
        assert_eq!(unknown.order.len(), MAX_UNKNOWN);
        assert!(!unknown.contains(later, &flow(9)));
        assert!(unknown.contains(later, &flow(10)));
    }
}
