//! `bench-lab`: what it costs to carry traffic from one network namespace to another, through the
//! SDK, through what it cannot beat, and through the VPN programs that are installed.
//!
//! Everybody is measured in turns, with the same ends and the same traffic; see the README beside
//! it. Needs root, or a system that allows user namespaces.

#[cfg(target_os = "linux")]
mod account;
#[cfg(target_os = "linux")]
mod carry;
#[cfg(target_os = "linux")]
mod chart;
#[cfg(target_os = "linux")]
mod contender;
#[cfg(target_os = "linux")]
mod goals;
#[cfg(target_os = "linux")]
mod ground;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod owners;
#[cfg(target_os = "linux")]
mod relay;
#[cfg(target_os = "linux")]
mod results;
#[cfg(target_os = "linux")]
mod rivals;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod traffic;
#[cfg(target_os = "linux")]
mod tunnels;

#[cfg(target_os = "linux")]
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use clap::Parser as _;
    use std::process::ExitCode;

    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.split_first() {
        Some((first, rest)) if first == "carry" => carry::main(rest).map(|()| true),
        Some((first, rest)) if first == "relay" => relay::main(rest).map(|()| true),
        _ => {
            let run = run::Run::parse();
            // Before any thread is started: the kernel refuses later.
            if !nix::unistd::geteuid().is_root()
                && let Err(error) = vpn_lab::enter_user_namespace()
            {
                eprintln!("without root: {error}");
            }
            if vpn_lab::skip(&["nft", "setpriv", "ethtool"]) {
                return ExitCode::SUCCESS;
            }
            run.run()
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("SKIPPED: bench-lab needs Linux");
}
