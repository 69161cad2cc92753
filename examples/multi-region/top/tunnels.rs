//! Draws the tunnels: where each stands, what it carries, and how that was; below a mesh its peers, where
//! there is room. Pure.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline};

use super::model::{HISTORY, Model};
use super::snapshot::{Bytes, Tunnel};
use super::view::{BAD, DIM, GOOD, HEAD, WAIT, left, right, row, title};
use super::{peers, words};

/// Columns: name, state, assigned, role, round trip, rates in and out.
const WIDTHS: [usize; 7] = [8, 10, 14, 9, 7, 7, 7];

/// Columns of all that, with a space at the edge and before each.
const TABLE: u16 = 62 + 7 + 2;

/// Columns of name, state and assigned, each with the space before.
const BEFORE_CAUSE: usize = 3 + 8 + 10 + 14 + 1;

/// A sparkline narrower than this says nothing.
const LEAST_SPARKLINE: u16 = 3;

/// Rows that all tunnels and peers take: headline, names of columns, and the sum.
pub(super) fn rows(model: &Model) -> u16 {
    let tunnels = &model.shown.tunnels;
    let peers = tunnels.values().map(|tunnel| peers::listed(tunnel).len());
    u16::try_from(tunnels.len() + peers.sum::<usize>())
        .unwrap_or(u16::MAX)
        .saturating_add(3)
}

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let shown = &model.shown;
    let up = shown.tunnels.values().filter(|tunnel| tunnel.state == "up");
    let mut more = format!(" {} of {} up", up.count(), shown.tunnels.len());
    more.push_str(&peers::counted(shown.tunnels.values()));
    title(frame, area, "tunnels", &more);
    if let Some(at) = row(area, 1) {
        let names = ["name", "state", "assigned", "role"].map(str::to_owned);
        let numbers = ["rtt", "in/s", "out/s"].map(str::to_owned);
        let mut line = cells(&names, &numbers);
        // A report a second.
        line.push_str(&format!("  {} s", sparkline_width(at).min(HISTORY as u16)));
        frame.render_widget(Line::styled(line, HEAD), at);
    }
    // The last row is for all of them, whatever does not fit.
    let room = usize::from(area.height.saturating_sub(3));
    let fits = shown.tunnels.len() <= room;
    let listed = if fits { room } else { room.saturating_sub(1) };
    // Peers have what tunnels leave.
    let mut spare = room.saturating_sub(shown.tunnels.len());
    let mut next = 2;
    for (name, tunnel) in shown.tunnels.iter().take(listed) {
        if let Some(at) = row(area, next) {
            let rate = model
                .rates
                .as_ref()
                .and_then(|rates| rates.tunnels.get(name));
            draw_one(frame, at, name, tunnel, rate.copied());
            sparkline(frame, at, model.history.get(name), tunnel_style(tunnel));
        }
        next += 1;
        let peers = peers::listed(tunnel);
        for peer in peers.into_iter().take(spare) {
            if let Some(at) = row(area, next) {
                peers::draw(frame, at, peer);
            }
            next += 1;
            spare -= 1;
        }
    }
    if !fits && let Some(at) = row(area, next) {
        let rest = shown.tunnels.len() - listed;
        frame.render_widget(Line::styled(format!(" … and {rest} more"), DIM), at);
        next += 1;
    }
    if let Some(at) = row(area, next) {
        let rate = model.rates.as_ref().map(super::rates::Rates::all);
        let names = ["all", "", "", ""].map(str::to_owned);
        let line = cells(&names, &rates(None, rate));
        let style = Style::new().add_modifier(Modifier::BOLD);
        frame.render_widget(Line::styled(line, style), at);
        sparkline(frame, at, Some(&model.history_of_all), style);
    }
}

fn draw_one(frame: &mut Frame<'_>, at: Rect, name: &str, tunnel: &Tunnel, rate: Option<Bytes>) {
    let role = tunnel.role.as_deref().unwrap_or("-");
    let names = [
        name.to_owned(),
        tunnel.state.clone(),
        tunnel
            .assigned
            .first()
            .cloned()
            .unwrap_or_else(|| "-".to_owned()),
        role.split(' ').next().unwrap_or(role).to_owned(),
    ];
    // What was measured before it went says nothing now.
    let round_trip = tunnel.round_trip_ms.filter(|_| tunnel.state == "up");
    let mut line = cells(&names, &rates(round_trip, rate));
    // Why it is down, instead of how little it carries.
    if let Some(cause) = &tunnel.cause {
        let kept: String = line.chars().take(BEFORE_CAUSE).collect();
        let width = line.chars().count() - kept.chars().count();
        line = kept + &left(cause, width);
    }
    // The state stands out.
    let state = 2 + WIDTHS[0]..2 + WIDTHS[0] + WIDTHS[1];
    let part = |from: usize, to: usize| -> String {
        line.chars()
            .skip(from)
            .take(to.saturating_sub(from))
            .collect()
    };
    let spans = vec![
        Span::raw(part(0, state.start)),
        Span::styled(part(state.start, state.end), tunnel_style(tunnel)),
        Span::raw(part(state.end, usize::MAX)),
    ];
    frame.render_widget(Line::from(spans), at);
}

fn tunnel_style(tunnel: &Tunnel) -> Style {
    match tunnel.state.as_str() {
        "up" => GOOD,
        "connecting" => WAIT,
        "dormant" => DIM,
        _ => BAD,
    }
}

fn rates(round_trip: Option<f64>, rate: Option<Bytes>) -> [String; 3] {
    [
        words::milliseconds(round_trip),
        words::rate(rate.map(|rate| rate.rx)),
        words::rate(rate.map(|rate| rate.tx)),
    ]
}

fn cells(names: &[String; 4], numbers: &[String; 3]) -> String {
    let mut line = String::new();
    for (text, width) in names.iter().zip(WIDTHS) {
        line.push(' ');
        line.push_str(&left(text, width));
    }
    for (text, width) in numbers.iter().zip(&WIDTHS[4..]) {
        line.push(' ');
        line.push_str(&right(text, *width));
    }
    line
}

/// What the table leaves of the row, but for the edge.
const fn sparkline_width(at: Rect) -> u16 {
    at.width.saturating_sub(TABLE + 1)
}

/// In what the table leaves of the row, the newest at the right.
fn sparkline(frame: &mut Frame<'_>, at: Rect, history: Option<&VecDeque<u64>>, style: Style) {
    let width = sparkline_width(at);
    let Some(history) = history.filter(|_| width >= LEAST_SPARKLINE) else {
        return;
    };
    let place = Rect {
        x: at.x + TABLE,
        width,
        ..at
    };
    let newest: Vec<u64> = history.iter().copied().take(usize::from(width)).collect();
    let line = Sparkline::default()
        .direction(RenderDirection::RightToLeft)
        .style(style)
        .data(newest);
    frame.render_widget(line, place);
}
