//! `libp2p-node top`: the report, asked for once a second, until `q`.

use std::io::{IsTerminal as _, stdin, stdout};
use std::path::Path;
use std::time::Duration;

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt as _;
use ratatui::widgets::Paragraph;
use vpn_examples::control::ask;
use vpn_examples::screen::{Key, Screen, key_of};

use crate::daemon::{Request, Signals};
use crate::error::Error;
use crate::report::Report;

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Shows a node until it is told to stop. The daemon may come and go meanwhile.
pub(crate) async fn run(control: &Path) -> Result<(), Error> {
    if !stdout().is_terminal() || !stdin().is_terminal() {
        let text = format!(
            "top: this is no terminal; for a report once: libp2p-node status --control {}",
            control.display()
        );
        return Err(Error::Argument(text));
    }
    let mut stop = Signals::new().map_err(Error::Runtime)?;
    let mut screen = Screen::take().map_err(Error::Terminal)?;
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval(ASK_EVERY);
    let mut text = String::new();
    loop {
        let shown = Paragraph::new(text.as_str());
        let drawn = screen
            .terminal
            .draw(|frame| frame.render_widget(shown, frame.area()));
        drawn.map_err(Error::Terminal)?;
        tokio::select! {
            () = stop.received() => return Ok(()),
            _ = tick.tick() => text = look(control).await,
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) => {
                    if matches!(key_of(key), Some(Key::Char('q') | Key::Interrupt | Key::Escape)) {
                        return Ok(());
                    }
                }
                // A new size, say: it is drawn anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Error::Terminal(error)),
                None => return Ok(()),
            },
        }
    }
}

async fn look(control: &Path) -> String {
    match ask(control, &Request::Status).await {
        Ok(value) => match serde_json::from_value::<Report>(value) {
            Ok(report) => format!("{}\nq: end", report.text()),
            Err(error) => format!("its answer makes no sense: {error}"),
        },
        Err(error) => format!("{}: {error}", control.display()),
    }
}
