//! Rates, from two reports and the time between them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::snapshot::{App, Bytes, Owner, Snapshot};

/// One application in one tunnel.
pub(crate) type AppKey = (Owner, String);

/// Of everything that is counted, how much came in a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) tunnels: BTreeMap<String, Bytes>,
    pub(crate) apps: BTreeMap<AppKey, Bytes>,
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) queries: u64,
}

pub(crate) fn key_of(app: &App) -> AppKey {
    (app.owner.clone(), app.tunnel.clone())
}

impl Rates {
    /// From `old` to `new`, which is so much later.
    pub(crate) fn between(old: &Snapshot, new: &Snapshot, elapsed: Duration) -> Self {
        let rate = |old: u64, new: u64| {
            // One that fell has begun anew.
            let grown = new.checked_sub(old).unwrap_or(new);
            (grown as f64 / elapsed.as_secs_f64().max(1e-3)).round() as u64
        };
        let bytes = |old: Bytes, new: Bytes| Bytes {
            tx: rate(old.tx, new.tx),
            rx: rate(old.rx, new.rx),
        };
        let before: BTreeMap<AppKey, Bytes> = old
            .apps
            .iter()
            .map(|app| (key_of(app), app.bytes))
            .collect();
        let tunnels = new.tunnels.iter().map(|(name, tunnel)| {
            let before = old.tunnels.get(name).map(|tunnel| tunnel.bytes);
            (
                name.clone(),
                bytes(before.unwrap_or_default(), tunnel.bytes),
            )
        });
        let apps = new.apps.iter().map(|app| {
            let key = key_of(app);
            let before = before.get(&key).copied().unwrap_or_default();
            (key, bytes(before, app.bytes))
        });
        let drops = new.drops.iter().map(|(reason, &count)| {
            let before = old.drops.get(reason).copied().unwrap_or_default();
            (reason.clone(), rate(before, count))
        });
        Self {
            tunnels: tunnels.collect(),
            apps: apps.collect(),
            drops: drops.collect(),
            queries: rate(old.dns.queries, new.dns.queries),
        }
    }

    /// Of all tunnels.
    pub(crate) fn all(&self) -> Bytes {
        let add = |sum: Bytes, of: &Bytes| Bytes {
            tx: sum.tx.saturating_add(of.tx),
            rx: sum.rx.saturating_add(of.rx),
        };
        self.tunnels.values().fold(Bytes::default(), add)
    }
}
