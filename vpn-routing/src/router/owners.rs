//! Owners of live flows, interned, with how many flows each has.

use std::collections::HashMap;

use vpn_core::Owner;

use crate::conn::OwnerSlot;

/// Flows without an owner: no rule asked for one.
pub(super) const NOBODY: OwnerSlot = OwnerSlot(u32::MAX);

/// Flows that somebody behind a tunnel began: they count under their inbound rule instead.
pub(super) const OUTSIDER: OwnerSlot = OwnerSlot(u32::MAX - 1);

/// One entry per distinct application that has flows; gone with its last flow.
#[derive(Debug, Default)]
pub(super) struct Owners {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_owner: HashMap<Owner, u32>,
    nobody: u32,
}

#[derive(Debug)]
struct Entry {
    /// Without the socket: that differs from flow to flow.
    owner: Owner,
    flows: u32,
}

impl Owners {
    /// Counts one more flow of `owner`, unless it has `quota` already.
    pub(super) fn acquire(&mut self, owner: Option<&Owner>, quota: usize) -> Option<OwnerSlot> {
        let Some(owner) = owner else {
            if self.nobody as usize >= quota {
                return None;
            }
            self.nobody += 1;
            return Some(NOBODY);
        };
        let app = Owner {
            socket: 0,
            ..owner.clone()
        };
        if let Some(&slot) = self.by_owner.get(&app) {
            let entry = self.slots.get_mut(slot as usize)?.as_mut()?;
            if entry.flows as usize >= quota {
                return None;
            }
            entry.flows += 1;
            return Some(OwnerSlot(slot));
        }
        if quota == 0 {
            return None;
        }
        let entry = Some(Entry {
            owner: app.clone(),
            flows: 1,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                (self.slots.len() - 1) as u32
            }
        };
        self.by_owner.insert(app, slot);
        Some(OwnerSlot(slot))
    }

    /// Counts one flow less.
    pub(super) fn release(&mut self, slot: OwnerSlot) {
        if slot == NOBODY {
            self.nobody = self.nobody.saturating_sub(1);
            return;
        }
        let Some(place) = self.slots.get_mut(slot.0 as usize) else {
            return;
        };
        let Some(entry) = place else { return };
        entry.flows -= 1;
        if entry.flows == 0 {
            self.by_owner.remove(&entry.owner);
            *place = None;
            self.free.push(slot.0);
        }
    }

    /// Who that is; `None` for nobody.
    pub(super) fn get(&self, slot: OwnerSlot) -> Option<&Owner> {
        self.slots.get(slot.0 as usize)?.as_ref().map(|e| &e.owner)
    }

    /// Whether `slot` is the application that `owner` belongs to.
    pub(super) fn is(&self, slot: OwnerSlot, owner: &Owner) -> bool {
        self.get(slot).is_some_and(|o| o.same_application(owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_lives_as_long_as_its_flows_and_has_a_quota() {
        let mut owners = Owners::default();
        let (a, b) = (
            Owner {
                socket: 1,
                ..Owner::user(1)
            },
            Owner {
                socket: 2,
                ..Owner::user(1)
            },
        );
        let one = owners.acquire(Some(&a), 2).unwrap();
        let two = owners.acquire(Some(&b), 2).unwrap();
        assert_eq!(one, two, "two sockets of one application");
        assert_eq!(owners.acquire(Some(&a), 2), None, "over quota");
        assert!(
            owners.acquire(Some(&Owner::user(2)), 2).is_some(),
            "another is not affected"
        );
        owners.release(one);
        assert!(owners.is(one, &a));
        owners.release(one);
        assert!(owners.get(one).is_none());
    }
}
