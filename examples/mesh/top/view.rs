//! A picture of the model: what is where. Pure.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};
use vpn_examples::draw::{BAD, DIM, GOOD, HEAD, TITLE, WAIT, left, path_style, right, row, title};
use vpn_examples::words;

use super::model::{Model, Rate};
use vpn_examples::mesh::{HubReport, PeerReport, Report};

/// Columns of a hub: endpoint, state, carrier, round trip, seen as.
const HUB: [usize; 5] = [24, 9, 7, 8, 22];

/// Columns of a peer: name, address, path, endpoint, round trip, loss, rates in and out.
const PEER: [usize; 8] = [12, 15, 9, 22, 8, 5, 8, 8];

/// Columns of a peer's sparkline.
const SPARKLINE: u16 = 14;

/// Draws everything, whatever the size.
pub(crate) fn view(frame: &mut Frame<'_>, model: &Model) {
    let whole = frame.area();
    let hubs = model.shown.as_ref().map_or(0, |shown| shown.hubs.len());
    let [head, upper, lower, hints] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(hubs + 3).unwrap_or(u16::MAX)),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(whole);
    header(frame, head, model);
    match (&model.shown, &model.gone) {
        (Some(shown), _) => {
            draw_hubs(frame, upper, shown);
            draw_peers(frame, lower, model);
        }
        (None, Some(why)) => {
            let text = format!("no member at {}: {why}", model.control);
            waiting(frame, lower, &text);
        }
        (None, None) => waiting(frame, lower, &format!("asking {}", model.control)),
    }
    let text = format!(
        " q quit   s sort: {}   p pause   ↑ ↓ scroll",
        model.sort.name()
    );
    frame.render_widget(Line::styled(text, DIM), hints);
}

fn header(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let (word, style) = match (&model.gone, model.paused, &model.shown) {
        (Some(_), _, _) => ("no member", BAD),
        (None, true, _) => ("paused", WAIT),
        (None, false, None) => ("asking", WAIT),
        (None, false, Some(_)) => ("live", GOOD),
    };
    let state = format!("● {word} ");
    let width = Span::raw(&state).width() as u16;
    let [start, end] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(width)]).areas(area);
    let mut line = vec![Span::styled(" mesh", TITLE)];
    if let Some(shown) = &model.shown {
        line.push(Span::raw(format!("  {}", shown.name)));
        for address in shown.addresses.iter().take(2) {
            line.push(Span::styled(format!(" {address}"), DIM));
        }
        if !shown.conflicts.is_empty() {
            let text = format!("  {} conflicts, see status", shown.conflicts.len());
            line.push(Span::styled(text, BAD));
        }
    }
    frame.render_widget(Line::from(line), start);
    frame.render_widget(Line::styled(state, style), end);
}

fn waiting(frame: &mut Frame<'_>, area: Rect, text: &str) {
    let text = Paragraph::new(format!("\n {text}"));
    frame.render_widget(text.style(DIM).wrap(Default::default()), area);
}

fn draw_hubs(frame: &mut Frame<'_>, area: Rect, shown: &Report) {
    let up = shown.hubs.iter().filter(|hub| hub.state == "up").count();
    let more = format!(" {up} of {} up", shown.hubs.len());
    title(frame, area, "hubs", &more);
    if let Some(at) = row(area, 1) {
        let names = ["endpoint", "state", "carrier", "rtt", "seen as"];
        let text = columns(&names, &HUB, &[3]);
        frame.render_widget(Line::styled(format!("{text}  why"), HEAD), at);
    }
    for (hub, at) in shown.hubs.iter().zip(2..) {
        if let Some(at) = row(area, at) {
            frame.render_widget(hub_line(hub), at);
        }
    }
}

fn hub_line(hub: &HubReport) -> Line<'static> {
    let style = match hub.state.as_str() {
        "up" => GOOD,
        "greeting" | "joining" => WAIT,
        _ => BAD,
    };
    let rtt = words::milliseconds(hub.rtt_ms.filter(|_| hub.state == "up"));
    let observed = hub.observed.map_or_else(|| "-".into(), |at| at.to_string());
    let rest = [hub.carrier.as_deref().unwrap_or("-"), &rtt, &observed];
    Line::from(vec![
        Span::raw(columns(&[&hub.endpoint], &HUB, &[])),
        Span::styled(columns(&[&hub.state], &HUB[1..], &[]), style),
        Span::raw(columns(&rest, &HUB[2..], &[1])),
        Span::styled(format!("  {}", hub.why), DIM),
    ])
}

