//! `multi-region`: a per-app VPN daemon made from the pieces of the SDK.
//!
//! Runs the tunnels of several providers at the same time on one interface, also when they all
//! hand out the identical address, and sends each app through the tunnel its rule names.
//!
//! ```sh
//! multi-region rule add --rules rules.db --uid 1001 --to uk
//! multi-region check --config multi-region.toml
//! multi-region run --config multi-region.toml
//! multi-region status --control multi-region.sock
//! multi-region top --control multi-region.sock
//! multi-region recover --config multi-region.toml
//! ```

mod asked;
mod check;
mod config;
mod control;
mod daemon;
mod direct;
mod error;
mod etcd;
mod explain;
mod host;
mod kept;
mod metrics;
mod network;
mod plan;
mod policy;
mod provider;
mod reload;
mod report;
mod resources;
mod rule;
mod switch;
mod system;
mod top;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use config::Config;
use error::Error;
use vpn_examples::program;

/// Many tunnels at once on one interface, per app.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon. Prints `ready` once policy is in force and each tunnel was tried.
    Run {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Validate a configuration and print the plan. Exit code 2 on an error.
    Check {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Undo what a daemon that was killed left on this machine, and say what. Also what
    /// `on_exit = "block"` leaves.
    Recover {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// List, add and remove rules; works with and without a running daemon.
    #[command(subcommand)]
    Rule(rule::RuleCommand),
    /// Tunnels, counters, addresses of a running daemon.
    Status {
        /// Control socket.
        #[arg(long)]
        control: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// A running daemon, seen live; keys send apps through other tunnels.
    Top {
        /// Control socket.
        #[arg(long)]
        control: PathBuf,
    },
    /// Which way a flow takes, and why.
    Explain {
        /// Control socket.
        #[arg(long)]
        control: PathBuf,
        #[command(flatten)]
        question: explain::Question,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Have a running daemon read its configuration again, as by SIGHUP.
    Reload {
        /// Control socket.
        #[arg(long)]
        control: PathBuf,
    },
}

fn main() -> ExitCode {
    program::log("info");
    let command = Cli::parse().command;
    let mut runtime = runtime(&command);
    program::run("multi-region", &mut runtime, dispatch(command))
}

/// One thread, or one for each worker beside that of the control socket.
fn runtime(command: &Command) -> Builder {
    let workers = match command {
        // What is wrong with it is said by who runs it.
        Command::Run { config } => Config::read(config).map_or(1, |c| c.interface.workers.0),
        _ => 1,
    };
    if workers == 1 {
        return Builder::new_current_thread();
    }
    let mut several = Builder::new_multi_thread();
    several.worker_threads(workers);
    several
}

async fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Run { config } => daemon::run(&config).await,
        Command::Check { config } => check::check(&config).await,
        Command::Recover { config } => system::recover(&Config::read(&config)?).await,
        Command::Rule(command) => rule::run(command),
        Command::Status { control, json } => {
            let status = control::ask(&control, &control::Request::Status).await?;
            view::status(&status, json);
            Ok(())
        }
        Command::Top { control } => top::run(&control).await,
        Command::Explain {
            control,
            question,
            json,
        } => {
            let request = control::Request::Explain(question);
            view::explanation(&control::ask(&control, &request).await?, json);
            Ok(())
        }
        Command::Reload { control } => {
            let done = control::ask(&control, &control::Request::Reload).await?;
            view::reloaded(&done);
            Ok(())
        }
    }
}
