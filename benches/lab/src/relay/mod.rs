//! Packets per second of CPU time of relays, in turns: our hub, a reflector that does nothing else,
//! and coturn. Over loopback, so that a relay's time is that of its system calls and its own work.
//!
//! As many datagrams are on the way as a window allows, so nobody is measured by what it loses. In
//! bursts: 32 at a time with segmentation, as a tunnel under load sends them. Singly: each by a call.

mod ends;
mod serve;
mod turn;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

pub(crate) use serve::main;

use crate::Error;
use crate::account;
use crate::contender::bound_to_us;
use crate::goals::{Bound, Goal};
use ends::Way;

/// Bytes of what is relayed, without the relay's own header: a tunnel's packet at MTU 1280, sealed.
const CONTENT: usize = 1312;

/// How long traffic flows before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Relay {
    Ours,
    Reflector,
    Coturn,
}

/// One relay with one kind of traffic.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    relay: Relay,
    bursts: bool,
    /// Thousands of packets per second of the relay's CPU time, in each round.
    per_cpu_second: Vec<f64>,
    /// Thousands of packets per second.
    per_second: Vec<f64>,
    /// Packets that did not arrive.
    lost: u64,
}

impl Figures {
    fn median(values: &[f64]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// One line of a report.
    pub(crate) fn line(&self) -> String {
        let name = match self.relay {
            Relay::Ours => "hub: ours",
            Relay::Reflector => "bare reflector",
            Relay::Coturn => "coturn",
        };
        let how = if self.bursts { "in bursts" } else { "singly" };
        format!(
            "{name:<16} {how:<10} {:>8.0} kpackets per CPU second {:>8.0} kpackets/s {:>6} lost",
            Self::median(&self.per_cpu_second),
            Self::median(&self.per_second),
            self.lost
        )
    }
}

/// A relay that runs, and the way through it.
struct Running {
    process: Child,
    way: Way,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Relay {
    fn start(self) -> Result<Running, Error> {
        match self {
            Self::Ours => {
                let (process, said) = ourselves(&["hub"])?;
                let way = Way::through_hub(&said)?;
                Ok(Running {
                    process,
                    way,
                    _folder: None,
                })
            }
            Self::Reflector => {
                let ends = ends::Ends::new()?;
                let (process, said) =
                    ourselves(&["reflector", &ends.receiver_addr()?.to_string()])?;
                let to: SocketAddr = said.parse()?;
                Ok(Running {
                    process,
                    way: ends.bare(to),
                    _folder: None,
                })
            }
            Self::Coturn => turn::start(),
        }
    }
}

/// Starts this program as a relay; what it says once it is there.
fn ourselves(words: &[&str]) -> Result<(Child, String), Error> {
    let program = std::env::current_exe()?;
    let mut command: Command = bound_to_us(&program.to_string_lossy());
    command.arg("relay").args(words).stdout(Stdio::piped());
    let mut process = command.spawn()?;
    let mut line = String::new();
    if let Some(out) = process.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    match line.trim().strip_prefix("ready ") {
        Some(said) => Ok((process, said.to_owned())),
        None => Err(format!("`relay {words:?}` did not start; its message is above").into()),
    }
}

/// Measures everybody in turns, and tells which goals are met.
pub(crate) fn compare(
    rounds: usize,
    seconds: f64,
    mut tell: impl FnMut(&str),
) -> Result<(Vec<Figures>, Vec<Goal>), Error> {
    let mut relays = vec![Relay::Ours, Relay::Reflector];
    if turn::is_installed() {
        relays.push(Relay::Coturn);
    } else {
        tell("SKIPPED: coturn is not installed (apt-get install coturn)");
    }
    let mut figures: Vec<Figures> = Vec::new();
    for bursts in [true, false] {
        figures.extend(relays.iter().map(|&relay| Figures {
            relay,
            bursts,
            per_cpu_second: Vec::new(),
            per_second: Vec::new(),
            lost: 0,
        }));
    }
    let count = figures.len();
    for round in 0..rounds {
        for turn in 0..count {
            let which = if round % 2 == 0 {
                turn
            } else {
                count - 1 - turn
            };
            let one = &mut figures[which];
            let running = one.relay.start()?;
            let pid = running.process.id();
            let spent = || account::process(pid);
            let window = Duration::from_secs_f64(seconds);
            let measured = running.way.flow(one.bursts, WARM_UP, window, spent)?;
            let thousands = measured.received as f64 / 1000.0;
            one.per_cpu_second
                .push(thousands / measured.spent.as_secs_f64());
            one.per_second.push(thousands / measured.took.as_secs_f64());
            one.lost += measured.lost;
        }
    }
    figures.iter().for_each(|figures| tell(&figures.line()));
    tell(&flooded(seconds)?);
    let goals = goals(&figures);
    Ok((figures, goals))
}

/// What strangers do to the hub and its members: one line of a report.
fn flooded(seconds: f64) -> Result<String, Error> {
    let running = Relay::Ours.start()?;
    let pid = running.process.id();
    let spent = || account::process(pid);
    let window = Duration::from_secs_f64(seconds);
    let before = running.way.flow(true, WARM_UP, window, spent)?;
    let (resident, _) = account::resident(pid).ok_or("the hub is gone")?;
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let (during, sent) = thread::scope(|scope| {
        let flooding = scope.spawn(|| running.way.flood(&stop));
        let during = running.way.flow(true, WARM_UP, window, spent);
        stop.store(true, Ordering::Relaxed);
        let sent = flooding.join().map_err(|_| "the flood failed")??;
        Ok::<_, Error>((during?, sent))
    })?;
    let flood = sent as f64 / 1000.0 / start.elapsed().as_secs_f64();
    let (_, most) = account::resident(pid).ok_or("the hub is gone")?;
    let rate = |m: &ends::Measured| m.received as f64 / 1000.0 / m.took.as_secs_f64();
    Ok(format!(
        "under a flood of {flood:.0} k handshakes/s: {:.0} of {:.0} kpackets/s are relayed, \
         {} lost; the hub takes {:.2} of a processor, {:.1} MiB of memory (before: {:.1})",
        rate(&during),
        rate(&before),
        during.lost,
        during.spent.as_secs_f64() / during.took.as_secs_f64(),
        most as f64 / 1024.0,
        resident as f64 / 1024.0,
    ))
}

fn goals(figures: &[Figures]) -> Vec<Goal> {
    let of = |relay, bursts| {
        let found = figures
            .iter()
            .find(|f| f.relay == relay && f.bursts == bursts)?;
        Some(Figures::median(&found.per_cpu_second))
    };
    let mut goals = Vec::new();
    for (bursts, how) in [(true, "in bursts"), (false, "singly")] {
        for (other, name, least) in [
            (Relay::Coturn, "coturn", 4.0),
            (Relay::Reflector, "a bare reflector", 0.5),
        ] {
            if let (Some(ours), Some(theirs)) = (of(Relay::Ours, bursts), of(other, bursts)) {
                goals.push(Goal {
                    group: "G8",
                    what: format!("relayed per CPU second, {how}, ours beside {name}"),
                    value: ours / theirs,
                    unit: "x",
                    bound: Bound::AtLeast(least),
                });
            }
        }
    }
    goals
}
