//! `mesh`: a virtual network of machines that find each other through a hub.
//!
//! They connect directly through NATs where they can, and through the hub's relay where they
//! cannot, over TCP with TLS where UDP is blocked. The hub can read nothing of what it relays.
//!
//! ```sh
//! mesh init lan --hub hub.example.org:51820 --members laptop,server
//! mesh hub --config lan/hub/hub.toml            # on the hub: copy its folder there
//! mesh join --config lan/laptop/mesh.toml       # on each member
//! mesh status --control /run/mesh.sock
//! mesh ping server --control /run/mesh.sock
//! ```

mod config;
mod daemon;
mod hub;
mod init;
mod join;
mod keys;
mod metrics;
mod network;
mod ping;
mod top;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use vpn_examples::error::{self, Error};
use vpn_examples::program;

/// A virtual network of machines that find each other through a hub.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key. Prints the public one; the secret one goes to a file (0600), or to standard
    /// output if none is named.
    Keygen {
        /// File of the secret key; one that is there is left alone.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Print the public key of a secret one.
    Pubkey {
        /// File of the secret key; standard input if none is named.
        #[arg(long)]
        key: Option<PathBuf>,
    },
    /// Make a folder with the configurations and keys of a hub and its members, ready to copy.
    Init(init::Init),
    /// Run a hub.
    Hub {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Run a member. Prints `ready` once a hub took it, or was tried.
    Join {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Hubs and peers of a running member, or the members of a running hub.
    Status {
        /// Control socket.
        #[arg(long)]
        control: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// A running member, seen live.
    Top {
        /// Control socket.
        #[arg(long)]
        control: PathBuf,
    },
    /// Ask a peer whether it is there, and say by which way it is reached.
    Ping(ping::Ping),
}

fn main() -> ExitCode {
    program::log("info");
    let command = Cli::parse().command;
    let runtime = &mut Builder::new_current_thread();
    program::run("mesh", runtime, dispatch(command))
}

async fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Keygen { out } => keys::keygen(out.as_deref()),
        Command::Pubkey { key } => keys::pubkey(key.as_deref()),
        Command::Init(init) => init::run(&init),
        Command::Hub { config } => hub::run(&config).await,
        Command::Join { config } => join::run(&config).await,
        Command::Status { control, json } => {
            let asked = vpn_examples::control::ask(&control, &daemon::Request::Status).await;
            view::status(&asked.map_err(Error::control(&control))?, json)
        }
        Command::Top { control } => top::run(&control).await,
        Command::Ping(ping) => ping::run(&ping).await,
    }
}
