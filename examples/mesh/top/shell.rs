//! Touches the terminal, the clock and the control socket: draws, asks once a second, and hears keys.

use std::io::{IsTerminal as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use vpn_examples::control::ask;
use vpn_examples::screen::{Screen, key_of};

use super::model::Model;
use super::view::view;
use crate::daemon::{Request, Signals};
use crate::error::Error;
use vpn_examples::mesh::Report;

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Answers that wait to be shown.
const ANSWERS: usize = 4;

type Answer = Result<Box<Report>, String>;

/// Shows the member until it is told to stop. The daemon may come and go meanwhile.
pub(crate) async fn run(control: &Path) -> Result<(), Error> {
    if !stdout().is_terminal() || !stdin().is_terminal() {
        let text = format!(
            "top: this is no terminal; for a report once: mesh status --control {}",
            control.display()
        );
        return Err(Error::Argument(text));
    }
    let mut stop = Signals::new().map_err(Error::Runtime)?;
    let mut screen = Screen::take().map_err(Error::Terminal)?;
    let mut keys = EventStream::new();
    let (answered, mut answers) = mpsc::channel(ANSWERS);
    let asking = tokio::spawn(ask_for_ever(control.to_owned(), answered));
    let mut model = Model::new(control.display().to_string());
    let outcome = loop {
        if let Err(error) = screen.terminal.draw(|frame| view(frame, &model)) {
            break Err(Error::Terminal(error));
        }
        tokio::select! {
            () = stop.received() => break Ok(()),
            Some(answer) = answers.recv() => match answer {
                Ok(report) => model.report(Instant::now(), *report),
                Err(why) => model.gone(why),
            },
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) => {
                    if key_of(key).is_some_and(|key| model.key(key)) {
                        break Ok(());
                    }
                }
                // A new size, say: it is drawn anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(Error::Terminal(error)),
                None => break Ok(()),
            },
        }
    };
    asking.abort();
    outcome
}

/// Asks until nobody listens any more.
async fn ask_for_ever(control: PathBuf, answered: mpsc::Sender<Answer>) {
    let mut tick = tokio::time::interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let answer = match ask(&control, &Request::Status).await {
            Ok(value) => serde_json::from_value(value)
                .map(Box::new)
                .map_err(|error| format!("its answer makes no sense: {error}")),
            Err(error) => Err(error.to_string()),
        };
        if answered.send(answer).await.is_err() {
            return;
        }
    }
}