fn draw_peers(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let peers = model.peers();
    let direct = peers.iter().filter(|peer| peer.path == "direct").count();
    let relayed = peers.iter().filter(|peer| peer.path.starts_with("relay"));
    let more = format!(" {direct} direct, {} relayed", relayed.count());
    title(frame, area, "peers", &more);
    if let Some(at) = row(area, 1) {
        let names = [
            "name", "address", "path", "endpoint", "rtt", "loss", "in/s", "out/s",
        ];
        let text = columns(&names, &PEER, &[4, 5, 6, 7]);
        let space = " ".repeat(usize::from(SPARKLINE) + 2);
        frame.render_widget(Line::styled(format!("{text}{space}  why"), HEAD), at);
    }
    if peers.is_empty()
        && let Some(at) = row(area, 2)
    {
        frame.render_widget(Line::styled(" nobody was spoken to yet", DIM), at);
    }
    for (peer, at) in peers.iter().skip(model.from).zip(2..) {
        if let Some(at) = row(area, at) {
            let rate = model.rates.get(&peer.key).copied();
            draw_peer(frame, at, peer, rate, model.history.get(&peer.key));
        }
    }
}

fn draw_peer(
    frame: &mut Frame<'_>,
    at: Rect,
    peer: &PeerReport,
    rate: Option<Rate>,
    history: Option<&VecDeque<u64>>,
) {
    let style = path_style(&peer.path);
    let address = peer.addresses.first();
    let address = address.map_or_else(|| "-".into(), ToString::to_string);
    let rest = [
        peer.endpoint.as_deref().unwrap_or("-"),
        &words::milliseconds(peer.rtt_ms),
        &format!("{:.0}%", peer.loss * 100.0),
        &words::rate(rate.map(|rate| rate.rx)),
        &words::rate(rate.map(|rate| rate.tx)),
    ];
    let first = columns(&[peer.label(), &address], &PEER, &[]);
    let path = columns(&[&peer.path], &PEER[2..], &[]);
    let rest = columns(&rest, &PEER[3..], &[1, 2, 3, 4]);
    let used = [&first, &path, &rest].map(|it| Span::raw(it.as_str()).width());
    let used = u16::try_from(used.iter().sum::<usize>()).unwrap_or(u16::MAX);
    let space = " ".repeat(usize::from(SPARKLINE) + 2);
    let line = Line::from(vec![
        Span::raw(first),
        Span::styled(path, style),
        Span::raw(rest),
        Span::styled(format!("{space}  {}", peer.why), DIM),
    ]);
    frame.render_widget(line, at);
    sparkline(frame, at, used.saturating_add(2), history, style);
}

fn sparkline(
    frame: &mut Frame<'_>,
    at: Rect,
    from: u16,
    history: Option<&VecDeque<u64>>,
    style: Style,
) {
    let Some(history) = history.filter(|_| from + SPARKLINE <= at.width) else {
        return;
    };
    let place = Rect {
        x: at.x + from,
        width: SPARKLINE,
        ..at
    };
    let newest: Vec<u64> = history.iter().copied().take(SPARKLINE.into()).collect();
    let line = Sparkline::default()
        .direction(RenderDirection::RightToLeft)
        .style(style)
        .data(newest);
    frame.render_widget(line, place);
}

