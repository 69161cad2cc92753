//! What is counted about a node of a network without a hub.

use super::families::*;
use super::{Measured, Visit, show};

/// A node that finds others by itself, and its part of the directory they keep together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The node, as the integrator names it.
    pub name: String,
    /// Connections that are there: direct ones, and those through a relay.
    pub connections: [u64; 2],
    /// Connected peers that have proven to be members.
    pub members: u64,
    /// Connections that were made, directly and through a relay.
    pub connected: [u64; 2],
    /// Holes that were punched, and that could not be.
    pub punched: [u64; 2],
    /// Connections that were refused.
    pub turned_away: u64,
    /// Questions to the directory that are over.
    pub questions: u64,
    /// Messages of the directory, by what they were.
    pub messages: Vec<(&'static str, u64)>,
    /// Records that others gave or answered with, by what became of them.
    pub records: Vec<(&'static str, u64)>,
    /// Bytes of those that were kept.
    pub kept_bytes: u64,
}

impl Measured for Node {
    fn visit(&self, visit: &mut Visit<'_>) {
        let node = self.name.as_str();
        for (path, at) in [("direct", 0), ("relay", 1)] {
            let here = self.connections[at] as f64;
            show(visit, &NODE_CONNECTIONS, &[node, path], here);
            let made = self.connected[at] as f64;
            show(visit, &NODE_CONNECTED, &[node, path], made);
        }
        show(visit, &NODE_MEMBERS, &[node], self.members as f64);
        for (outcome, count) in ["punched", "failed"].iter().zip(self.punched) {
            show(visit, &NODE_PUNCHED, &[node, outcome], count as f64);
        }
        let turned_away = self.turned_away as f64;
        show(visit, &NODE_TURNED_AWAY, &[node], turned_away);
        show(visit, &NODE_QUESTIONS, &[node], self.questions as f64);
        for (what, count) in &self.messages {
            show(visit, &NODE_MESSAGES, &[node, what], *count as f64);
        }
        for (outcome, count) in &self.records {
            show(visit, &NODE_RECORDS, &[node, outcome], *count as f64);
        }
        show(visit, &NODE_KEPT_BYTES, &[node], self.kept_bytes as f64);
    }
}
