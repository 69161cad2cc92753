//! Draws the applications: through which tunnel each goes, and how much. Pure.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

use super::model::{Link, Model};
use super::snapshot::App;
use super::view::{DIM, HEAD, left, right, row, title};
use super::words;

/// Columns: name, tunnel, rates in and out, bytes in and out, flows.
const WIDTHS: [usize; 7] = [22, 10, 8, 8, 8, 8, 6];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let more = format!(" by {}, {} flows", model.sort.name(), model.shown.flows);
    title(frame, area, "apps", &more);
    if let Some(at) = row(area, 1) {
        let names = ["app", "tunnel"].map(str::to_owned);
        let numbers = ["in/s", "out/s", "in", "out", "flows"].map(str::to_owned);
        frame.render_widget(Line::styled(cells(&names, &numbers), HEAD), at);
    }
    let apps = model.apps();
    let Some(selected) = model.selected(&apps) else {
        if let Some(at) = row(area, 2) {
            frame.render_widget(Line::styled(" nobody has flows", DIM), at);
        }
        return;
    };
    let room = usize::from(area.height.saturating_sub(2));
    // The selected one is in view.
    let first = (selected + 1).saturating_sub(room);
    for (place, app) in apps.iter().skip(first).take(room).enumerate() {
        let Some(at) = row(area, 2 + place as u16) else {
            return;
        };
        let style = match first + place == selected {
            true if model.link == Link::Live => Style::new().add_modifier(Modifier::REVERSED),
            _ => Style::new(),
        };
        frame.buffer_mut().set_style(at, style);
        frame.render_widget(Line::raw(line_of(app, model)), at);
    }
}

fn line_of(app: &App, model: &Model) -> String {
    let rate = model.rate(app);
    let names = [
        words::app(&app.owner, &model.shown.users),
        app.tunnel.clone(),
    ];
    let numbers = [
        words::rate(rate.map(|rate| rate.rx)),
        words::rate(rate.map(|rate| rate.tx)),
        words::bytes(app.bytes.rx),
        words::bytes(app.bytes.tx),
        words::count(app.flows),
    ];
    cells(&names, &numbers)
}

fn cells(names: &[String; 2], numbers: &[String; 5]) -> String {
    let mut line = String::new();
    for (text, width) in names.iter().zip(WIDTHS) {
        line.push(' ');
        line.push_str(&left(text, width));
    }
    for (text, width) in numbers.iter().zip(&WIDTHS[2..]) {
        line.push(' ');
        line.push_str(&right(text, *width));
    }
    line
}
