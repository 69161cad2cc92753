//! Draws what is below the tables: drops, rules, DNS, the daemon, and what keys do. Pure.

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::model::{Link, Model, Note};
use super::snapshot::Snapshot;
use super::view::{BAD, DIM, GOOD, TITLE, WAIT, left, right, row, title};
use super::words;

/// Columns of the drops.
const DROPS: u16 = 36;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let [drops_area, rest] =
        Layout::horizontal([Constraint::Length(DROPS), Constraint::Min(0)]).areas(area);
    drops(frame, drops_area, model);
    daemon(frame, rest, model);
}

/// The reasons that count most now, then those that ever did.
fn drops(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let shown = &model.shown;
    let rate = |reason: &str| {
        let rates = model.rates.as_ref()?;
        Some(rates.drops.get(reason).copied().unwrap_or(0))
    };
    let total: u64 = shown.drops.values().sum();
    title(frame, area, "drops", &format!(" {}", words::count(total)));
    let mut reasons: Vec<(&String, &u64)> = shown.drops.iter().collect();
    reasons.sort_by_key(|(reason, count)| Reverse((rate(reason), **count)));
    if reasons.is_empty()
        && let Some(at) = row(area, 1)
    {
        frame.render_widget(Line::styled(" none", DIM), at);
    }
    for (place, (reason, count)) in reasons.into_iter().enumerate() {
        let Some(at) = row(area, 1 + place as u16) else {
            return;
        };
        let per_second = rate(reason);
        let now = per_second.map_or_else(String::new, |n| format!("{}/s", words::count(n)));
        let style = match per_second {
            Some(1..) => WAIT,
            _ => Style::new(),
        };
        let line = format!(
            " {} {} {}",
            left(reason, 19),
            right(&words::count(*count), 6),
            right(&now, 7)
        );
        frame.render_widget(Line::styled(line, style), at);
    }
}

fn daemon(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let shown = &model.shown;
    title(frame, area, "daemon", "");
    let (rules, dns, process) = (&shown.rules, &shown.dns, &shown.process);
    let in_order = rules.error.is_none() && rules.problems.is_empty();
    let queries = model
        .rates
        .as_ref()
        .map(|rates| words::count(rates.queries));
    let lines = [
        Line::from(vec![
            Span::styled(" rules   ", DIM),
            Span::raw(format!("generation {} ", rules.generation)),
            match in_order {
                true => Span::styled("in order", GOOD),
                false => Span::styled("in trouble", BAD),
            },
        ]),
        Line::from(vec![
            Span::styled(" dns     ", DIM),
            Span::raw(format!(
                "{} steered, {}/s, {} wait, {} names",
                words::count(dns.queries),
                queries.unwrap_or_else(|| "-".to_owned()),
                words::count(dns.pending),
                words::count(dns.names),
            )),
        ]),
        Line::from(vec![
            Span::styled(" packets ", DIM),
            Span::raw(format!(
                "{} held, {} queued",
                words::count(shown.packets.held),
                words::count(shown.packets.queued),
            )),
        ]),
        Line::from(vec![
            Span::styled(" process ", DIM),
            Span::raw(format!(
                "{}, {} fds, {} tasks",
                words::bytes(process.memory),
                process.fds.map_or_else(|| "-".to_owned(), words::count),
                words::count(process.tasks),
            )),
        ]),
        kept(shown),
    ];
    for (place, line) in lines.into_iter().enumerate() {
        if let Some(at) = row(area, 1 + place as u16) {
            frame.render_widget(line, at);
        }
    }
}

/// What is kept alive: what is not well, or that all is.
fn kept(shown: &Snapshot) -> Line<'static> {
    let mut line = vec![Span::styled(" parts   ", DIM)];
    let breakers = shown.breakers.iter().map(|(name, breaker)| {
        let style = match breaker.state.as_str() {
            "open" => Some(BAD),
            "half_open" => Some(WAIT),
            _ => None,
        };
        (style, format!("{name} {}", breaker.state.replace('_', "-")))
    });
    let tasks = shown.tasks.iter().map(|(name, task)| {
        let style = match task.state.as_str() {
            "running" if task.starts < 2 => None,
            "running" => Some(WAIT),
            _ => Some(BAD),
        };
        let again = format!("{name} {}, start {}", task.state, task.starts);
        (style, again)
    });
    for (style, said) in breakers.chain(tasks) {
        if let Some(style) = style {
            line.push(Span::styled(format!("{said}  "), style));
        }
    }
    if line.len() == 1 {
        let (breakers, tasks) = (shown.breakers.len(), shown.tasks.len());
        let all = format!("{tasks} tasks run, {breakers} breakers closed");
        line.push(Span::raw(all));
    }
    Line::from(line)
}

/// The last row: what is wrong, else what was said, else what keys do.
pub(super) fn hints(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rules = &model.shown.rules;
    let line = match (
        &model.link,
        &model.note,
        &rules.error,
        rules.problems.first(),
    ) {
        (Link::Gone(why), ..) => Line::styled(format!(" no daemon: {why}; asking again"), BAD),
        (_, Some(Note { text, bad }), ..) => {
            Line::styled(format!(" {text}"), if *bad { BAD } else { GOOD })
        }
        (.., Some(error), _) => Line::styled(format!(" rules cannot be loaded: {error}"), BAD),
        (.., Some(problem)) => Line::styled(format!(" {problem}"), BAD),
        _ => {
            let keys = [
                ("↑↓", "select"),
                ("enter", "switch tunnel"),
                ("s", "sort"),
                ("p", "pause"),
                ("?", "help"),
                ("q", "quit"),
            ];
            let spans = keys.iter().flat_map(|(key, what)| {
                [
                    Span::styled(format!(" {key}"), TITLE),
                    Span::styled(format!(" {what} "), DIM),
                ]
            });
            spans.collect()
        }
    };
    frame.render_widget(line, area);
}
