//! What several routers report, as one report.

use super::status::{Accounts, Status};
use super::{DnsStatus, TunnelStatus};

impl Status {
    /// One report of several routers' reports, the lead's first; `None` of none. What all of them
    /// know alike is said as the lead says it.
    pub fn of_all(reports: Vec<Self>) -> Option<Self> {
        let mut reports = reports.into_iter();
        let mut all = reports.next()?;
        for other in reports {
            for theirs in &other.tunnels {
                if let Some(tunnel) = all.tunnels.iter_mut().find(|t| t.id == theirs.id) {
                    tunnel.add(theirs);
                }
            }
            all.flows += other.flows;
            all.generation = all.generation.min(other.generation);
            all.rules.hits += other.rules.hits;
            all.rules.misses += other.rules.misses;
            all.dns.add(&other.dns);
            all.accounts.add(&other.accounts);
        }
        all.accounts.settle();
        Some(all)
    }
}

impl TunnelStatus {
    fn add(&mut self, theirs: &Self) {
        let (mine, theirs_too) = (&mut self.counters, &theirs.counters);
        self.flows += theirs.flows;
        mine.tx_packets += theirs_too.tx_packets;
        mine.tx_bytes += theirs_too.tx_bytes;
        mine.rx_packets += theirs_too.rx_packets;
        mine.rx_bytes += theirs_too.rx_bytes;
        mine.drops.merge(&theirs_too.drops);
    }
}

impl DnsStatus {
    /// Names are the same everywhere.
    const fn add(&mut self, theirs: &Self) {
        self.counters.queries += theirs.counters.queries;
        self.counters.answers += theirs.counters.answers;
        self.counters.unexpected += theirs.counters.unexpected;
        self.counters.refused += theirs.counters.refused;
        self.pending += theirs.pending;
    }
}

impl Accounts {
    fn add(&mut self, theirs: &Self) {
        self.in_device += theirs.in_device;
        self.in_tunnels += theirs.in_tunnels;
        self.made += theirs.made;
        self.out_device += theirs.out_device;
        self.out_tunnels += theirs.out_tunnels;
        self.drops.merge(&theirs.drops);
        self.held += theirs.held;
        self.queued += theirs.queued;
        self.handed_out += theirs.handed_out;
        self.handed_in += theirs.handed_in;
    }

    /// What was handed over is on its way until it is taken. Reports are made one after the other:
    /// who takes a packet can tell so after who gave it has told what it had until then. Such a one
    /// was held there, or had not come.
    fn settle(&mut self) {
        let under_way = self.handed_out.saturating_sub(self.handed_in);
        self.queued += under_way;
        let early = self.handed_in.saturating_sub(self.handed_out);
        let held = early.min(self.held);
        self.held -= held;
        self.in_device += early - held;
        self.handed_in += under_way;
        self.handed_out += early;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_two_reports_is_counted_once() {
        let came = |in_device| Accounts {
            in_device,
            ..Accounts::default()
        };
        let mut gave = came(5);
        (gave.handed_out, gave.out_tunnels) = (3, 2);
        let mut took = came(0);
        (took.handed_in, took.out_tunnels) = (2, 2);
        let mut all = gave.clone();
        all.add(&took);
        all.settle();
        assert!(all.balance(), "{all:?}");
        assert_eq!((all.in_device, all.queued), (5, 1), "one is on its way");
        // Told before two more came and one that waited went on.
        let mut before = came(5);
        (before.handed_out, before.out_tunnels, before.held) = (2, 2, 1);
        (took.handed_in, took.out_tunnels) = (5, 5);
        let mut all = before.clone();
        all.add(&took);
        all.settle();
        assert!(all.balance(), "{all:?}");
        assert_eq!((all.in_device, all.held, all.queued), (7, 0, 0));
    }
}
