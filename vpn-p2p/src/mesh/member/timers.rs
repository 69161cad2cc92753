//! Which peer wants to be woken next: as cheap with ten thousand as with ten.

use std::collections::BTreeSet;
use std::time::Instant;

use super::addresses::Slot;

/// A wake-up per peer.
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, Slot)>,
    of: Vec<Option<Instant>>,
}

impl Timers {
    /// This peer wants to be woken then, and not when it said before.
    pub(super) fn set(&mut self, slot: Slot, at: Option<Instant>) {
        if self.of.len() <= slot.0 {
            self.of.resize(slot.0 + 1, None);
        }
        let before = std::mem::replace(&mut self.of[slot.0], at);
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, slot));
        }
        if let Some(at) = at {
            self.order.insert((at, slot));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes a peer whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Slot> {
        let &(at, slot) = self.order.first().filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, slot));
        self.of[slot.0] = None;
        Some(slot)
    }
}
