//! `libp2p-node`: a virtual network without a hub. Its members find each other through a DHT, or etcd.
//!
//! ```sh
//! libp2p-node keygen --out a.key                # prints the public key, and the name libp2p gives it
//! libp2p-node run --config node.toml
//! libp2p-node status --control libp2p-node.sock [--json]
//! libp2p-node top --control libp2p-node.sock
//! ```

mod config;
mod daemon;
mod directory;
mod keys;
mod names;
mod report;
mod run;
mod top;
mod vpn;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use vpn_examples::error::{self, Error};
use vpn_examples::program;

/// A virtual network without a hub.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key. Prints the public one, and the name that libp2p gives it.
    Keygen {
        /// File of the secret key; one that is there is left alone.
        #[arg(long)]
        out: PathBuf,
    },
    /// Print the public key of a secret one, and the name that libp2p gives it.
    Pubkey {
        /// File of the secret key.
        #[arg(long)]
        key: PathBuf,
    },
    /// Make somebody a member of a network: prints a certificate of the network's key.
    Certify {
        /// File of the network's secret key.
        #[arg(long)]
        network_key: PathBuf,
        /// Public key of the member.
        #[arg(long)]
        member: String,
        /// For how many days.
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// Address the member may claim; several times for several. Without: any.
        #[arg(long)]
        address: Vec<IpAddr>,
    },
    /// Run a node. Prints `ready` once somebody is connected, or was tried.
    Run {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// How a running node stands.
    Status {
        /// Control socket.
        #[arg(long)]
        control: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// A running node, seen live.
    Top {
        /// Control socket.
        #[arg(long)]
        control: PathBuf,
    },
}

fn main() -> ExitCode {
    program::log("warn,vpn_p2p=info");
    let command = Cli::parse().command;
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(2);
    program::run("libp2p-node", &mut runtime, dispatch(command))
}

async fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Keygen { out } => keys::keygen(&out),
        Command::Pubkey { key } => keys::pubkey(&key),
        Command::Certify {
            network_key,
            member,
            days,
            address,
        } => keys::certify(&network_key, &member, days, &address),
        Command::Run { config } => run::run(&config).await,
        Command::Status { control, json } => {
            let said = vpn_examples::control::ask(&control, &daemon::Request::Status).await;
            report::print(&said.map_err(Error::control(&control))?, json)
        }
        Command::Top { control } => top::run(&control).await,
    }
}
