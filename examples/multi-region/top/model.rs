//! What is shown, and what keys and reports make of it. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

pub(crate) use vpn_examples::screen::Key;

use super::rates::{AppKey, Rates, key_of};
use super::snapshot::{App, Bytes, Owner, Snapshot};

/// Reports whose rates are remembered for the sparklines: two minutes.
pub(crate) const HISTORY: usize = 120;

/// What follows from a key outside the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// End.
    Quit,
    /// Ask the daemon to send this application elsewhere.
    Switch(Owner, String),
}

/// What applications are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    #[default]
    Rate,
    Bytes,
    Flows,
    Name,
    Tunnel,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Bytes,
            Self::Bytes => Self::Flows,
            Self::Flows => Self::Name,
            Self::Name => Self::Tunnel,
            Self::Tunnel => Self::Rate,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::Flows => "flows",
            Self::Name => "name",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What lies over the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Nothing,
    Help,
    /// Where to send an application.
    Choice {
        owner: Owner,
        ways: Vec<String>,
        at: usize,
    },
}

/// Whether the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// It was not asked yet.
    New,
    Live,
    /// It does not, and why.
    Gone(String),
}

/// What was said last below the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) text: String,
    pub(crate) bad: bool,
}

/// Everything that is shown.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) control: String,
    pub(crate) link: Link,
    pub(crate) paused: bool,
    pub(crate) sort: Sort,
    pub(crate) over: Over,
    pub(crate) note: Option<Note>,
    pub(crate) shown: Snapshot,
    /// `None` until there were two reports.
    pub(crate) rates: Option<Rates>,
    /// Bytes a second in both directions, newest first, by tunnel.
    pub(crate) history: BTreeMap<String, VecDeque<u64>>,
    pub(crate) history_of_all: VecDeque<u64>,
    selected: Option<AppKey>,
    came: Option<Instant>,
}

impl Model {
    pub(crate) fn new(control: String) -> Self {
        Self {
            control,
            link: Link::New,
            paused: false,
            sort: Sort::default(),
            over: Over::Nothing,
            note: None,
            shown: Snapshot::default(),
            rates: None,
            history: BTreeMap::new(),
            history_of_all: VecDeque::new(),
            selected: None,
            came: None,
        }
    }

    /// The daemon said this. While paused only that it is there counts; the first report
    /// afterwards shows the mean of what was missed.
    pub(crate) fn snapshot(&mut self, now: Instant, snapshot: Snapshot) {
        let was_gone = std::mem::replace(&mut self.link, Link::Live) != Link::Live;
        if self.paused {
            return;
        }
        // Another daemon counts from nothing.
        self.rates = match self.came {
            Some(before) if !was_gone => {
                let elapsed = now.saturating_duration_since(before);
                Some(Rates::between(&self.shown, &snapshot, elapsed))
            }
            _ => None,
        };
        self.came = Some(now);
        self.shown = snapshot;
        self.remember();
    }

    /// The daemon does not answer. What it said last stays.
    pub(crate) fn gone(&mut self, why: String) {
        self.link = Link::Gone(why);
        if !self.paused {
            self.rates = None;
        }
    }

    /// What came of a switch.
    pub(crate) fn said(&mut self, outcome: Result<String, String>) {
        let bad = outcome.is_err();
        let (Ok(text) | Err(text)) = outcome;
        self.note = Some(Note { text, bad });
    }

    fn remember(&mut self) {
        let Some(rates) = &self.rates else { return };
        self.history
            .retain(|name, _| rates.tunnels.contains_key(name));
        for (name, rate) in &rates.tunnels {
            push(self.history.entry(name.clone()).or_default(), sum(*rate));
        }
        push(&mut self.history_of_all, sum(rates.all()));
    }

    /// A key was pressed.
    pub(crate) fn key(&mut self, key: Key) -> Option<Ask> {
        if key == Key::Interrupt {
            return Some(Ask::Quit);
        }
        match std::mem::replace(&mut self.over, Over::Nothing) {
            Over::Nothing => self.key_on_tables(key),
            // Any key ends it.
            Over::Help => None,
            Over::Choice { owner, ways, at } => self.key_on_choice(key, owner, ways, at),
        }
    }