/// Texts in columns, a space before each; `numbers` are filled up on the left.
fn columns(texts: &[&str], widths: &[usize], numbers: &[usize]) -> String {
    let mut line = String::new();
    for (at, (text, width)) in texts.iter().zip(widths).enumerate() {
        line.push(' ');
        line.push_str(&match numbers.contains(&at) {
            true => right(text, *width),
            false => left(text, *width),
        });
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;
    use vpn_examples::screen::Key;

    use super::*;

    fn said(count: u64) -> Report {
        serde_json::from_value(json!({
            "name": "laptop",
            "addresses": ["10.77.0.2"],
            "hubs": [
                { "key": "k", "endpoint": "198.51.100.1:51820", "state": "up", "carrier": "udp",
                  "rtt_ms": 12.34, "observed": "203.0.113.7:4001" },
                { "key": "l", "endpoint": "198.51.100.2:51820", "state": "waiting",
                  "why": "no answer from the hub" },
            ],
            "peers": [
                { "name": "server", "key": "s", "addresses": ["10.77.0.3"], "path": "direct",
                  "endpoint": "203.0.113.9:51820", "rtt_ms": 8.5, "loss": 0.03, "rx_bytes": count * 1000,
                  "tx_bytes": count, "why": "its challenge was answered" },
                { "name": "", "key": "abcdefghijklmnopqrstuvwxyz", "addresses": [], "path": "none",
                  "why": "its record is not known yet" },
                { "name": "office", "key": "o", "addresses": ["10.77.0.4"], "path": "relay-tcp",
                  "endpoint": "198.51.100.1:51820", "rtt_ms": 44.0, "rx_bytes": count * 5000,
                  "why": "no direct way answered" },
            ],
            "unknown to this version": [1],
        }))
        .unwrap()
    }

    fn picture(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let frame = terminal.draw(|frame| view(frame, model)).unwrap();
        let cells = frame.buffer;
        let row = |y| (0..width).map(|x| cells[(x, y)].symbol()).collect();
        (0..height).map(row).collect()
    }

    fn row_of<'a>(picture: &'a [String], start: &str) -> &'a str {
        let found = picture
            .iter()
            .find(|row| row.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("{start} in {picture:#?}"))
    }

    #[test]
    fn paths_and_rates_are_shown() {
        let now = Instant::now();
        let mut model = Model::new("/run/mesh.sock".into());
        assert!(
            picture(&model, 100, 12)
                .join("\n")
                .contains("asking /run/mesh.sock")
        );
        model.report(now, said(0));
        model.report(now + Duration::from_secs(2), said(200));
        let shown = picture(&model, 150, 16);
        assert!(shown[0].contains("laptop 10.77.0.2") && shown[0].contains("live"));
        let hub = row_of(&shown, "198.51.100.1:51820");
        for part in ["up", "udp", "12.3 ms", "203.0.113.7:4001"] {
            assert!(hub.contains(part), "{hub}");
        }
        assert!(row_of(&shown, "198.51.100.2").contains("no answer"));
        let server = row_of(&shown, "server");
        for part in [
            "10.77.0.3",
            "direct",
            "8.50 ms",
            "3%",
            "100 kB",
            "100 B",
            "answered",
        ] {
            assert!(server.contains(part), "{part} in {server}");
        }
        assert!(row_of(&shown, "office").contains("relay-tcp"));
        assert!(
            row_of(&shown, "abcdefghijkl").contains("none"),
            "no name: its key"
        );
        assert!(shown.iter().any(|row| row.contains("1 direct, 1 relayed")));
    }

    #[test]
    fn keys_sort_pause_and_end() {
        let now = Instant::now();
        let mut model = Model::new(String::new());
        model.report(now, said(0));
        model.report(now + Duration::from_secs(1), said(10));
        let order = |model: &Model| -> Vec<String> {
            model.peers().iter().map(|it| it.name.clone()).collect()
        };
        assert_eq!(order(&model), ["server", "", "office"]);
        assert!(!model.key(Key::Char('s')));
        assert_eq!(order(&model), ["office", "server", ""]);
        model.key(Key::Char('p'));
        model.report(now + Duration::from_secs(2), Report::default());
        assert_eq!(order(&model).len(), 3, "as it was");
        model.key(Key::Char(' '));
        model.gone("it ended".into());
        assert!(picture(&model, 80, 10)[0].contains("no member"));
        assert!(model.key(Key::Char('q')));
    }

    #[test]
    fn it_fits_any_terminal() {
        let mut model = Model::new(String::new());
        model.report(Instant::now(), said(0));
        for (width, height) in [(1, 1), (10, 3), (40, 8), (79, 5), (300, 80)] {
            picture(&model, width, height);
        }
    }
}
