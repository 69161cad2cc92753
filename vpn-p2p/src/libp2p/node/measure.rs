//! What a node counts, as metrics.

use vpn_core::metrics::Node;

use super::NodeStatus;

impl NodeStatus {
    /// Everything that is counted, under this name.
    pub fn metrics(&self, name: &str) -> Node {
        let counters = &self.counters;
        let links = || self.peers.iter().flat_map(|(_, links)| links);
        let relayed = links().filter(|link| link.is_relayed).count() as u64;
        Node {
            name: name.to_owned(),
            connections: [links().count() as u64 - relayed, relayed],
            members: self.admitted.len() as u64,
            connected: [
                counters.connections.saturating_sub(counters.relayed),
                counters.relayed,
            ],
            punched: [counters.punched, counters.not_punched],
            turned_away: self.turned_away,
            questions: counters.queries,
            messages: vec![
                ("sent", counters.requests),
                ("unanswered", counters.unanswered),
                ("asked", counters.asked),
            ],
            records: vec![
                ("kept", counters.kept),
                ("invalid", counters.invalid),
                ("old", counters.old),
                ("full", counters.full),
                ("too_many", counters.too_many),
                ("rubbish", counters.rubbish),
                ("not_believed", self.not_believed),
            ],
            kept_bytes: counters.kept_bytes,
        }
    }
}
