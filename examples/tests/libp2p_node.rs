//! The example `libp2p-node` as programs: a network of six machines, one of which dies; and two machines
//! behind NATs. Needs root; says what is missing otherwise.
#![cfg(feature = "libp2p")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use vpn_lab::{HUB4, Namespace, NatKind, NatLab, NatPlan, Process, Side, veth};

/// How long any command may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How long a daemon may take to say `ready`, and to end.
const READY: Duration = Duration::from_secs(10);

fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let deps = test.parent().expect("deps");
    let path = deps.with_file_name("examples").join("libp2p-node");
    assert!(path.exists(), "cargo build --examples first");
    path
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new(program()).args(arguments).output();
    let output = output.expect("the program");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Repeats it until it says yes: how long that took.
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let from = Instant::now();
    while !is_so() {
        assert!(from.elapsed() < 2 * LIMIT, "{what} did not happen");
        thread::sleep(Duration::from_millis(100));
    }
    from.elapsed()
}

/// Keys and configurations of a network: number 0 is the bootstrap node.
struct Network {
    folder: TempDir,
    keys: Vec<(String, String)>,
    bootstrap: String,
}

/// A node that runs; it is ended when dropped.
struct Node {
    process: Process,
    log: PathBuf,
    number: usize,
}

impl Network {
    fn new(members: usize, bootstrap: &str) -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, number: usize, node: &str) -> PathBuf {
        let mut text = format!(
            "[node]\nname = \"n{number}\"\nkey = \"{number}.key\"\ncontrol = \"{number}.sock\"\nknown_peers = \"{number}.known\"\n{node}\n"
        );
        if number > 0 {
            let _ = writeln!(text, "bootstrap = [\"{}\"]", self.bootstrap);
        }
        let _ = writeln!(
            text,
            "[vpn]\nvirtual_ip = \"{}\"\nsubnet = \"10.9.0.0/16\"\nunallowed_ports = [22]",
            inner(number)
        );
        for (number, (key, _)) in self.keys.iter().enumerate() {
            let address = inner(number);
            let _ = writeln!(
                text,
                "[[members]]\nkey = \"{key}\"\naddresses = [\"{address}\"]"
            );
        }
        let file = self.path(&format!("{number}.toml"));
        fs::write(&file, text).expect("a file");
        file
    }

    fn start(&self, namespace: &Namespace, number: usize, node: &str) -> Node {
        let config = self.configure(number, node);
        let log = self.path(&format!("{number}.log"));
        let mut command = Command::new(program());
        command.args(["run", "--config"]).arg(config);
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

    fn status(&self, number: usize) -> Value {
        let socket = self.path(&format!("{number}.sock")).display().to_string();
        let said = run(&["status", "--json", "--control", &socket]);
        serde_json::from_str(&said).expect("JSON")
    }

    /// What `number` says of its way to `other`.
    fn path_to(&self, number: usize, other: usize) -> String {
        let status = self.status(number);
        let peers = status["peers"].as_array().expect("peers");
        let peer = peers.iter().find(|peer| peer["key"] == *self.keys[other].0);
        peer.map_or("none", |peer| peer["path"].as_str().unwrap_or("none"))
            .to_owned()
    }
}

impl Node {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ends(mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(READY).expect("an end in time");
        assert!(status.success(), "{}: {}", self.number, self.said());
    }
}

fn inner(number: usize) -> String {
    format!("10.9.0.{}", number + 1)
}

fn outer(number: usize) -> String {
    format!("192.0.2.{}", number + 1)
}

/// Whether a ping of one second is answered.
fn pings(namespace: &Namespace, to: usize, wait: u32) -> bool {
    let arguments = format!("-c 1 -W {wait} {}", inner(to));
    namespace.tool("ping", &arguments).is_ok()
}

/// A datagram is sent, and comes back.
fn udp_echo(at: &Namespace, to: &Namespace, number: usize) -> bool {
    let server = to.run(|| UdpSocket::bind("0.0.0.0:7").expect("a socket"));
    let server = server.expect("inside");
    let _ = server.set_read_timeout(Some(Duration::from_secs(5)));
    let echo = thread::spawn(move || {
        let mut datagram = [0; 1500];
        if let Ok((bytes, from)) = server.recv_from(&mut datagram) {
            let _ = server.send_to(&datagram[..bytes], from);
        }
    });
    let answer = at.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = socket.send_to(b"who is there", (inner(number), 7));
        let mut datagram = [0; 1500];
        let got = socket.recv(&mut datagram).unwrap_or(0);
        datagram[..got] == *b"who is there"
    });
    let _ = echo.join();
    answer.expect("inside")
}

