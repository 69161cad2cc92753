//! What pictures of terminals are made of: colours, headlines, columns.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// What is quiet.
pub const DIM: Style = Style::new().fg(Color::DarkGray);
/// Names of columns.
pub const HEAD: Style = Style::new().fg(Color::Gray).add_modifier(Modifier::DIM);
/// Headlines.
pub const TITLE: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
/// What is well.
pub const GOOD: Style = Style::new().fg(Color::Green);
/// What is not yet.
pub const WAIT: Style = Style::new().fg(Color::Yellow);
/// What is wrong.
pub const BAD: Style = Style::new().fg(Color::Red);

/// By which way packets go to a peer of a mesh: the colour of that.
pub fn path_style(path: &str) -> Style {
    match path {
        "direct" => GOOD,
        "none" => BAD,
        _ => WAIT,
    }
}

/// A headline with a rule behind it.
pub fn title(frame: &mut Frame<'_>, area: Rect, name: &str, more: &str) {
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

/// The first row of an area.
pub fn first_row(area: Rect) -> Rect {
    Rect {
        height: area.height.min(1),
        ..area
    }
}

/// The row below the first `rows` of an area, if it has one.
pub fn row(area: Rect, rows: u16) -> Option<Rect> {
    (rows < area.height).then(|| Rect {
        y: area.y + rows,
        height: 1,
        ..area
    })
}

/// Text in so many columns: cut, or filled up on one side.
pub fn left(text: &str, width: usize) -> String {
    let text = cut(text, width);
    let fill = width.saturating_sub(Span::raw(&text).width());
    format!("{text}{}", " ".repeat(fill))
}

/// The same, for numbers.
pub fn right(text: &str, width: usize) -> String {
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
