//! Which of several routers has a flow: looked at for packets of flows that are in no own table.
//!
//! Routers that share a device are given packets as the system sees fit. A flow that one of them
//! has must not be entered by another, even if rules would send a new one elsewhere by now. So
//! each says here what it enters and removes: once in a flow's life, never for its packets.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_core::FlowKey;

use super::shard::WorkerId;

/// Parts with a lock of their own, so that workers rarely meet.
const PARTS: usize = 16;

type Part = HashMap<FlowKey, Place, RandomState>;

/// Where a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    worker: WorkerId,
    /// Its first packet is on the way there: that one has not said yet that it has the flow.
    under_way: bool,
}

/// Flows as applications have them, and who has each. Bounded by the tables of all together.
#[derive(Debug)]
pub(super) struct Directory {
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
}

impl Directory {
    pub(super) fn new() -> Self {
        Self {
            parts: Default::default(),
            hasher: RandomState::default(),
        }
    }

    /// Who has a flow.
    pub(super) fn holder(&self, flow: &FlowKey) -> Option<WorkerId> {
        self.part(flow).get(flow).map(|place| place.worker)
    }

    /// Says that `worker` has a flow from now on. `false` if another one has it.
    pub(super) fn claim(&self, flow: FlowKey, worker: WorkerId) -> bool {
        let place = Place {
            worker,
            under_way: false,
        };
        let mut part = self.part(&flow);
        let there = part.entry(flow).or_insert(place);
        there.under_way &= there.worker != worker;
        there.worker == worker
    }

    /// Says that `from`, or nobody, has a flow no longer, and that its packets go to `to`.
    pub(super) fn give(&self, flow: FlowKey, from: WorkerId, to: WorkerId) {
        let place = Place {
            worker: to,
            under_way: true,
        };
        let mut part = self.part(&flow);
        let there = part.entry(flow).or_insert(place);
        if there.worker == from {
            *there = place;
        }
    }

    /// Says that the packet which a flow was given with did not get to `to`.
    pub(super) fn take_back(&self, flow: &FlowKey, to: WorkerId) {
        let place = Place {
            worker: to,
            under_way: true,
        };
        let mut part = self.part(flow);
        if part.get(flow) == Some(&place) {
            part.remove(flow);
        }
    }

    /// Says that `worker` has a flow no longer.
    pub(super) fn release(&self, flow: &FlowKey, worker: WorkerId) {
        let mut part = self.part(flow);
        if part.get(flow).is_some_and(|place| place.worker == worker) {
            part.remove(flow);
        }
    }

    /// How many flows there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let parts = self.parts.iter();
        parts
            .map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    fn part(&self, flow: &FlowKey) -> MutexGuard<'_, Part> {
        let place = self.hasher.hash_one(flow) as usize % PARTS;
        // A worker that panicked ends the engine; what it left here is whole.
        self.parts[place]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
