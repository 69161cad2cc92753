//! Counts what each application sends and receives through each tunnel.
//!
//! A flow knows its account, so that a packet costs one add. An account lives as long as its flows
//! do, and its counters never fall: rates can be told from two reports.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use vpn_core::TunnelId;

use super::owners::NOBODY;
use crate::conn::{OwnerSlot, UsageSlot};

/// One account per application and tunnel that have flows with each other.
#[derive(Debug, Default)]
pub(super) struct Usages {
    accounts: Vec<Account>,
    free: Vec<u32>,
    by_key: HashMap<(OwnerSlot, TunnelId), u32, RandomState>,
}

/// What one application does through one tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) owner: OwnerSlot,
    pub(super) tunnel: TunnelId,
    /// 0: the place is free.
    pub(super) flows: u32,
    pub(super) tx_bytes: u64,
    pub(super) rx_bytes: u64,
}

impl Usages {
    /// Counts one more flow: where its packets count.
    pub(super) fn acquire(&mut self, owner: OwnerSlot, tunnel: TunnelId) -> UsageSlot {
        if let Some(&place) = self.by_key.get(&(owner, tunnel))
            && let Some(account) = self.accounts.get_mut(place as usize)
        {
            account.flows += 1;
            return UsageSlot(place);
        }
        let account = Account {
            owner,
            tunnel,
            flows: 1,
            tx_bytes: 0,
            rx_bytes: 0,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.accounts[place as usize] = account;
                place
            }
            None => {
                self.accounts.push(account);
                (self.accounts.len() - 1) as u32
            }
        };
        self.by_key.insert((owner, tunnel), place);
        UsageSlot(place)
    }

    /// Counts one flow less; before its owner is released.
    pub(super) fn release(&mut self, slot: UsageSlot) {
        let Some(account) = self.accounts.get_mut(slot.0 as usize) else {
            return;
        };
        account.flows = account.flows.saturating_sub(1);
        if account.flows == 0 {
            self.by_key.remove(&(account.owner, account.tunnel));
            self.free.push(slot.0);
        }
    }

    /// Whose account it is.
    pub(super) fn owner(&self, slot: UsageSlot) -> OwnerSlot {
        let account = self.accounts.get(slot.0 as usize);
        account.map_or(NOBODY, |account| account.owner)
    }

    /// The application sent a packet.
    #[inline]
    pub(super) fn sent(&mut self, slot: UsageSlot, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(slot.0 as usize) {
            account.tx_bytes += bytes;
        }
    }

    /// A packet came for the application.
    #[inline]
    pub(super) fn received(&mut self, slot: UsageSlot, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(slot.0 as usize) {
            account.rx_bytes += bytes;
        }
    }

    /// Every account that has flows.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter().filter(|account| account.flows > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_lives_as_long_as_its_flows_and_keeps_what_they_counted() {
        let mut usages = Usages::default();
        let (app, other) = (OwnerSlot(0), OwnerSlot(1));
        let (uk, fr) = (TunnelId::new(0), TunnelId::new(1));
        let one = usages.acquire(app, uk);
        let two = usages.acquire(app, uk);
        assert_eq!(one, two, "two flows of one application");
        let elsewhere = usages.acquire(app, fr);
        assert_ne!(one, elsewhere);
        assert_ne!(usages.acquire(other, uk), one);
        usages.sent(one, 100);
        usages.received(two, 40);
        usages.sent(elsewhere, 7);
        usages.release(one);
        let found: Vec<_> = usages
            .iter()
            .map(|a| (a.owner.0, a.tunnel.index(), a.flows, a.tx_bytes, a.rx_bytes))
            .collect();
        let expected = vec![(0, 0, 1, 100, 40), (0, 1, 1, 7, 0), (1, 0, 1, 0, 0)];
        assert_eq!(found, expected);
        usages.release(two);
        assert_eq!(usages.iter().count(), 2);
        // The next one to have the place begins at nothing.
        let again = usages.acquire(other, fr);
        assert_eq!(again, one, "its place is used again");
        assert!(
            usages
                .iter()
                .any(|a| a.owner == other && a.tx_bytes == 0 && a.tunnel == fr)
        );
    }
}
