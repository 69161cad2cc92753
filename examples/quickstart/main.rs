//! Three VPN providers, three apps, one interface, all at the same time, in one command:
//!
//! ```text
//! cargo run --release --example quickstart [-- [--seconds N] [--simulate]]
//! ```
//!
//! No root, no configuration, no network. Three WireGuard providers (uk, fr, us) start inside
//! this program and all hand out the identical address; three apps ask one and the same site,
//! 203.0.113.10 (2001:db8::10), which answers with the name of the region the question came out
//! in. A rule per app says which that must be, and rules change while everything runs.
//!
//! Where the system allows it, all of this is real: user and network namespaces, a TUN, processes
//! told apart by their executables, kernel TCP at both ends. Elsewhere (or with `--simulate`)
//! apps and providers are played in memory, and the first line says so.
//!
//! Drops are shown by reason; a few `not_routable` are the kernel's own router solicitations.
//!
//! It runs until Ctrl-C, or for `--seconds N`. The exit code is 0 only if every connection of
//! every app was answered by the region its rule named when it was opened, and 1 otherwise, with
//! the reasons; 2 is a wrong command line. Nothing is left behind.
#![forbid(unsafe_code)]

mod app;
mod book;
mod circuit;
mod clock;
mod device;
mod error;
mod fleet;
mod provider;
mod pump;
mod real;
mod report;
mod show;
mod simulate;
mod site;
mod space;
mod stage;
mod tally;
mod view;

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use error::{Doing, StepError};
use stage::Stage;

/// The site (TEST-NET-3, RFC 5737): the same address in every region.
pub(crate) const SITE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// The same over IPv6 (documentation prefix, RFC 3849).
pub(crate) const SITE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// Three VPN providers, three apps, one interface, all at the same time.
#[derive(Debug, Parser)]
struct Arguments {
    /// Ends after so many seconds [default: runs until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// Plays apps and providers in memory, even where the real thing would work
    #[arg(long)]
    simulate: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// One of the three apps; quickstart starts them itself
    #[command(hide = true)]
    App {
        #[arg(required = true)]
        sites: Vec<SocketAddr>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::App { sites }) = &arguments.role {
        return app::run(sites);
    }
    let result = run(&arguments);
    match result {
        Ok(outcome) => end(&outcome),
        Err(error) => {
            let _ = writeln!(io::stderr(), "quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<show::Outcome, StepError> {
    // First of all, while this is the only thread.
    let spaces = if arguments.simulate {
        Err("--simulate was given".to_owned())
    } else {
        space::enter().map_err(|error| error.to_string())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("start the runtime")?;
    runtime.block_on(async {
        let ends = show::Ends::new().doing("handle signals")?;
        let stage = set(spaces).await?;
        show::run(stage, arguments.seconds.map(Duration::from_secs), ends).await
    })
}

/// The real world if the system allows it, else the simulated one.
async fn set(spaces: Result<&str, String>) -> Result<Stage, StepError> {
    let why = match spaces {
        Ok(spaces) => match real::start(spaces).await {
            Ok(stage) => return Ok(stage),
            Err(error) => error.to_string(),
        },
        Err(why) => why,
    };
    simulate::start(&why).await
}

fn end(outcome: &show::Outcome) -> ExitCode {
    let (connections, moves) = (outcome.connections, outcome.moves);
    let mut out = io::stdout();
    let mut say = |text: String| {
        // Nobody may be reading; the exit code still tells.
        let _ = writeln!(out, "{text}");
    };
    if outcome.problems.is_empty() {
        say(format!(
            "OK: {connections} connections, each answered by the region its rule named; \
             rules changed meanwhile: {moves}"
        ));
        return ExitCode::SUCCESS;
    }
    say(format!(
        "FAILED after {connections} connections, rules changed meanwhile: {moves}"
    ));
    for problem in &outcome.problems {
        say(format!("  {problem}"));
    }
    ExitCode::FAILURE
}