    fn key_on_tables(&mut self, key: Key) -> Option<Ask> {
        match key {
            Key::Char('q') => return Some(Ask::Quit),
            Key::Escape => self.note = None,
            Key::Char('?' | 'h') => self.over = Over::Help,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Up | Key::Char('k') => self.select(false),
            Key::Down | Key::Char('j') => self.select(true),
            Key::Enter | Key::Char('t') => self.choose(),
            _ => {}
        }
        None
    }

    fn key_on_choice(
        &mut self,
        key: Key,
        owner: Owner,
        ways: Vec<String>,
        at: usize,
    ) -> Option<Ask> {
        let at = match key {
            Key::Escape | Key::Char('q') => return None,
            Key::Enter => return ways.get(at).map(|to| Ask::Switch(owner, to.clone())),
            Key::Up | Key::Char('k') => at.saturating_sub(1),
            Key::Down | Key::Char('j') => (at + 1).min(ways.len().saturating_sub(1)),
            _ => at,
        };
        self.over = Over::Choice { owner, ways, at };
        None
    }

    /// Asks where the selected application should go, if it can be sent anywhere.
    fn choose(&mut self) {
        let apps = self.apps();
        let at = self.selected(&apps);
        let Some(app) = at.and_then(|at| apps.get(at)) else {
            return;
        };
        let owner = app.owner.clone();
        let refused = if !self.shown.rules.database {
            "the configuration names no database of rules (key rules): nothing to write to"
        } else if owner.inbound {
            "begun from behind the tunnel: rules for apps do not decide it"
        } else if owner == Owner::default() {
            "nobody is known to own these flows: no rule asks whose they are"
        } else {
            let ways = self.ways();
            let now = ways.iter().position(|way| *way == app.tunnel).unwrap_or(0);
            self.over = Over::Choice {
                owner,
                ways,
                at: now,
            };
            return;
        };
        self.said(Err(refused.to_owned()));
    }

    /// Everywhere an application can be sent.
    fn ways(&self) -> Vec<String> {
        let tunnels = self.shown.tunnels.keys();
        let named = tunnels.chain(self.shown.groups.keys()).cloned();
        named.chain(["block".to_owned()]).collect()
    }

    /// The applications, sorted.
    pub(crate) fn apps(&self) -> Vec<&App> {
        let mut apps: Vec<&App> = self.shown.apps.iter().collect();
        let name = |app: &App| super::words::app(&app.owner, &self.shown.users);
        let most = |value: u64| std::cmp::Reverse(value);
        apps.sort_by_cached_key(|app| {
            let (number, text) = match self.sort {
                Sort::Rate => (self.rate(app).map_or(0, sum), String::new()),
                Sort::Bytes => (sum(app.bytes), String::new()),
                Sort::Flows => (app.flows, String::new()),
                Sort::Name => (0, String::new()),
                Sort::Tunnel => (0, app.tunnel.clone()),
            };
            (most(number), text, name(app), app.tunnel.clone())
        });
        apps
    }

    /// Bytes a second of an application.
    pub(crate) fn rate(&self, app: &App) -> Option<Bytes> {
        self.rates.as_ref()?.apps.get(&key_of(app)).copied()
    }

    /// Which of `apps` is selected: the one that was, wherever it is now, or else the first.
    pub(crate) fn selected(&self, apps: &[&App]) -> Option<usize> {
        let is = |app: &&App| {
            self.selected
                .as_ref()
                .is_some_and(|key| *key == key_of(app))
        };
        let there = apps.iter().position(is);
        there.or((!apps.is_empty()).then_some(0))
    }

    fn select(&mut self, down: bool) {
        let apps = self.apps();
        let Some(at) = self.selected(&apps) else {
            return;
        };
        let next = match down {
            true => (at + 1).min(apps.len() - 1),
            false => at.saturating_sub(1),
        };
        let key = apps.get(next).map(|app| key_of(app));
        self.selected = key;
    }
}

/// Both directions.
pub(crate) const fn sum(bytes: Bytes) -> u64 {
    bytes.tx.saturating_add(bytes.rx)
}

fn push(history: &mut VecDeque<u64>, value: u64) {
    history.push_front(value);
    history.truncate(HISTORY);
}
