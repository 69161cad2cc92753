//! What a hub counts, as metrics.

use vpn_core::metrics;

use super::HubStatus;

impl HubStatus {
    /// Everything that is counted, under this name.
    pub fn metrics(&self, name: &str) -> metrics::Hub {
        metrics::Hub {
            name: name.to_owned(),
            members: [
                self.online as u64,
                (self.members - self.online.min(self.members)) as u64,
                self.provisional as u64,
            ],
            messages: vec![
                ("hello", self.hellos),
                ("join", self.joins),
                ("register", self.registered),
                ("find", self.finds),
                ("find_beyond", self.finds_beyond),
                ("changed", self.changes),
            ],
            refused: vec![
                ("not_admitted", self.refused_not_admitted),
                ("address", self.refused_address),
                ("route", self.refused_route),
                ("full", self.refused_full),
                ("old", self.refused_old),
                ("record", self.refused_record),
                ("taken", self.refused_taken),
                ("cookie", self.bad_cookies),
                ("beyond", self.refused_beyond),
            ],
            packets: vec![
                ("relayed", self.relayed_packets),
                ("carried", self.carried_packets),
                ("absent", self.absent),
                ("no_hops", self.no_hops),
                ("looped", self.looped),
                ("isolated", self.isolated),
                ("stranger", self.strangers),
                ("limited", self.limited),
                ("not_authentic", self.not_authentic),
                ("malformed", self.malformed),
            ],
            relayed_bytes: self.relayed_bytes,
            carried_bytes: self.carried_bytes,
            neighbours: [self.neighbours as u64, self.neighbours_away as u64],
        }
    }
}
