//! Draws what lies over the tables: the choice of a way, and the help. Pure.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};

use super::model::{Model, Over};
use super::view::{DIM, TITLE};
use super::words;

/// What keys do.
const HELP: [&str; 13] = [
    "↑ ↓ or k j   select an app",
    "enter or t   send it through another tunnel: adds a rule",
    "             for it to the daemon's database",
    "s            sort by rate, bytes, flows, name, tunnel",
    "p or space   pause, go on",
    "esc          forget what was said below",
    "q            quit",
    "",
    "rtt     to the tunnel's other end and back",
    "in/s    bytes a second, IP headers included",
    "role    primary: its address is the interface's;",
    "        secondary: translated to its own",
    "\"not asked\": no rule asks whose flows these are",
];

pub(super) fn draw(frame: &mut Frame<'_>, whole: Rect, model: &Model) {
    match &model.over {
        Over::Nothing => {}
        Over::Help => {
            let lines = HELP.iter().map(|line| Line::raw(*line)).collect();
            boxed(frame, whole, " help ", lines, None);
        }
        Over::Choice { owner, ways, at } => {
            let title = format!(" {} through ", words::app(owner, &model.shown.users));
            let lines = ways.iter().enumerate().map(|(place, way)| {
                let state = match (model.shown.tunnels.get(way), model.shown.groups.get(way)) {
                    (Some(tunnel), _) => tunnel.state.clone(),
                    (None, Some(group)) => {
                        let chosen = group.chosen.as_deref().unwrap_or("none up");
                        format!("group, now {chosen}")
                    }
                    (None, None) => "nowhere".to_owned(),
                };
                let style = match place == *at {
                    true => Style::new().add_modifier(Modifier::REVERSED),
                    false => Style::new(),
                };
                Line::styled(format!(" {way:<16} {state:<20} "), style)
            });
            boxed(frame, whole, &title, lines.collect(), Some(*at));
        }
    }
}

/// In the middle, as large as it is or as there is room; the line `seen` is in view.
fn boxed(
    frame: &mut Frame<'_>,
    whole: Rect,
    title: &str,
    lines: Vec<Line<'_>>,
    seen: Option<usize>,
) {
    let widest = lines.iter().map(Line::width).max().unwrap_or(0);
    let widest = widest.max(Line::raw(title).width());
    let width = u16::try_from(widest + 4)
        .unwrap_or(u16::MAX)
        .min(whole.width);
    let height = u16::try_from(lines.len() + 2)
        .unwrap_or(u16::MAX)
        .min(whole.height);
    let area = Rect {
        x: whole.x + (whole.width - width) / 2,
        y: whole.y + (whole.height - height) / 2,
        width,
        height,
    };
    let room = usize::from(height.saturating_sub(2));
    let first = seen.map_or(0, |seen| (seen + 1).saturating_sub(room));
    let lines: Vec<Line<'_>> = lines.into_iter().skip(first).collect();
    let block = Block::bordered()
        .border_style(DIM)
        .title(Line::styled(title, TITLE));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
