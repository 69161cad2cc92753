//! What a node says of itself: made by the daemon, shown by `status` and `top`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vpn_core::DropReason;
use vpn_examples::words::bytes;
use vpn_p2p::identity::peer_to_base64;
use vpn_p2p::libp2p::body::Body;
use vpn_p2p::libp2p::{NodeStatus, TunnelStatus};

use crate::error::Error;

/// The answer to `status`. Names of fields are an interface: scripts read them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Where it can be reached.
    pub(crate) endpoints: Vec<String>,
    pub(crate) peers: Vec<Peer>,
    /// Addresses that several claim: for people.
    pub(crate) conflicts: Vec<String>,
    /// Packets that were dropped after they had been taken, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) spoofed: u64,
    /// Connections that were refused, records that were not believed.
    pub(crate) refused: u64,
    /// What the directory took, and what others asked of our part of it.
    pub(crate) directory: BTreeMap<String, u64>,
    /// How etcd fares, where it is the directory.
    pub(crate) etcd: Option<Etcd>,
    pub(crate) punched: u64,
    pub(crate) not_punched: u64,
}

/// The copy of what etcd has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Etcd {
    /// Whether changes come in now.
    pub(crate) following: bool,
    /// Up to which revision this is; none before everything was loaded.
    pub(crate) revision: Option<i64>,
    pub(crate) records: usize,
    /// Entries that were not believed.
    pub(crate) refused: u64,
    /// Why changes do not come in, or did not last time.
    pub(crate) trouble: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// `direct`, `relay` or `none`.
    pub(crate) path: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) seconds: u64,
    pub(crate) streams: usize,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) tx_packets: u64,
    pub(crate) rx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) waiting_bytes: usize,
}

impl Report {
    /// Of a node, and its tunnel if it has one.
    pub(crate) fn new(
        name: &str,
        own: &[IpAddr],
        node: &NodeStatus,
        tunnel: Option<&TunnelStatus>,
    ) -> Self {
        let now = Instant::now();
        let mut report = Self {
            name: name.to_owned(),
            key: peer_to_base64(node.id),
            addresses: own.to_vec(),
            endpoints: node.endpoints.iter().map(ToString::to_string).collect(),
            refused: node.turned_away + node.not_believed,
            punched: node.counters.punched,
            not_punched: node.counters.not_punched,
            ..Self::default()
        };
        let counters = node.counters;
        for (what, count) in [
            ("queries", counters.queries),
            ("requests", counters.requests),
            ("unanswered", counters.unanswered),
            ("asked", counters.asked),
            ("kept", counters.kept),
            ("kept_bytes", counters.kept_bytes),
            ("invalid", counters.invalid),
            ("old", counters.old),
            ("too_many", counters.too_many),
            ("rubbish", counters.rubbish),
            ("full", counters.full),
        ] {
            report.directory.insert(what.to_owned(), count);
        }
        let mut peers: BTreeMap<_, Peer> = BTreeMap::new();
        for (peer, links) in &node.peers {
            let entry = peers.entry(*peer).or_default();
            let best = links.iter().min_by_key(|link| link.is_relayed);
            if let Some(link) = best {
                entry.path = if link.is_relayed { "relay" } else { "direct" }.to_owned();
                entry.endpoint = Some(link.endpoint.to_string());
                entry.seconds = now.saturating_duration_since(link.since).as_secs();
            }
        }
        if let Some(tunnel) = tunnel {
            report.tunnel(tunnel, &mut peers);
        }
        for (id, mut peer) in peers {
            peer.key = peer_to_base64(id);
            if peer.path.is_empty() {
                peer.path = "none".to_owned();
            }
            if id != node.id {
                report.peers.push(peer);
            }
        }
        report
    }

