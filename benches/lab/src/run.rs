//! The run: who takes part, in which order, and what is told and written.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::contender::Contender;
use crate::goals::{self, Goal};
use crate::ground::MTU;
use crate::measure::{self, Windows};
use crate::results::{Results, Rounds};
use crate::rivals;
use crate::{Error, chart, memory, owners, relay, table, tunnels};

/// Compares ways from one network namespace to another, in turns, on this machine. Everything
/// happens in namespaces it makes; nothing is left behind.
#[derive(Debug, Parser)]
#[command(name = "bench-lab")]
pub(crate) struct Run {
    /// Who takes part; everybody that this machine has by default. `list` lists them.
    contenders: Vec<String>,
    /// Rounds; each measures everybody once, in an order that changes.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each stream; everything else is in proportion.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// One more WireGuard daemon, which is started as COMMAND -f INTERFACE.
    #[arg(long = "wg", value_name = "NAME=COMMAND", value_parser = rivals::by_command)]
    wireguard: Vec<rivals::Rival>,
    /// Cables hand on packets, not super-packets, as a wire does.
    #[arg(long)]
    cut: bool,
    /// What is measured.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "ways,tunnels,memory,owners,relay"
    )]
    parts: Vec<Part>,
    /// The daemon whose memory is measured, by default the example `multi-region` beside this
    /// program.
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// Writes everything to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws throughput and CPU to this file.
    #[arg(long)]
    chart: Option<PathBuf>,
    /// One short round of everything of ours and the first rival: does it still run?
    #[arg(long)]
    smoke: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The contenders.
    Ways,
    /// A hundred tunnels beside one.
    Tunnels,
    /// The daemon's memory.
    Memory,
    /// Owners of flows.
    Owners,
    /// Relays.
    Relay,
}

/// What is written.
#[derive(Debug, Serialize)]
struct File<'a> {
    results: &'a Results,
    tunnels: &'a [Rounds],
    relays: &'a [relay::Figures],
    goals: &'a [Goal],
}

