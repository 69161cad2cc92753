//! Machines at a switch, and the programs on them.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use vpn_lab::{Namespace, Process, veth};

/// How long any command may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// How long a daemon may take to say `ready`: more than it does on a busy machine.
pub(crate) const READY: Duration = Duration::from_secs(20);

/// How long a daemon may take to end.
const ENDS: Duration = Duration::from_secs(10);

fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let deps = test.parent().expect("deps");
    let path = deps.with_file_name("examples").join("libp2p-node");
    assert!(path.exists(), "cargo build --examples first");
    path
}

pub(crate) fn run(arguments: &[&str]) -> String {
    let output = Command::new(program()).args(arguments).output();
    let output = output.expect("the program");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Repeats it until it says yes: how long that took.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let from = Instant::now();
    while !is_so() {
        assert!(from.elapsed() < 2 * LIMIT, "{what} did not happen");
        thread::sleep(Duration::from_millis(100));
    }
    from.elapsed()
}

/// Keys and configurations of a network: number 0 is the bootstrap node.
pub(crate) struct Network {
    folder: TempDir,
    keys: Vec<(String, String)>,
    bootstrap: String,
}

/// A node that runs; it is ended when dropped.
pub(crate) struct Node {
    pub(crate) process: Process,
    log: PathBuf,
    number: usize,
}

impl Network {
    pub(crate) fn new(members: usize, bootstrap: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let keys = (0..members).map(|number| {
            let file = folder.path().join(format!("{number}.key"));
            let said = run(&["keygen", "--out", &file.display().to_string()]);
            let mut lines = said.lines().map(str::to_owned);
            let next = &mut lines;
            (next.next().expect("a key"), next.next().expect("a name"))
        });
        let keys: Vec<_> = keys.collect();
        let bootstrap = format!("/ip4/{bootstrap}/udp/4001/quic-v1/p2p/{}", keys[0].1);
        Self {
            folder,
            keys,
            bootstrap,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `vpn` is what the table `vpn` says; nothing: the address of this number.
    fn configure(&self, number: usize, node: &str, vpn: &str) -> PathBuf {
        let mut text = format!(
            "[node]\nname = \"n{number}\"\nkey = \"{number}.key\"\ncontrol = \"{number}.sock\"\nknown_peers = \"{number}.known\"\n{node}\n"
        );
        if number > 0 && !node.contains("etcd") {
            let _ = writeln!(text, "bootstrap = [\"{}\"]", self.bootstrap);
        }
        let of_number = format!(
            "virtual_ip = \"{}\"\nsubnet = \"10.9.0.0/16\"",
            inner(number)
        );
        let vpn = if vpn.is_empty() { &of_number } else { vpn };
        let _ = writeln!(text, "[vpn]\n{vpn}\nunallowed_ports = [22]");
        for (number, (key, _)) in self.keys.iter().enumerate() {
            let _ = writeln!(text, "[[members]]\nkey = \"{key}\"");
            if vpn == of_number {
                let _ = writeln!(text, "addresses = [\"{}\"]", inner(number));
            }
        }
        let file = self.path(&format!("{number}.toml"));
        fs::write(&file, text).expect("a file");
        file
    }

    /// The program of this number, not yet started.
    pub(crate) fn command(&self, number: usize, node: &str, vpn: &str) -> Command {
        let config = self.configure(number, node, vpn);
        let mut command = Command::new(program());
        command.args(["run", "--config"]).arg(config);
        command
    }

    pub(crate) fn start(&self, namespace: &Namespace, number: usize, node: &str) -> Node {
        self.start_with(namespace, number, node, "")
    }

    pub(crate) fn start_with(
        &self,
        namespace: &Namespace,
        number: usize,
        node: &str,
        vpn: &str,
    ) -> Node {
        let mut command = self.command(number, node, vpn);
        let log = self.path(&format!("{number}.log"));
        let errors = fs::File::create(&log).expect("a log");
        command.stdout(Stdio::piped()).stderr(errors);
        let mut process = namespace.spawn(command).expect("the daemon");
        let stdout = process.child().stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = lines.recv_timeout(READY);
        let this = Node {
            process,
            log,
            number,
        };
        assert_eq!(line.as_deref(), Ok("ready"), "{}", this.said());
        this
    }

    pub(crate) fn status(&self, number: usize) -> Value {
        let socket = self.path(&format!("{number}.sock")).display().to_string();
        let said = run(&["status", "--json", "--control", &socket]);
        serde_json::from_str(&said).expect("JSON")
    }

    /// What `number` says of its way to `other`.
    pub(crate) fn path_to(&self, number: usize, other: usize) -> String {
        let status = self.status(number);
        let peers = status["peers"].as_array().expect("peers");
        let peer = peers.iter().find(|peer| peer["key"] == *self.keys[other].0);
        peer.map_or("none", |peer| peer["path"].as_str().unwrap_or("none"))
            .to_owned()
    }
}

impl Node {
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn ends(mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(ENDS).expect("an end in time");
        assert!(status.success(), "{}: {}", self.number, self.said());
    }
}

pub(crate) fn inner(number: usize) -> String {
    format!("10.9.0.{}", number + 1)
}

pub(crate) fn outer(number: usize) -> String {
    format!("192.0.2.{}", number + 1)
}

/// Six machines at one switch.
pub(crate) fn machines() -> (Namespace, Vec<Namespace>) {
    let switch = Namespace::new("switch").expect("a namespace");
    switch.ip("link add br0 type bridge").expect("a bridge");
    switch.ip("link set br0 up").expect("a bridge");
    let all = (0..6).map(|number| {
        let machine = Namespace::new(&format!("n{number}")).expect("a namespace");
        let port = format!("p{number}");
        veth(&machine, "eth0", &switch, &port).expect("a cable");
        switch
            .ip(&format!("link set {port} master br0"))
            .expect("a port");
        switch.ip(&format!("link set {port} up")).expect("a port");
        let address = format!("address add {}/24 dev eth0", outer(number));
        machine.ip(&address).expect("an address");
        machine.ip("link set eth0 up").expect("a link");
        machine
    });
    let all = all.collect();
    (switch, all)
}
