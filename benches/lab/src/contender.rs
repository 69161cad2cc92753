//! Who takes part, and how each is started: a way from the application to the far end.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use vpn_lab::{KeyPair, Namespace, Process};

use crate::Error;
use crate::carry;
use crate::ground::{CABLE_APP, CABLE_FAR, FAR, Ground};
use crate::rivals::{self, Rival};

/// Where both ends of a WireGuard tunnel listen.
pub(crate) const PORT: u16 = 51_820;

/// One way from end to end.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// What it is called on the command line and in JSON.
    pub(crate) name: String,
    /// What it is, for tables.
    pub(crate) label: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Cable,
    Kernel,
    /// A process of ours with a device in each namespace.
    Joined {
        words: String,
    },
    /// Two of ours over the cable.
    WireGuard,
    Rival(Rival),
}

impl Contender {
    /// Those of ours, and what they are compared with, in the order of tables.
    pub(crate) fn own() -> Vec<Self> {
        let of = |name: &str, label: &str, kind| Self {
            name: name.to_owned(),
            label: label.to_owned(),
            kind,
        };
        let joined = |words: &str| Kind::Joined {
            words: words.to_owned(),
        };
        vec![
            of("veth", "plain veth", Kind::Cable),
            of("kernel", "kernel forwarding, nftables SNAT", Kind::Kernel),
            of("null", "null forwarder", joined("null batch=8")),
            of("tun-rs", "tun-rs, split and merge", joined("tun-rs")),
            of("engine", "TUN, router, NAT, TUN: ours", joined("engine")),
            of(
                "null-packets",
                "null forwarder, packet by packet",
                joined("null offload=off batch=64"),
            ),
            of(
                "engine-packets",
                "ours, packet by packet",
                joined("engine offload=off"),
            ),
            of("wireguard", "WireGuard: ours", Kind::WireGuard),
        ]
    }

    pub(crate) fn rival(rival: Rival) -> Self {
        Self {
            name: rival.name.clone(),
            label: rival.label.clone(),
            kind: Kind::Rival(rival),
        }
    }

    /// Ours with so many tunnels.
    pub(crate) fn engine_with(tunnels: u8) -> Self {
        Self {
            name: format!("tunnels-{tunnels}"),
            label: format!("ours, {tunnels} tunnels"),
            kind: Kind::Joined {
                words: format!("engine tunnels={tunnels}"),
            },
        }
    }

    /// Whether it is written here, as against a program of others.
    pub(crate) fn is_ours(&self) -> bool {
        self.label.contains("ours")
    }

    /// Starts it between two fresh machines. `cut`: the cable hands on packets, not super-packets.
    pub(crate) fn start(&self, cut: bool) -> Result<Running, Error> {
        let mut running = match &self.kind {
            Kind::Cable => Running::bare(Ground::cable(cut)?)?,
            Kind::Kernel => Running::bare(Ground::routed(cut)?)?,
            Kind::Joined { words } => {
                let mut running = Running::bare(Ground::apart()?)?;
                let Ground { app, far, .. } = &running.ground;
                let far = format!("/proc/{}/task/{}/ns/net", std::process::id(), far.tid());
                let process = carrier(app, &format!("{words} far={far}"))?;
                running.processes.push(process);
                running
                    .ground
                    .set_up_devices(carry::DEVICE, carry::DEVICE)?;
                running
            }
            Kind::WireGuard => wireguard_pair(cut)?,
            Kind::Rival(rival) => {
                let running = Running::bare(Ground::cable(cut)?)?;
                rivals::start(rival, running)?
            }
        };
        if !matches!(self.kind, Kind::Cable | Kind::Kernel) {
            running.target = FAR;
        }
        Ok(running)
    }
}

/// A way that is open. Processes end before their machines, and files go last.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) processes: Vec<Process>,
    pub(crate) ground: Ground,
    /// Where traffic goes.
    pub(crate) target: Ipv4Addr,
    /// How long it takes to be at its best once it is open.
    pub(crate) settling: Duration,
    pub(crate) folder: TempDir,
}

impl Running {
    fn bare(ground: Ground) -> Result<Self, Error> {
        Ok(Self {
            processes: Vec::new(),
            target: ground.direct,
            ground,
            settling: Duration::ZERO,
            folder: TempDir::with_prefix("bench-lab-")?,
        })
    }

    /// The processes that carry packets.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::id).collect()
    }
}

/// Starts this program as a carrier, and waits until its devices are there.
fn carrier(namespace: &Namespace, words: &str) -> Result<Process, Error> {
    let program = std::env::current_exe()?;
    let mut command = bound_to_us(&program.to_string_lossy());
    command
        .arg("carry")
        .args(words.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = namespace.spawn(command)?;
    let mut line = String::new();
    if let Some(out) = process.child().stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    match line.trim() {
        "ready" => Ok(process),
        _ => Err(format!("`carry {words}` did not start; its message is above").into()),
    }
}

/// A command whose process the kernel kills when who started it is gone.
pub(crate) fn bound_to_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// Two of ours, each in its machine.
fn wireguard_pair(cut: bool) -> Result<Running, Error> {
    let mut running = Running::bare(Ground::cable(cut)?)?;
    let keys = [KeyPair::generate()?, KeyPair::generate()?];
    let ends = [
        ("app", &keys[0], &keys[1], "10.77.0.1", CABLE_FAR),
        ("far", &keys[1], &keys[0], "10.77.0.2", CABLE_APP),
    ];
    for (name, own, other, address, peer) in ends {
        let path = running.folder.path().join(name);
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = {address}/32\nListenPort = {PORT}\nMTU = {}\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\nEndpoint = {peer}:{PORT}\n",
            own.private_base64(),
            crate::ground::MTU,
            other.public_base64(),
        );
        rivals::write_private(&path, &text)?;
        let machine = match name {
            "app" => &running.ground.app,
            _ => &running.ground.far,
        };
        let words = format!("wireguard profile={}", path.display());
        running.processes.push(carrier(machine, &words)?);
    }
    running
        .ground
        .set_up_devices(carry::DEVICE, carry::DEVICE)?;
    Ok(running)
}
