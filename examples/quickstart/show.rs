//! The show: judges what the apps tell, draws once a second, changes rules, and ends.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};
use vpn_core::DropReason;

use crate::circuit::{APPS, REGIONS};
use crate::error::{Doing, StepError};
use crate::stage::{Stage, Told};
use crate::tally::Tally;
use crate::view::{Scene, View};

/// Between two pictures.
const TICK: Duration = Duration::from_secs(1);

/// Between two changes of a rule, unless the show is short.
const MOVE_EVERY: Duration = Duration::from_secs(4);

/// How the show went.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Connections in all.
    pub(crate) connections: u64,
    /// Rules changed.
    pub(crate) moves: usize,
    /// What was not right; empty means success.
    pub(crate) problems: Vec<String>,
}

/// Signals that end the show. Made before anything that would be left behind.
#[derive(Debug)]
pub(crate) struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Ends {
    /// From here on these signals no longer end the process.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Runs until `length` is over, or for ever, until a signal comes or nobody reads the output any
/// more. Whatever happens, apps and providers are gone when it returns.
pub(crate) async fn run(
    mut stage: Stage,
    length: Option<Duration>,
    mut ends: Ends,
) -> Result<Outcome, StepError> {
    let mut view = View::new(&stage.title);
    let mut tally = Tally::new();
    let start = Instant::now();
    let mut ticks = interval_at((start + TICK).into(), TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // A short show still changes two rules, and leaves the last app time to be seen moving.
    let move_every = length.map_or(MOVE_EVERY, |length| MOVE_EVERY.min(length / 3));
    let mut next_move = start + move_every;
    let mut moves = 0;
    let mut before = stage
        .circuit
        .handle()
        .status()
        .await
        .doing("ask the engine")?;
    let mut drawn = start;

    let finished = loop {
        tokio::select! {
            () = ends.wait() => break false,
            () = sleep_until((start + length.unwrap_or_default()).into()), if length.is_some() => {
                break true;
            }
            () = sleep_until(next_move.into()) => {
                let app = moves % APPS.len();
                let from = tally.apps[app].book.region().to_owned();
                let to = after(&from);
                let (given, in_force) = stage.circuit.point(app, to).await?;
                tally.changed(app, to, given, in_force);
                moves += 1;
                let text = format!(
                    "rule of {} changed from {from} to {to}, in force after {:.1} ms",
                    APPS[app],
                    in_force.millis_since(given),
                );
                view.event(start.elapsed(), &text);
                next_move += move_every;
                if length.is_some_and(|length| next_move + move_every / 2 > start + length) {
                    next_move = start + length.unwrap_or_default() + TICK;
                }
            }
            told = stage.reports.recv() => match told {
                Some((app, Told::Report(report))) => {
                    if let Some(after) = tally.report(app, &report) {
                        let region = tally.apps[app].book.region();
                        let text = format!(
                            "{} moved to {region}: its next connection, {after:.1} ms later",
                            APPS[app]
                        );
                        view.event(start.elapsed(), &text);
                    }
                }
                Some((app, Told::Ended(why))) => {
                    tally.problem(format!("{} ended: {why}", APPS[app]));
                    break false;
                }
                None => {
                    tally.problem("all apps ended".to_owned());
                    break false;
                }
            },
            _ = ticks.tick() => {
                let Ok(status) = stage.circuit.handle().status().await else {
                    tally.problem("the engine ended by itself".to_owned());
                    break false;
                };
                let now = Instant::now();
                view.draw(&Scene {
                    elapsed: now - start,
                    since_last: now - drawn,
                    tally: &tally,
                    status: &status,
                    before: &before,
                    refused: &refused(&stage),
                });
                if view.is_unread() {
                    break false;
                }
                tally.shown();
                (before, drawn) = (status, now);
            }
        }
    };

    close(stage, &mut tally).await?;
    let connections = tally.total();
    let problems = tally.verdict(finished);
    Ok(Outcome {
        connections,
        moves,
        problems,
    })
}

/// Ends apps, engine and providers, in this order, and checks the accounts.
async fn close(mut stage: Stage, tally: &mut Tally) -> Result<(), StepError> {
    stage.reports.close();
    stage.props.stop_apps();
    for (region, count) in REGIONS.into_iter().zip(refused(&stage)) {
        if count > 0 {
            tally.problem(format!(
                "{region} refused {count} packets with a foreign source"
            ));
        }
    }
    let status = stage.circuit.stop().await?;
    drop(stage.props);
    let accounts = &status.accounts;
    if !accounts.balance() {
        tally.problem(format!("packets are not accounted for: {accounts:?}"));
    }
    let blocked = accounts.drops.get(DropReason::NoSuchTunnel);
    if blocked > 0 {
        tally.problem(format!("{blocked} packets had a rule that names no tunnel"));
    }
    Ok(())
}

fn refused(stage: &Stage) -> Vec<u64> {
    (0..REGIONS.len())
        .map(|region| stage.props.refused(region))
        .collect()
}

/// The region after this one, round and round.
fn after(region: &str) -> &'static str {
    let position = REGIONS.iter().position(|r| *r == region).unwrap_or(0);
    REGIONS[(position + 1) % REGIONS.len()]
}
