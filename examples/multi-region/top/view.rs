//! A picture of the model: what is where. Pure.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::model::{Link, Model};
use super::{apps, footer, over, tunnels};

/// Rows of the lower part: a headline and five lines.
const FOOTER: u16 = 6;

/// Least rows that applications have: headline, names of columns, three of them.
const APPS: u16 = 5;

/// What is quiet.
pub(crate) const DIM: Style = Style::new().fg(Color::DarkGray);
/// Names of columns.
pub(crate) const HEAD: Style = Style::new().fg(Color::Gray).add_modifier(Modifier::DIM);
/// Headlines.
pub(crate) const TITLE: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
/// What is well, not yet, and wrong.
pub(crate) const GOOD: Style = Style::new().fg(Color::Green);
pub(crate) const WAIT: Style = Style::new().fg(Color::Yellow);
pub(crate) const BAD: Style = Style::new().fg(Color::Red);

/// Draws everything, whatever the size.
pub(crate) fn view(frame: &mut Frame<'_>, model: &Model) {
    let whole = frame.area();
    let rows = tunnels::rows(model);
    let most = whole.height.saturating_sub(2 + FOOTER + APPS);
    let [head, upper, middle, lower, hints] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows.min(most.max(4))),
        Constraint::Min(0),
        Constraint::Length(FOOTER),
        Constraint::Length(1),
    ])
    .areas(whole);
    header(frame, head, model);
    match (
        &model.link,
        model.history_of_all.is_empty() && model.shown.tunnels.is_empty(),
    ) {
        (Link::New, true) => waiting(frame, upper, &format!("asking {}", model.control)),
        (Link::Gone(why), true) => {
            let text = format!("no daemon at {}: {why}", model.control);
            waiting(frame, upper, &text);
        }
        _ => {
            tunnels::draw(frame, upper, model);
            apps::draw(frame, middle, model);
            footer::draw(frame, lower, model);
        }
    }
    footer::hints(frame, hints, model);
    over::draw(frame, whole, model);
}

fn header(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let (word, style) = match &model.link {
        Link::Gone(_) => ("no daemon", BAD),
        _ if model.paused => ("paused", WAIT),
        Link::New => ("asking", WAIT),
        Link::Live => ("live", GOOD),
    };
    let shown = &model.shown;
    let state = format!("● {word} ");
    let width = Span::raw(&state).width() as u16;
    let [left, right] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(width)]).areas(area);
    let mut line = vec![Span::styled(" multi-region", TITLE)];
    if !shown.interface.name.is_empty() {
        line.push(Span::raw(format!("  {}", shown.interface.name)));
        for address in shown.interface.addresses.iter().take(2) {
            line.push(Span::styled(format!(" {address}"), DIM));
        }
    }
    let others = shown.changed_by_others.len();
    if others > 0 {
        let text = format!("  {others} changed by others, see status");
        line.push(Span::styled(text, WAIT));
    }
    frame.render_widget(Line::from(line), left);
    frame.render_widget(Line::styled(state, style), right);
}

fn waiting(frame: &mut Frame<'_>, area: Rect, text: &str) {
    let text = Paragraph::new(format!("\n {text}"));
    frame.render_widget(text.style(DIM).wrap(Default::default()), area);
}

/// A headline with a rule behind it.
pub(crate) fn title(frame: &mut Frame<'_>, area: Rect, name: &str, more: &str) {
    let used = Span::raw(name).width() + Span::raw(more).width() + 4;
    let rest = usize::from(area.width).saturating_sub(used);
    let line = Line::from(vec![
        Span::styled("─ ", DIM),
        Span::styled(name.to_owned(), TITLE),
        Span::styled(format!("{more} "), DIM),
        Span::styled("─".repeat(rest + 1), DIM),
    ]);
    frame.render_widget(line, first_row(area));
}

pub(crate) fn first_row(area: Rect) -> Rect {
    Rect {
        height: area.height.min(1),
        ..area
    }
}

/// The row below the first `rows` of an area, if it has one.
pub(crate) fn row(area: Rect, rows: u16) -> Option<Rect> {
    (rows < area.height).then(|| Rect {
        y: area.y + rows,
        height: 1,
        ..area
    })
}

/// Text in so many columns: cut, or filled up on one side.
pub(crate) fn left(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let fill = width.saturating_sub(Span::raw(&text).width());
    format!("{text}{}", " ".repeat(fill))
}

/// The same, for numbers.
pub(crate) fn right(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let fill = width.saturating_sub(Span::raw(&text).width());
    format!("{}{text}", " ".repeat(fill))
}

/// What fits, with a sign that there was more.
fn cut(text: &str, width: usize) -> String {
    // Widths of characters, not bytes; what moves the cursor has none.
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    if Span::raw(&plain).width() <= width {
        return plain;
    }
    let mut out = String::new();
    for c in plain.chars() {
        let longer = format!("{out}{c}");
        if Span::raw(&longer).width() + 1 > width {
            break;
        }
        out = longer;
    }
    if width > 0 {
        out.push('…');
    }
    out
}
