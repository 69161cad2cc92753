//! What is shown, and what keys and reports make of it. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use vpn_examples::screen::Key;

use vpn_examples::mesh::{PeerReport, Report};

/// Reports whose rates are remembered for the sparklines: two minutes.
pub(crate) const HISTORY: usize = 120;

/// What peers are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    #[default]
    Name,
    Rate,
    Path,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Name => Self::Rate,
            Self::Rate => Self::Path,
            Self::Path => Self::Name,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Rate => "rate",
            Self::Path => "path",
        }
    }
}

/// Bytes a second, in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) rx: u64,
    pub(crate) tx: u64,
}

/// Everything that is shown.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) control: String,
    /// Why the daemon does not answer, if it does not.
    pub(crate) gone: Option<String>,
    /// What it said last; `None` before it said anything.
    pub(crate) shown: Option<Report>,
    before: Option<(Instant, Report)>,
    /// By the peers' keys.
    pub(crate) rates: BTreeMap<String, Rate>,
    /// The newest first.
    pub(crate) history: BTreeMap<String, VecDeque<u64>>,
    pub(crate) sort: Sort,
    /// The first row of peers that is shown.
    pub(crate) from: usize,
    pub(crate) paused: bool,
}

impl Model {
    pub(crate) const fn new(control: String) -> Self {
        Self {
            control,
            gone: None,
            shown: None,
            before: None,
            rates: BTreeMap::new(),
            history: BTreeMap::new(),
            sort: Sort::Name,
            from: 0,
            paused: false,
        }
    }

    /// The daemon said this.
    pub(crate) fn report(&mut self, now: Instant, report: Report) {
        self.gone = None;
        let rates = match &self.before {
            Some((at, before)) => rates(before, &report, now.saturating_duration_since(*at)),
            None => BTreeMap::new(),
        };
        for (key, rate) in &rates {
            let history = self.history.entry(key.clone()).or_default();
            history.push_front(rate.rx + rate.tx);
            history.truncate(HISTORY);
        }
        // Who is gone is not remembered.
        self.history
            .retain(|key, _| report.peers.iter().any(|peer| peer.key == *key));
        self.before = Some((now, report.clone()));
        if !self.paused {
            self.rates = rates;
            self.shown = Some(report);
        }
    }

    /// The daemon does not answer.
    pub(crate) fn gone(&mut self, why: String) {
        self.gone = Some(why);
        self.before = None;
        self.rates.clear();
    }

    /// A key was pressed; whether that ends it.
    pub(crate) fn key(&mut self, key: Key) -> bool {
        match key {
            Key::Interrupt | Key::Char('q') => return true,
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Up | Key::Char('k') => self.from = self.from.saturating_sub(1),
            Key::Down | Key::Char('j') => {
                let peers = self.shown.as_ref().map_or(0, |shown| shown.peers.len());
                self.from = (self.from + 1).min(peers.saturating_sub(1));
            }
            _ => {}
        }
        false
    }

    /// The peers in the order in which they are shown.
    pub(crate) fn peers(&self) -> Vec<&PeerReport> {
        let mut peers: Vec<&PeerReport> = self.shown.iter().flat_map(|it| &it.peers).collect();
        let rate = |peer: &PeerReport| {
            let rate = self.rates.get(&peer.key).copied().unwrap_or_default();
            rate.rx + rate.tx
        };
        match self.sort {
            Sort::Name => {}
            // Stable: equal ones keep the order of names.
            Sort::Rate => peers.sort_by_key(|peer| std::cmp::Reverse(rate(peer))),
            Sort::Path => peers.sort_by(|one, other| one.path.cmp(&other.path)),
        }
        peers
    }
}

fn rates(before: &Report, now: &Report, between: std::time::Duration) -> BTreeMap<String, Rate> {
    let seconds = between.as_secs_f64();
    let mut rates = BTreeMap::new();
    if seconds <= 0.0 {
        return rates;
    }
    let per_second = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
    for peer in &now.peers {
        if let Some(former) = before.peers.iter().find(|former| former.key == peer.key) {
            let rate = Rate {
                rx: per_second(peer.rx_bytes, former.rx_bytes),
                tx: per_second(peer.tx_bytes, former.tx_bytes),
            };
            rates.insert(peer.key.clone(), rate);
        }
    }
    rates
}