    fn tunnel(&mut self, tunnel: &TunnelStatus, peers: &mut BTreeMap<vpn_core::PeerId, Peer>) {
        for record in &tunnel.records {
            let entry = peers.entry(record.peer).or_default();
            entry.addresses.clone_from(&record.addresses);
            if let Ok(body) = Body::decode(&record.body) {
                entry.name = body.name;
            }
        }
        for (id, pool) in &tunnel.pools {
            let entry = peers.entry(*id).or_default();
            let counters = &pool.counters;
            entry.streams = pool.streams;
            entry.rtt_ms = pool.round_trip.map(|time| time.as_secs_f64() * 1e3);
            (entry.tx_packets, entry.tx_bytes) =
                (counters.delivered.packets, counters.delivered.bytes);
            (entry.rx_packets, entry.rx_bytes) =
                (counters.received.packets, counters.received.bytes);
            entry.waiting_bytes = pool.waiting_bytes;
            for reason in DropReason::ALL {
                let count = counters.drops.get(*reason);
                if count > 0 {
                    *self.drops.entry(reason.name().to_owned()).or_default() += count;
                }
            }
        }
        for (reason, count) in tunnel.drops.iter() {
            *self.drops.entry(reason.name().to_owned()).or_default() += count;
        }
        self.spoofed = tunnel.spoofed;
        self.directory.insert("lookups".to_owned(), tunnel.lookups);
        self.conflicts = tunnel
            .conflicts
            .iter()
            .map(|conflict| {
                let losers = conflict.losers.iter().map(|peer| peer_to_base64(*peer));
                format!(
                    "{} is {}'s; claimed as well by {}",
                    conflict.address,
                    peer_to_base64(conflict.winner),
                    losers.collect::<Vec<_>>().join(", ")
                )
            })
            .collect();
    }

    /// For people. Writing to a string cannot fail.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let own: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let name = if self.name.is_empty() {
            "-"
        } else {
            &self.name
        };
        let _ = writeln!(out, "{name}  {}  {}\n", own.join(", "), self.key);
        let _ = writeln!(
            out,
            "{:<12} {:<16} {:<7} {:>7} {:>9} {:>9} {:>9}  endpoint",
            "peer", "address", "path", "streams", "rtt", "sent", "received"
        );
        for peer in &self.peers {
            let address = peer
                .addresses
                .first()
                .map_or_else(|| "-".into(), ToString::to_string);
            let name = if peer.name.is_empty() {
                "-"
            } else {
                &peer.name
            };
            let rtt = peer
                .rtt_ms
                .map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"));
            let _ = writeln!(
                out,
                "{name:<12} {address:<16} {:<7} {:>7} {rtt:>9} {:>9} {:>9}  {}",
                peer.path,
                peer.streams,
                bytes(peer.tx_bytes),
                bytes(peer.rx_bytes),
                peer.endpoint.as_deref().unwrap_or("-")
            );
        }
        if self.peers.is_empty() {
            out.push_str("nobody is known yet\n");
        }
        for conflict in &self.conflicts {
            let _ = writeln!(out, "\n{conflict}");
        }
        let directory: Vec<_> = (self.directory.iter().filter(|(_, count)| **count > 0))
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        let _ = writeln!(out, "\ndirectory: {}", directory.join(", "));
        if let Some(etcd) = &self.etcd {
            let how = match (&etcd.trouble, etcd.following) {
                (_, true) => "followed",
                (Some(trouble), false) => trouble,
                (None, false) => "not there yet",
            };
            let (records, refused) = (etcd.records, etcd.refused);
            let _ = writeln!(out, "etcd: {how}; {records} records, {refused} refused");
        }
        for (reason, count) in &self.drops {
            let _ = writeln!(out, "dropped, {reason}: {count}");
        }
        if self.spoofed + self.refused > 0 {
            let _ = writeln!(out, "spoofed: {}, refused: {}", self.spoofed, self.refused);
        }
        out
    }
}

/// Prints what a daemon said.
pub(crate) fn print(value: &Value, as_json: bool) -> Result<(), Error> {
    let text = if as_json {
        format!("{value:#}\n")
    } else {
        let report: Report = serde_json::from_value(value.clone())
            .map_err(|error| Error::Argument(format!("its answer makes no sense: {error}")))?;
        report.text()
    };
    vpn_examples::print(&text);
    Ok(())
}