/// Megabits per second of a second of TCP.
fn iperf3(at: &Namespace, to: &Namespace, number: usize) -> f64 {
    let mut server = Command::new("iperf3");
    server.args(["-s", "-1"]).stdout(Stdio::null());
    let _server = to.spawn(server).expect("iperf3");
    let mut client = Command::new("iperf3");
    client.args(["-J", "-t", "1", "-c", &inner(number)]);
    let from = Instant::now();
    loop {
        let mut again = Command::new(client.get_program());
        again.args(client.get_args());
        let output = at.output(again, LIMIT).expect("iperf3");
        let said: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        if let Some(bits) = said["end"]["sum_received"]["bits_per_second"].as_f64() {
            return bits / 1e6;
        }
        assert!(from.elapsed() < LIMIT, "iperf3: {}", output.stdout);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Six machines at one switch.
fn machines() -> (Namespace, Vec<Namespace>) {
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

#[test]
fn six_machines_find_each_other_and_go_on_without_the_first() {
    if vpn_lab::skip(&["ip", "ping", "iperf3"]) {
        return;
    }
    let (_switch, machines) = machines();
    let network = Network::new(6, &outer(0));
    let mut nodes: Vec<Option<Node>> = (0..6)
        .map(|number| Some(network.start(&machines[number], number, "")))
        .collect();
    // The first packet to each may meet a record that is still on its way.
    let from = Instant::now();
    for (one, machine) in machines.iter().enumerate() {
        for other in (0..6).filter(|other| *other != one) {
            until(&format!("a ping from {one} to {other}"), || {
                pings(machine, other, 5)
            });
        }
    }
    println!("all pairs answered after {:?}", from.elapsed());
    for (one, other) in [(1, 2), (3, 4), (5, 1)] {
        assert!(
            udp_echo(&machines[one], &machines[other], other),
            "{one} {other}"
        );
        let rate = iperf3(&machines[one], &machines[other], other);
        println!("{one} to {other}: {rate:.0} Mbit/s");
        assert!(rate > 5.0, "{rate}");
    }
    // Nothing gets to a port that is not allowed.
    let refused = machines[1].run(|| {
        let to = format!("{}:22", inner(2)).parse().expect("an address");
        std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1))
    });
    let kind = refused.expect("inside").expect_err("refused").kind();
    assert_eq!(kind, std::io::ErrorKind::TimedOut);

    // The bootstrap node dies, without a word.
    let mut first = nodes[0].take().expect("it runs");
    first.process.signal(Signal::SIGKILL);
    drop(first);
    for (one, machine) in machines.iter().enumerate().skip(1) {
        for other in (1..6).filter(|other| *other != one) {
            assert!(pings(machine, other, 5), "{one} {other} without the first");
        }
    }
    // One ends, and comes back by those it knew.
    nodes[3].take().expect("it runs").ends();
    let known = fs::read_to_string(network.path("3.known")).expect("a file");
    assert!(known.lines().count() >= 2, "{known}");
    let from = Instant::now();
    nodes[3] = Some(network.start(&machines[3], 3, ""));
    for other in [1, 2, 4, 5] {
        until("a ping", || pings(&machines[3], other, 5));
        until("an answer", || pings(&machines[other], 3, 5));
    }
    println!("one came back without the first after {:?}", from.elapsed());
    for node in nodes.into_iter().flatten() {
        node.ends();
    }
}

/// A bootstrap node that relays is in public, and two nodes are behind NATs of these kinds.
fn behind(a: NatKind, b: NatKind) -> Option<(NatLab, Network, [Node; 3])> {
    if vpn_lab::skip(&NatPlan::PROGRAMS) {
        return None;
    }
    let lab = NatLab::start(NatPlan::of(a, b)).expect("a lab");
    let network = Network::new(3, &HUB4.to_string());
    let nodes = [
        network.start(lab.hub(), 0, "relay = true"),
        network.start(lab.host(Side::A), 1, ""),
        network.start(lab.host(Side::B), 2, ""),
    ];
    Some((lab, network, nodes))
}

#[test]
fn behind_nats_a_node_is_reached_through_the_relay_and_then_directly() {
    let Some((lab, network, nodes)) = behind(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let from = Instant::now();
    until("a ping", || pings(lab.host(Side::A), 2, 5));
    println!("through NATs after {:?}", from.elapsed());
    let relayed = |network: &Network| {
        let status = network.status(1);
        status["punched"].as_u64().unwrap_or(0) + network.status(2)["punched"].as_u64().unwrap_or(0)
    };
    until("a hole", || relayed(&network) > 0);
    until("a direct way", || {
        network.path_to(1, 2) == "direct" && network.path_to(2, 1) == "direct"
    });
    println!("direct after {:?}", from.elapsed());
    until("a ping by it", || pings(lab.host(Side::A), 2, 2));
    assert!(pings(lab.host(Side::B), 1, 5));
    drop(nodes);
}

#[test]
fn where_no_hole_can_be_punched_the_relay_stays() {
    let Some((lab, network, nodes)) = behind(NatKind::Symmetric, NatKind::Symmetric) else {
        return;
    };
    until("a ping", || pings(lab.host(Side::A), 2, 5));
    assert_eq!(network.path_to(1, 2), "relay");
    // Beyond what libp2p's own defaults let through: 128 KiB in two minutes.
    let rate = iperf3(lab.host(Side::A), lab.host(Side::B), 2);
    println!("relayed: {rate:.0} Mbit/s");
    assert!(rate > 5.0, "{rate}");
    drop(nodes);
}
