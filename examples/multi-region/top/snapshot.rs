//! What a daemon says of itself, typed. What it does not say is empty.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use vpn_examples::mesh::Report;

/// The answer to `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Snapshot {
    pub(crate) interface: Interface,
    pub(crate) rules: Rules,
    pub(crate) tunnels: BTreeMap<String, Tunnel>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) apps: Vec<App>,
    pub(crate) flows: u64,
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) packets: Packets,
    pub(crate) dns: Dns,
    pub(crate) process: Process,
    /// Breakers, by what they are of.
    pub(crate) breakers: BTreeMap<String, Breaker>,
    /// The daemon's tasks.
    pub(crate) tasks: BTreeMap<String, Task>,
    /// What somebody else changed of the daemon's work; `status` says it in words.
    pub(crate) changed_by_others: Vec<IgnoredAny>,
    /// Names of users, by their ids: not of the daemon.
    #[serde(skip)]
    pub(crate) users: BTreeMap<u32, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rules {
    pub(crate) generation: u64,
    pub(crate) error: Option<String>,
    pub(crate) problems: Vec<String>,
    /// Whether rules can be written.
    pub(crate) database: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Tunnel {
    pub(crate) state: String,
    pub(crate) cause: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) assigned: Vec<String>,
    pub(crate) round_trip_ms: Option<f64>,
    pub(crate) flows: u64,
    pub(crate) bytes: Bytes,
    /// Hubs and peers, if it is a mesh.
    pub(crate) mesh: Option<Report>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Group {
    pub(crate) chosen: Option<String>,
}

/// What one application does through one tunnel.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct App {
    #[serde(flatten)]
    pub(crate) owner: Owner,
    pub(crate) tunnel: String,
    pub(crate) flows: u64,
    pub(crate) bytes: Bytes,
}

/// Whose flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub(crate) struct Owner {
    pub(crate) uid: Option<u32>,
    pub(crate) executable: Option<String>,
    pub(crate) cgroup: Option<String>,
    pub(crate) package: Option<String>,
    /// Somebody behind the tunnel began them.
    pub(crate) inbound: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Bytes {
    pub(crate) tx: u64,
    pub(crate) rx: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Packets {
    pub(crate) held: u64,
    pub(crate) queued: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Dns {
    pub(crate) queries: u64,
    pub(crate) answers: u64,
    pub(crate) pending: u64,
    pub(crate) names: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Process {
    pub(crate) fds: Option<u64>,
    pub(crate) threads: u64,
    pub(crate) tasks: u64,
    pub(crate) memory: u64,
}

/// One breaker.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Breaker {
    /// `closed`, `open` or `half_open`.
    pub(crate) state: String,
}

/// One task that is started again when it fails.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Task {
    /// `running`, or what it is instead.
    pub(crate) state: String,
    /// How often it was started; once is usual.
    pub(crate) starts: u64,
}