impl Run {
    /// Runs all parts; whether everything ran, met or missed.
    pub(crate) fn run(mut self) -> Result<bool, Error> {
        if self.smoke {
            (self.rounds, self.seconds) = (1, 0.4);
        }
        let windows = Windows::of(self.seconds);
        let Some(contenders) = self.contenders()? else {
            return Ok(true);
        };
        let mut results = Results {
            kernel: kernel(),
            processor: processor(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            cut: self.cut,
            mtu: MTU,
            windows,
            contenders: contenders.iter().map(Rounds::of).collect(),
        };
        let mut all_ran = true;
        let mut goals = Vec::new();
        if self.parts.contains(&Part::Ways) {
            self.ways(&contenders, windows, &mut results);
            table::print(&results);
            goals.extend(goals::of(&results));
            all_ran &= results.contenders.iter().all(|r| r.problems.is_empty());
        }
        let (mut many, mut relays) = (Vec::new(), Vec::new());
        for part in [Part::Tunnels, Part::Memory, Part::Owners, Part::Relay] {
            if !self.parts.contains(&part) {
                continue;
            }
            match self.goals_of(part, windows, &mut many, &mut relays) {
                Ok(more) => goals.extend(more),
                Err(error) => {
                    println!("FAILED: {part:?}: {error}");
                    all_ran = false;
                }
            }
        }
        println!();
        if self.smoke {
            println!("windows are too short to judge {} goals by", goals.len());
        } else {
            goals.iter().for_each(|goal| println!("{}", goal.line()));
        }
        if let Some(path) = &self.json {
            let file = File {
                results: &results,
                tunnels: &many,
                relays: &relays,
                goals: &goals,
            };
            fs::write(path, serde_json::to_string_pretty(&file)? + "\n")?;
        }
        if let Some(path) = &self.chart {
            fs::write(path, chart::draw(&results))?;
        }
        Ok(all_ran)
    }

    /// Everybody of this run; none if they were only to be listed.
    fn contenders(&self) -> Result<Option<Vec<Contender>>, Error> {
        let (here, missing) = rivals::found();
        let mut everybody = Contender::own();
        let rivals = here.into_iter().chain(self.wireguard.iter().cloned());
        let mut rivals: Vec<Contender> = rivals.map(Contender::rival).collect();
        if self.smoke && self.contenders.is_empty() {
            rivals.truncate(1);
        } else {
            for name in missing {
                println!("SKIPPED: {name} is not installed");
            }
        }
        everybody.extend(rivals);
        if self.contenders.iter().any(|name| name == "list") {
            for contender in &everybody {
                println!("{:<18} {}", contender.name, contender.label);
            }
            return Ok(None);
        }
        for name in &self.contenders {
            if !everybody.iter().any(|contender| contender.name == *name) {
                return Err(format!("there is no {name} here; `list` lists them").into());
            }
        }
        if !self.contenders.is_empty() {
            everybody.retain(|contender| self.contenders.contains(&contender.name));
        }
        Ok(Some(everybody))
    }

    fn ways(&self, contenders: &[Contender], windows: Windows, results: &mut Results) {
        let count = contenders.len();
        for round in 0..self.rounds {
            for turn in 0..count {
                // Forwards and backwards in turns, so that nobody always follows the same neighbour
                // and what drifts within a round meets all alike.
                let which = if round % 2 == 0 {
                    turn
                } else {
                    count - 1 - turn
                };
                let contender = &contenders[which];
                let started = Instant::now();
                self.tell(&format!(
                    "round {}/{}, {}/{count}: {}",
                    round + 1,
                    self.rounds,
                    turn + 1,
                    contender.label
                ));
                let rounds = &mut results.contenders[which];
                match measure::round(contender, self.cut, windows) {
                    Ok(figures) => {
                        self.told(&format!(
                            "{:.2} Gbit/s, {:.1} s",
                            figures.gbits,
                            started.elapsed().as_secs_f64()
                        ));
                        rounds.rounds.push(Some(figures));
                    }
                    Err(error) => {
                        self.told(&format!("FAILED: {error}"));
                        rounds.problems.push(error.to_string());
                        rounds.rounds.push(None);
                    }
                }
            }
        }
    }

    fn goals_of(
        &self,
        part: Part,
        windows: Windows,
        many: &mut Vec<Rounds>,
        relays: &mut Vec<relay::Figures>,
    ) -> Result<Vec<Goal>, Error> {
        match part {
            Part::Ways => Ok(Vec::new()),
            Part::Tunnels => {
                let many_tunnels = if self.smoke { 4 } else { tunnels::MANY };
                let (rounds, goal) =
                    tunnels::compare(many_tunnels, windows, self.rounds, |label| {
                        self.tell(label);
                        self.told("");
                    })?;
                *many = rounds;
                Ok(vec![goal])
            }
            Part::Memory => {
                let beside = || Some(std::env::current_exe().ok()?.parent()?.join(BESIDE));
                let Some(program) = self.daemon.clone().or_else(beside).filter(|p| p.exists())
                else {
                    println!("SKIPPED: memory: the example multi-region is not built");
                    return Ok(Vec::new());
                };
                self.tell("memory of the daemon");
                self.told("");
                Ok(vec![memory::daemon(
                    &program,
                    self.smoke.then_some(1_000_000),
                )?])
            }
            Part::Owners => {
                self.tell("owners of flows");
                self.told("");
                owners::look_up(self.smoke)
            }
            Part::Relay => {
                self.tell("relays");
                self.told("");
                let tell = |line: &str| self.told(line);
                let (figures, goals) = relay::compare(self.rounds, self.seconds / 2.0, tell)?;
                *relays = figures;
                Ok(goals)
            }
        }
    }

    /// Says what begins; what becomes of it follows on the same line.
    fn tell(&self, what: &str) {
        print!("{what} ... ");
        if std::io::stdout().is_terminal() {
            let _ = std::io::stdout().flush();
        }
    }

    fn told(&self, what: &str) {
        println!("{what}");
    }
}

/// Where cargo puts the example, seen from this program.
const BESIDE: &str = "examples/multi-region";

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Its version, without what a distribution or a cloud adds.
fn kernel() -> String {
    let release = read("/proc/sys/kernel/osrelease");
    let version = release.trim().split('-').next();
    version.unwrap_or_default().to_owned()
}

fn processor() -> String {
    let text = read("/proc/cpuinfo");
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim()).to_owned()
}
