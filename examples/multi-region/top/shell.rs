//! Touches the terminal, the clock and the control socket: draws, asks once a second, and hears keys.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt as _;
use nix::unistd::{Uid, User};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use vpn_examples::screen::{Screen, key_of};

use super::model::{Ask, Model};
use super::snapshot::{Owner, Snapshot};
use super::view::view;
use crate::control::{self, Request};
use crate::error::{Error, chain, system};
use crate::switch::{App, Switch};

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Answers that wait to be shown; who has one more waits.
const ANSWERS: usize = 4;

/// What the daemon said, or why it did not.
enum Answer {
    Snapshot(Box<Snapshot>),
    Gone(String),
    Switched(Result<String, String>),
}

/// Shows the daemon until it is told to stop. The daemon may come and go meanwhile.
pub(crate) async fn run(control: &Path) -> Result<(), Error> {
    if !stdout().is_terminal() || !stdin().is_terminal() {
        let text = format!(
            "top: this is no terminal; for a report once: multi-region status --control {}",
            control.display()
        );
        return Err(Error::Argument(text));
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::Runtime)?;
    let mut screen = Screen::take().map_err(Error::Terminal)?;
    let mut keys = EventStream::new();
    let (answered, mut answers) = mpsc::channel(ANSWERS);
    let mut asking = tokio::spawn(ask_for_ever(control.to_owned(), answered.clone()));
    let mut model = Model::new(control.display().to_string());
    let outcome = loop {
        if let Err(error) = screen.terminal.draw(|frame| view(frame, &model)) {
            break Err(Error::Terminal(error));
        }
        let key = tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = hangup.recv() => break Ok(()),
            // Only a panic ends it while somebody listens.
            ended = &mut asking => break ended.map_err(system("asking the daemon")),
            Some(answer) = answers.recv() => {
                match answer {
                    Answer::Snapshot(snapshot) => model.snapshot(Instant::now(), *snapshot),
                    Answer::Gone(why) => model.gone(why),
                    Answer::Switched(outcome) => model.said(outcome),
                }
                None
            }
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) => key_of(key),
                // A new size, say: it is drawn anew.
                Some(Ok(_)) => None,
                Some(Err(error)) => break Err(Error::Terminal(error)),
                None => break Ok(()),
            },
        };
        match key.and_then(|key| model.key(key)) {
            None => {}
            Some(Ask::Quit) => break Ok(()),
            Some(Ask::Switch(owner, to)) => {
                let (control, answered) = (control.to_owned(), answered.clone());
                tokio::spawn(async move {
                    let outcome = switch(&control, owner, to).await;
                    // Nobody may be left to tell.
                    let _ = answered.send(Answer::Switched(outcome)).await;
                });
            }
        }
    };
    asking.abort();
    outcome
}

/// Asks until nobody listens any more.
async fn ask_for_ever(control: PathBuf, answered: mpsc::Sender<Answer>) {
    let mut users = BTreeMap::new();
    let mut tick = tokio::time::interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let answer = match control::ask(&control, &Request::Status).await {
            Ok(value) => understood(value, &mut users),
            Err(error) => Answer::Gone(cause_of(&error)),
        };
        if answered.send(answer).await.is_err() {
            return;
        }
    }
}

fn understood(value: Value, users: &mut BTreeMap<u32, String>) -> Answer {
    let mut snapshot: Snapshot = match serde_json::from_value(value) {
        Ok(snapshot) => snapshot,
        Err(error) => return Answer::Gone(format!("its answer makes no sense: {error}")),
    };
    let uids: Vec<u32> = snapshot
        .apps
        .iter()
        .filter_map(|app| app.owner.uid)
        .collect();
    users.retain(|uid, _| uids.contains(uid));
    for uid in uids {
        let name = || match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => user.name,
            _ => format!("uid {uid}"),
        };
        users.entry(uid).or_insert_with(name);
    }
    snapshot.users.clone_from(users);
    Answer::Snapshot(Box::new(snapshot))
}

/// Which rule says so now, or why not.
async fn switch(control: &Path, owner: Owner, to: String) -> Result<String, String> {
    let app = App {
        uid: owner.uid,
        executable: owner.executable.map(PathBuf::from),
        package: owner.package,
    };
    let request = Request::Switch(Switch { app, to });
    let answer = control::ask(control, &request).await;
    let answer = answer.map_err(|error| cause_of(&error))?;
    let word = |key: &str| answer[key].as_str().unwrap_or("-").to_owned();
    Ok(format!("{}: {}", word("rule"), word("says")))
}

/// Why it was not answered. Which socket was asked is on the screen.
fn cause_of(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), chain)
}
