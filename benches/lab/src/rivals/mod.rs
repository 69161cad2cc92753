//! VPN programs of others, as far as they are installed: which there are, and how a pair of each is
//! started with the settings its documentation recommends for speed.

mod nebula;
mod openvpn;
mod tinc;
mod wireguard;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vpn_lab::{LabError, Namespace, Process};

use crate::Error;
use crate::contender::{Running, bound_to_us};
use crate::ground::{APP, FAR};

/// How long a program may take to make its device.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a program that makes keys may take.
const MAKE_LIMIT: Duration = Duration::from_secs(30);

/// A program of others.
#[derive(Clone, Debug)]
pub(crate) struct Rival {
    pub(crate) name: String,
    pub(crate) label: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// Anything that is started as `COMMAND -f INTERFACE` and configured by `wg`.
    WireGuard(String),
    OpenVpn,
    Tinc,
    Nebula,
}

/// The ones known here: name, label, programs each needs, and how it is started.
fn known() -> Vec<(Rival, &'static [&'static str])> {
    let of = |name: &str, label: &str, what| Rival {
        name: name.to_owned(),
        label: label.to_owned(),
        what,
    };
    let wireguard = |command: &str| What::WireGuard(command.to_owned());
    vec![
        (
            of("wireguard-go", "wireguard-go", wireguard("wireguard-go")),
            &["wireguard-go", "wg"],
        ),
        (
            of(
                "wireguard-go-new",
                "wireguard-go, with offloads",
                wireguard("wireguard-go-new"),
            ),
            &["wireguard-go-new", "wg"],
        ),
        (
            of(
                "gotatun",
                "gotatun-cli",
                wireguard("env WG_SUDO=1 gotatun --disable-drop-privileges"),
            ),
            &["gotatun", "wg"],
        ),
        (
            of(
                "boringtun",
                "boringtun-cli",
                wireguard("env WG_SUDO=1 boringtun-cli --disable-drop-privileges"),
            ),
            &["boringtun-cli", "wg"],
        ),
        (
            of("openvpn", "OpenVPN, AES-256-GCM", What::OpenVpn),
            &["openvpn", "openssl"],
        ),
        (of("tinc", "tinc", What::Tinc), &["tincd"]),
        (
            of("nebula", "nebula", What::Nebula),
            &["nebula", "nebula-cert"],
        ),
    ]
}

/// Those that are installed, and the names of those that are not.
pub(crate) fn found() -> (Vec<Rival>, Vec<String>) {
    let (mut here, mut missing) = (Vec::new(), Vec::new());
    for (rival, programs) in known() {
        match programs.iter().all(|program| installed(program)) {
            true => here.push(rival),
            false => missing.push(rival.name),
        }
    }
    (here, missing)
}

/// A WireGuard daemon by its command, as `NAME=COMMAND`.
pub(crate) fn by_command(word: &str) -> Result<Rival, String> {
    let (name, command) = word.split_once('=').ok_or("wants NAME=COMMAND")?;
    Ok(Rival {
        name: name.to_owned(),
        label: name.to_owned(),
        what: What::WireGuard(command.to_owned()),
    })
}

fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|folder| Path::new(folder).join(program).is_file())
}

/// Starts a pair in the two machines.
pub(crate) fn start(rival: &Rival, running: Running) -> Result<Running, Error> {
    let running = match &rival.what {
        What::WireGuard(command) => wireguard::start(command, running),
        What::OpenVpn => openvpn::start(running),
        What::Tinc => tinc::start(running),
        What::Nebula => nebula::start(running),
    }?;
    // Some give their device its address a while after they have made it.
    let ends = [(&running.ground.app, APP), (&running.ground.far, FAR)];
    let end = Instant::now() + START_LIMIT;
    for (machine, address) in ends {
        while let Err(error) = machine.run(|| UdpSocket::bind((address, 0)))? {
            if Instant::now() > end {
                return Err(format!("it has no address: {error}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(running)
}

/// A file for its owner only: most of them hold keys.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

/// Starts a daemon whose words go to a log.
fn daemon(namespace: &Namespace, words: &[&str], log: &Path) -> Result<Process, Error> {
    let (program, arguments) = words.split_first().ok_or("an empty command")?;
    let out = File::create(log)?;
    let mut command = bound_to_us(program);
    command
        .args(arguments)
        // Newer wireguard-go prints a warning and leaves where the kernel has WireGuard itself.
        .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    Ok(namespace.spawn(command)?)
}

/// Waits for a device, which a program makes when it is ready for its address.
fn wait_for_device(
    namespace: &Namespace,
    device: &str,
    process: &mut Process,
    log: &Path,
) -> Result<(), Error> {
    let end = Instant::now() + START_LIMIT;
    let listed = format!("{device}:");
    let devices = || fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let there = |list: String| {
        list.lines()
            .any(|line| line.trim_start().starts_with(&listed))
    };
    while !there(namespace.run(devices)?) {
        if !process.is_running() || Instant::now() > end {
            let said = fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            return Err(format!("it made no device: {}", last.join(" | ")).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs a program that makes keys and the like.
fn make(namespace: &Namespace, words: &[&str]) -> Result<String, Error> {
    let (program, arguments) = words.split_first().ok_or("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let output = namespace.output(command, MAKE_LIMIT)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(LabError::Failed {
            command: words.join(" "),
            label: namespace.label().to_owned(),
            message: output.stderr.trim().to_owned(),
        }
        .into()),
    }
}
