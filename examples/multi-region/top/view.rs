//! A picture of the model: what is where. Pure.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
pub(crate) use vpn_examples::draw::{BAD, DIM, GOOD, HEAD, TITLE, WAIT, left, right, row, title};

use super::model::{Link, Model};
use super::{apps, footer, over, tunnels};

/// Rows of the lower part: a headline and five lines.
const FOOTER: u16 = 6;

/// Least rows that applications have: headline, names of columns, three of them.
const APPS: u16 = 5;

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
