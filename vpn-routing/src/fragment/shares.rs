//! Who has datagrams under way: what one tunnel, or one source in it, may have of the table. Pure.
//!
//! Whoever is behind a tunnel names any source. So the device and each tunnel count as one *origin*,
//! and where the table is full the origin that has most gives way: a flood costs its own tunnel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_core::TunnelId;

use super::Datagram;

/// One source may have this share of all datagrams under way.
const SOURCE_SHARE: usize = 4;

/// A tunnel; `None` is the device.
type Origin = Option<TunnelId>;

/// What one origin has.
#[derive(Debug, Default)]
struct Load {
    /// Its datagrams, by their place among all that began.
    datagrams: BTreeSet<u64>,
    /// What its waiting fragments cost.
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Shares {
    sources: HashMap<(Origin, IpAddr), BTreeSet<u64>, RandomState>,
    /// As many as have datagrams.
    origins: HashMap<Origin, Load, RandomState>,
}

impl Shares {
    pub(super) fn begin(&mut self, datagram: &Datagram, began: u64) {
        let source = (datagram.from, datagram.src);
        self.sources.entry(source).or_default().insert(began);
        let load = self.origins.entry(datagram.from).or_default();
        load.datagrams.insert(began);
    }

    /// A datagram is forgotten, and with it what of it waited.
    pub(super) fn end(&mut self, datagram: &Datagram, began: u64, bytes: usize) {
        let source = (datagram.from, datagram.src);
        if let Some(of_source) = self.sources.get_mut(&source) {
            of_source.remove(&began);
            if of_source.is_empty() {
                self.sources.remove(&source);
            }
        }
        if let Some(load) = self.origins.get_mut(&datagram.from) {
            load.datagrams.remove(&began);
            load.bytes -= bytes;
            if load.datagrams.is_empty() {
                self.origins.remove(&datagram.from);
            }
        }
    }

    /// Something of a datagram under way waits.
    pub(super) fn wait(&mut self, from: Origin, bytes: usize) {
        if let Some(load) = self.origins.get_mut(&from) {
            load.bytes += bytes;
        }
    }

    /// It waits no longer.
    pub(super) fn go_on(&mut self, from: Origin, bytes: usize) {
        if let Some(load) = self.origins.get_mut(&from) {
            load.bytes -= bytes;
        }
    }

    /// Which datagram makes room for one more, where `now` are under way and `most` may be.
    pub(super) fn in_the_way(&self, datagram: &Datagram, now: usize, most: usize) -> Option<u64> {
        let share = (most / SOURCE_SHARE).max(1);
        let of_source = self.sources.get(&(datagram.from, datagram.src));
        if let Some(of_source) = of_source.filter(|of| of.len() >= share) {
            return of_source.first().copied();
        }
        if now < most {
            return None;
        }
        let largest = self.origins.values().max_by_key(|l| l.datagrams.len())?;
        largest.datagrams.first().copied()
    }

    /// Which datagram makes room for `bytes` more of `from`; `None` if nobody else has more waiting.
    pub(super) fn heavier_than(&self, from: Origin, bytes: usize) -> Option<u64> {
        let own = self.origins.get(&from).map_or(0, |load| load.bytes);
        let most = self.origins.values().max_by_key(|load| load.bytes)?;
        let oldest = most.datagrams.first().copied();
        oldest.filter(|_| most.bytes > own + bytes)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.origins.is_empty()
    }
}
