//! Draws: a picture that is redrawn on a terminal, a line per second elsewhere.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use vpn_core::DropCounters;
use vpn_routing::router::{Status, TunnelStatus};

use crate::circuit::APPS;
use crate::tally::Tally;

/// Events that stay visible in the picture.
const EVENTS: usize = 8;

/// What a picture is drawn from.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    /// Since the apps were started.
    pub(crate) elapsed: Duration,
    /// Since the last picture.
    pub(crate) since_last: Duration,
    /// Connections by app.
    pub(crate) tally: &'a Tally,
    /// The engine's report.
    pub(crate) status: &'a Status,
    /// The one of the last picture.
    pub(crate) before: &'a Status,
    /// By region: packets the provider refused since their source was wrong.
    pub(crate) refused: &'a [u64],
}

/// Where it is drawn.
#[derive(Debug)]
pub(crate) struct View {
    terminal: bool,
    title: String,
    events: VecDeque<String>,
    /// Lines of the picture that stands on the terminal.
    height: usize,
    unread: bool,
}

impl View {
    /// Standard output.
    pub(crate) fn new(title: &str) -> Self {
        let mut view = Self {
            terminal: io::stdout().is_terminal(),
            title: title.to_owned(),
            events: VecDeque::new(),
            height: 0,
            unread: false,
        };
        if !view.terminal {
            view.print(&format!("{title}\n"));
        }
        view
    }

    /// Something happened.
    pub(crate) fn event(&mut self, elapsed: Duration, text: &str) {
        let line = format!("{:6.2} s  {text}", elapsed.as_secs_f64());
        if self.terminal {
            self.events.push_back(line);
            if self.events.len() > EVENTS {
                self.events.pop_front();
            }
        } else {
            self.print(&format!("{line}\n"));
        }
    }

    /// Time for a new picture.
    pub(crate) fn draw(&mut self, scene: &Scene<'_>) {
        if !self.terminal {
            self.print(&line(scene));
            return;
        }
        let picture = picture(&self.title, &self.events, scene);
        // Up over the old picture, wipe it; without wrapping, so that lines can be counted.
        let up = match self.height {
            0 => String::new(),
            lines => format!("\x1b[{lines}A"),
        };
        self.height = picture.lines().count();
        self.print(&format!("\x1b[?7l{up}\x1b[J{picture}\x1b[?7h"));
    }

    /// Whether nobody reads the output any more (a closed pipe).
    pub(crate) const fn is_unread(&self) -> bool {
        self.unread
    }

    fn print(&mut self, text: &str) {
        let mut out = io::stdout();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.unread |= written.is_err();
    }
}

/// Kilobytes per second into and out of the machine through a tunnel.
fn throughput(now: &TunnelStatus, scene: &Scene<'_>) -> (f64, f64) {
    let Some(before) = scene.before.tunnels.iter().find(|t| t.id == now.id) else {
        return (0.0, 0.0);
    };
    let rate = |now: u64, before: u64| {
        let bytes = now.saturating_sub(before) as f64;
        bytes / 1000.0 / scene.since_last.as_secs_f64().max(0.001)
    };
    (
        rate(now.counters.rx_bytes, before.counters.rx_bytes),
        rate(now.counters.tx_bytes, before.counters.tx_bytes),
    )
}

fn drops(counters: &DropCounters) -> String {
    let reasons: Vec<String> = counters.iter().map(|(r, n)| format!("{r} {n}")).collect();
    if reasons.is_empty() {
        "none".to_owned()
    } else {
        reasons.join(", ")
    }
}

fn joined<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join("+")
    }
}

/// One line: who was answered by whom and how often, throughput, drops.
fn line(scene: &Scene<'_>) -> String {
    let mut text = format!("{:6.2} s  ", scene.elapsed.as_secs_f64());
    for (app, name) in scene.tally.apps.iter().zip(APPS) {
        let _ = write!(text, "{name}>{} {:<3} ", joined(&app.regions), app.recent);
    }
    text.push_str("| kB/s");
    for tunnel in &scene.status.tunnels {
        let (down, up) = throughput(tunnel, scene);
        let _ = write!(text, " {} {down:.0}/{up:.0}", tunnel.name);
    }
    let drops = drops(&scene.status.accounts.drops);
    let refused: u64 = scene.refused.iter().sum();
    let _ = writeln!(text, " | drops: {drops} | refused by providers: {refused}");
    text
}

/// The whole picture.
fn picture(title: &str, events: &VecDeque<String>, scene: &Scene<'_>) -> String {
    let mut text = String::new();
    let elapsed = scene.elapsed.as_secs();
    let _ = writeln!(
        text,
        "quickstart: three tunnels on one interface, {elapsed} s (Ctrl-C ends)"
    );
    let _ = writeln!(text, "{title}\n");
    let _ = writeln!(
        text,
        "  app       rule   answered by        right    wrong   failed"
    );
    for (app, name) in scene.tally.apps.iter().zip(APPS) {
        let (rule, by) = (app.book.region(), joined(&app.regions));
        let (right, wrong, failed) = (app.right, app.wrong, app.failed);
        let _ = writeln!(
            text,
            "  {name:<9} {rule:<6} {by:<14} {right:>9} {wrong:>8} {failed:>8}"
        );
    }
    let _ = writeln!(
        text,
        "\n  tunnel  state       assigned         role         kB/s in    out  flows  refused"
    );
    for (tunnel, refused) in scene.status.tunnels.iter().zip(scene.refused) {
        let (down, up) = throughput(tunnel, scene);
        let (name, state, flows) = (&tunnel.name, tunnel.state.name(), tunnel.flows);
        let (assigned, role) = match tunnel.addresses.first() {
            Some(place) => (place.assigned.addr().to_string(), role(place)),
            None => ("-".to_owned(), "-"),
        };
        let _ = writeln!(
            text,
            "  {name:<7} {state:<11} {assigned:<16} {role:<10} {down:>9.0} {up:>6.0} {flows:>6} \
             {refused:>8}"
        );
    }
    let _ = writeln!(
        text,
        "\n  drops   {}\n",
        drops(&scene.status.accounts.drops)
    );
    for event in events {
        let _ = writeln!(text, "{event}");
    }
    text
}

fn role(place: &vpn_routing::alloc::Placement) -> &'static str {
    match place.role {
        vpn_routing::alloc::Role::Primary { .. } => "primary",
        vpn_routing::alloc::Role::Secondary { .. } => "secondary",
    }
}
