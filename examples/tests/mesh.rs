//! The example `mesh` as programs: bad input, and a mesh behind NATs made by `init`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use vpn_lab::{Namespace, NatKind, NatLab, NatPlan, Process, Side};

#[path = "mesh/behind.rs"]
mod behind;
#[path = "mesh/policy.rs"]
mod policy;

/// How long any command may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How long a daemon may take to say `ready`, and to end.
const READY: Duration = Duration::from_secs(8);

/// The promise for a direct way, from the second join on.
const DIRECT: Duration = Duration::from_secs(3);

/// The hub of all tests.
const HUB: &str = "198.51.100.1:51820";

/// A key that nobody uses.
const KEY: &str = "X/WBOnaj/aOngoMOJ/GaP2PYDHcLhL8ALNqq3C8u2AI=";

fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let deps = test.parent().expect("deps");
    let path = deps.with_file_name("examples").join("mesh");
    assert!(path.exists(), "cargo build --examples first");
    path
}

fn command_of(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it here, where it touches nothing but files.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command_of(arguments).output().expect("the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), out, errors)
}

/// It says all of this, in one line, with exit code 2.
fn refuses(arguments: &[&str], parts: &[&str]) {
    let (code, _, errors) = run(arguments);
    assert_eq!(code, Some(2), "{arguments:?}: {errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    for part in parts {
        assert!(errors.contains(part), "{part} in {errors}");
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn keys_are_made_once_and_shown_by_their_public_part() {
    let folder = TempDir::new().expect("a folder");
    let file = text(&folder.path().join("a.key"));
    let (code, public, _) = run(&["keygen", "--out", &file]);
    assert_eq!(code, Some(0));
    let mode = fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let secret = fs::read_to_string(&file).expect("a key");
    assert_ne!(secret.trim(), public.trim());
    assert_eq!(run(&["pubkey", "--key", &file]).1, public);
    let piped = command_of(&["pubkey"])
        .stdin(fs::File::open(&file).expect("a key"))
        .output()
        .expect("the program");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), public);
    refuses(&["keygen", "--out", &file], &["a.key"]);
    assert_eq!(fs::read_to_string(&file).expect("a key"), secret);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    refuses(&["pubkey", "--key", &file], &["a.key", "chmod 600"]);
    refuses(&["pubkey"], &["not a key"]);
}

#[test]
fn files_that_make_no_sense_are_named_with_line_and_key() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("bad.toml");
    let key = folder.path().join("a.key");
    run(&["keygen", "--out", &text(&key)]);
    let hubs = format!("[[hubs]]\nkey = \"{KEY}\"\nendpoint = \"{HUB}\"\n");
    let good = "key = \"a.key\"\naddresses = [\"10.77.0.2/24\"]\n";
    let bad = |command: &str, body: &str, parts: &[&str]| {
        fs::write(&file, body).expect("a file");
        refuses(&[command, "--config", &text(&file)], parts);
    };
    refuses(
        &["join", "--config", "none.toml"],
        &["none.toml", "No such file"],
    );
    bad("join", "name = \n", &["bad.toml:1:"]);
    bad(
        "join",
        &format!("{good}colour = 1\n{hubs}"),
        &["toml:3:", "colour"],
    );
    bad(
        "join",
        &format!("key = \"a.key\"\naddresses = [\"10.77.0.300/24\"]\n{hubs}"),
        &["toml:2:", "addresses"],
    );
    bad("join", &format!("addresses = []\n{hubs}"), &["key"]);
    bad("join", good, &["bad.toml: hubs", "none"]);
    for (line, parts) in [
        ("mtu = 9000", ["mtu", "1400"]),
        ("policy = \"maybe\"", ["toml:3:", "policy"]),
        ("inbound = [\"tcp:x\"]", ["toml:3:", "inbound"]),
        ("name = \"a b\"", ["name", "letters"]),
        ("interface = \"a/b\"", ["interface", "a/b"]),
        ("listen = 70000", ["toml:3:", "listen"]),
        ("routes = [\"x\"]", ["toml:3:", "routes"]),
        ("token_file = \"none\"", ["token_file", "none"]),
        ("routes = [\"10.77.0.0/25\"]", ["routes", "10.77.0.0/25"]),
        ("candidates = [\"203.0.113.5:1\"]", ["candidates", "listen"]),
        (
            "listen = 7\ncandidates = [\"10.77.0.9:7\"]",
            ["candidates", "inside"],
        ),
        (
            "inbound = [{ proto = \"tcp\", peer = \"x\" }]",
            ["inbound", "\"x\""],
        ),
        ("forward = [\"tcp:x\"]", ["toml:3:", "forward"]),
        ("key2 = 1", ["toml:3:", "key2"]),
    ] {
        bad("join", &format!("{good}{line}\n{hubs}"), &parts);
    }
    bad(
        "join",
        &format!("{good}{hubs}{hubs}"),
        &["hubs", "two have the key"],
    );
    bad(
        "join",
        &format!("{good}[[hubs]]\nkey = \"x\"\nendpoint = \"{HUB}\"\n"),
        &["toml:4:", "key"],
    );
    bad(
        "join",
        &format!("{good}[[hubs]]\nkey = \"{KEY}\"\nendpoint = \"nowhere\"\n"),
        &["toml:5:", "endpoint", "HOST:PORT"],
    );
    bad(
        "join",
        &format!("{good}{hubs}[[peers]]\nkey = \"{KEY}\"\npolicy = 1\n"),
        &["toml:8:", "policy"],
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("a mode");
    bad(
        "join",
        &format!("{good}{hubs}"),
        &["bad.toml: key", "a.key", "chmod 600"],
    );
    bad("hub", "key = \"a.key\"\n", &["bad.toml: key", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    for (line, parts) in [
        ("listen = [\"here\"]", ["toml:2:", "listen"]),
        ("metrics = \"0.0.0.0:9100\"", ["metrics", "loopback"]),
        ("listen = []", ["listen", "no address"]),
        (
            "listen = [\"0.0.0.0:1\", \"127.0.0.1:2\"]",
            ["listen", "one of each family"],
        ),
        (
            "[member]\naddresses = [\"10.77.0.1/24\"]\ninbound = [{ proto = \"udp\", peer = \"x\" }]",
            ["member.inbound", "\"x\""],
        ),
        ("tls = 1", ["toml:2:", "tls"]),
        ("max_members = -1", ["toml:2:", "max_members"]),
        ("isolation = \"x\"", ["toml:2:", "isolation"]),
        ("[member]\naddresses = []", ["member.addresses", "none"]),
        ("[[members]]\nkey = \"x\"", ["toml:3:", "key"]),
    ] {
        bad("hub", &format!("key = \"a.key\"\n{line}\n"), &parts);
    }
    let listed = format!("[[members]]\nkey = \"{KEY}\"\n");
    bad(
        "hub",
        &format!("key = \"a.key\"\n{listed}"),
        &["members.addresses", "networks"],
    );
    let socket = text(&folder.path().join("none.sock"));
    refuses(&["status", "--control", &socket], &["none.sock"]);
    refuses(&["ping", "b", "--control", &socket], &["none.sock"]);
    refuses(&["top", "--control", &socket], &["no terminal"]);
}

#[test]
fn init_makes_what_hub_and_members_need_and_overwrites_nothing() {
    let folder = TempDir::new().expect("a folder");
    let made = folder.path().join("lan");
    let (code, said, errors) = run(&["init", &text(&made), "--hub", HUB, "--members", "2"]);
    assert_eq!(code, Some(0), "{errors}");
    for part in ["mesh hub --config", "mesh join --config", "10.77.0.3"] {
        assert!(said.contains(part), "{said}");
    }
    for file in ["hub/hub.key", "m1/m1.key", "m2/m2.key"] {
        let mode = fs::metadata(made.join(file)).expect(file).permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file}");
    }
    let hub = fs::read_to_string(made.join("hub/hub.toml")).expect("a file");
    let member = fs::read_to_string(made.join("m1/mesh.toml")).expect("a file");
    for name in ["m1", "m2"] {
        let key = text(&made.join(name).join(format!("{name}.key")));
        assert!(
            hub.contains(run(&["pubkey", "--key", &key]).1.trim()),
            "{hub}"
        );
    }
    let hub_key = run(&["pubkey", "--key", &text(&made.join("hub/hub.key"))]).1;
    assert!(
        member.contains(hub_key.trim()) && member.contains(HUB),
        "{member}"
    );
    refuses(
        &["init", &text(&made), "--hub", HUB, "--members", "a"],
        &["not empty"],
    );
    let other = text(&folder.path().join("other"));
    for (members, network, part) in [
        ("a,a", "10.0.0.0/24", "twice"),
        ("hub", "10.0.0.0/24", "hub"),
        ("../x", "10.0.0.0/24", "no name"),
        ("", "10.0.0.0/24", "no name"),
        ("0", "10.0.0.0/24", "1 to"),
        ("99999", "10.0.0.0/8", "more than"),
        ("a,b,c", "10.0.0.0/30", "not enough"),
    ] {
        let arguments = [
            "init",
            &other,
            "--hub",
            HUB,
            "--members",
            members,
            "--network",
            network,
        ];
        refuses(&arguments, &[part]);
        assert!(!Path::new(&other).exists(), "{members}");
    }
}

/// A daemon that runs; it is ended when dropped.
struct Daemon {
    process: Process,
    log: PathBuf,
}

impl Daemon {
    fn start(namespace: &Namespace, arguments: &[&str], log: PathBuf) -> Self {
        Self::run(namespace, command_of(arguments), log)
    }

    fn run(namespace: &Namespace, mut command: Command, log: PathBuf) -> Self {
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
        let this = Self { process, log };
        assert_eq!(line.as_deref(), Ok("ready"), "{}", this.said());
        this
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ends(mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(READY).expect("an end in time");
        assert!(status.success(), "{}", self.said());
    }
}

/// A folder that `init` made, with sockets in it.
struct Mesh {
    folder: TempDir,
}

impl Mesh {
    fn new(members: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let at = text(&folder.path().join("m"));
        let (code, _, errors) = run(&["init", &at, "--hub", HUB, "--members", members]);
        assert_eq!(code, Some(0), "{errors}");
        let this = Self { folder };
        this.edit("hub/hub.toml", "mesh-hub.sock", &this.socket("hub"));
        for name in members.split(',') {
            let file = format!("{name}/mesh.toml");
            this.edit(&file, "/run/mesh.sock", &this.socket(name));
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("m").join(name)
    }

    fn socket(&self, name: &str) -> String {
        text(&self.path(name).join("s"))
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let before = fs::read_to_string(&path).expect("a file");
        assert!(before.contains(from), "{before}");
        fs::write(&path, before.replace(from, to)).expect("a file");
    }

    fn append(&self, file: &str, more: &str) {
        let path = self.path(file);
        let before = fs::read_to_string(&path).expect("a file");
        fs::write(&path, before + more).expect("a file");
    }

    fn hub(&self, namespace: &Namespace) -> Daemon {
        let config = text(&self.path("hub/hub.toml"));
        let log = self.path("hub.log");
        Daemon::start(namespace, &["hub", "--config", &config], log)
    }

    fn join(&self, namespace: &Namespace, name: &str) -> Daemon {
        let config = text(&self.path(&format!("{name}/mesh.toml")));
        let log = self.path(&format!("{name}.log"));
        Daemon::start(namespace, &["join", "--config", &config], log)
    }

    fn status(&self, name: &str) -> Value {
        let (code, out, errors) = run(&["status", "--json", "--control", &self.socket(name)]);
        assert_eq!(code, Some(0), "{errors}");
        serde_json::from_str(&out).expect("JSON")
    }

    /// What `name` says of the path to `peer`.
    fn path_of(&self, name: &str, peer: &str) -> Value {
        let status = self.status(name);
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let found = peers.into_iter().find(|it| it["name"] == peer);
        found.unwrap_or(Value::Null)
    }

    fn until_path(&self, name: &str, peer: &str, path: &str, limit: Duration) -> Value {
        let begun = Instant::now();
        loop {
            let is = self.path_of(name, peer);
            if is["path"] == path {
                return is;
            }
            assert!(begun.elapsed() < limit, "{peer} is not {path}: {is:#}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn pings(namespace: &Namespace, to: &str, count: u32) -> String {
    let mut command = Command::new("ping");
    let count = count.to_string();
    command.args(["-c", &count, "-i", "0.2", "-W", "3", to]);
    let output = namespace.output(command, LIMIT).expect("ping");
    let received = output.stdout.lines().find(|line| line.contains("received"));
    received.unwrap_or("nothing").to_owned()
}

fn lab(a: NatKind, b: NatKind) -> Option<NatLab> {
    if vpn_lab::skip(&NatPlan::PROGRAMS) {
        return None;
    }
    Some(NatLab::start(NatPlan::of(a, b)).expect("a lab"))
}

/// L-4: what `init` wrote is all there is; everything else has its default, and works with it.
/// Also: the hub is a member by its own loopback, the report has the promised fields, `ping` finds peers by
/// name, address and key, and nothing is left.
#[test]
fn two_members_behind_nats_made_by_init_are_direct_and_reach_the_hub() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b");
    for line in ["[member]", "addresses = ", "interface = "] {
        mesh.edit("hub/hub.toml", &format!("# {line}"), line);
    }
    let daemons = [mesh.hub(hub), mesh.join(a, "a"), mesh.join(b, "b")];
    assert!(
        pings(a, "10.77.0.3", 1).contains("1 received"),
        "the first packet"
    );
    let peer = mesh.until_path("a", "b", "direct", DIRECT);
    for field in [
        "name",
        "key",
        "addresses",
        "path",
        "endpoint",
        "rtt_ms",
        "loss",
        "since",
        "why",
        "tx_packets",
        "rx_packets",
    ] {
        assert!(!peer[field].is_null(), "{field}: {peer:#}");
    }
    let status = mesh.status("a");
    assert_eq!(status["name"], "a");
    assert_eq!(status["addresses"][0], "10.77.0.2");
    let link = &status["hubs"][0];
    assert_eq!(
        (&link["state"], &link["carrier"]),
        (&"up".into(), &"udp".into())
    );
    assert!(
        link["observed"]
            .as_str()
            .is_some_and(|at| at.starts_with("198.51.100.11:")),
        "{link:#}"
    );
    assert!(
        pings(b, "10.77.0.1", 3).contains("3 received"),
        "the hub's own member"
    );
    assert!(pings(hub, "10.77.0.2", 3).contains("3 received"));
    let known = mesh.status("hub");
    assert_eq!(known["online"], 3, "{known:#}");
    let key = peer["key"].as_str().expect("a key");
    for who in ["b", "10.77.0.3", key] {
        let command = command_of(&["ping", who, "--control", &mesh.socket("a"), "-c", "2"]);
        let output = a.output(command, LIMIT).expect("the program");
        assert!(
            output.stdout.contains("2 of 2 answered"),
            "{who}: {}",
            output.stdout
        );
        assert!(output.stdout.contains("direct"), "{}", output.stdout);
    }
    let command = command_of(&["ping", "nobody", "--control", &mesh.socket("a")]);
    let output = a.output(command, LIMIT).expect("the program");
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    for daemon in daemons {
        daemon.ends();
    }
    for (namespace, name) in [(hub, "hub"), (a, "a"), (b, "b")] {
        assert!(!Path::new(&mesh.socket(name)).exists());
        let links = namespace.tool("ip", "-o link show").expect("ip");
        assert!(!links.contains("mesh0"), "{links}");
    }
}

#[test]
fn without_udp_it_is_the_relay_by_tcp_and_says_so() {
    let Some(lab) = lab(NatKind::Block, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b");
    let _daemons = [mesh.hub(hub), mesh.join(a, "a"), mesh.join(b, "b")];
    let got = pings(a, "10.77.0.3", 3);
    assert!(
        got.contains("3 received"),
        "{got}: {:#} {:#}",
        mesh.status("a"),
        mesh.status("b")
    );
    mesh.until_path("a", "b", "relay-tcp", Duration::from_secs(5));
    let link = mesh.status("a")["hubs"][0].clone();
    assert_eq!(link["carrier"], "tls");
    assert_eq!(link["why"], "UDP is not answered");
}

/// A daemon of provider tunnels with the mesh among them, and its rules.
#[test]
fn the_multi_region_daemon_has_the_mesh_as_a_tunnel() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b");
    let text = "metrics = \"127.0.0.1:9100\"\n\n[mesh]\nconfig = \"mesh.toml\"\n\n[dns]\napply = \"none\"\n\n\
                [[inbound]]\ntunnel = \"mesh\"\nproto = \"icmp\"\n\n\
                [[rule]]\ndst = \"10.77.0.9/32\"\nto = \"block\"\n";
    let config = mesh.path("a/multi-region.toml");
    fs::write(&config, text).expect("a file");
    of_b_called(&mesh, "bee");
    a.ip("link set lo up").expect("loopback");
    let mut command = Command::new(multi_region());
    command.args(["run", "--config"]).arg(&config);
    let daemons = [mesh.hub(hub), mesh.join(b, "b")];
    let daemon = Daemon::run(a, command, mesh.path("multi-region.log"));
    assert!(
        pings(a, "10.77.0.3", 3).contains("3 received"),
        "{}",
        daemon.said()
    );
    assert!(
        pings(b, "10.77.0.2", 3).contains("3 received"),
        "{}",
        daemon.said()
    );
    mesh.until_path("b", "a", "direct", DIRECT);
    assert!(
        pings(a, "198.51.100.30", 1).contains("0 received"),
        "nothing past it"
    );
    multi_region_shows_the_mesh(&mesh, a);
    // Its file changed: the mesh that is made anew is the one that is told of.
    mesh.edit("a/mesh.toml", "\"bee\"", "\"wasp\"");
    asked(&mesh, &["reload"]);
    let end = Instant::now() + READY;
    while !asked(&mesh, &["status"]).contains("\nmesh: up") {
        assert!(Instant::now() < end, "{}", daemon.said());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(pings(a, "10.77.0.3", 3).contains("3 received"));
    let told = asked(&mesh, &["status", "--json"]);
    assert!(
        told.contains("\"wasp\"") && !told.contains("\"bee\""),
        "{told}"
    );
    daemon.ends();
    drop(daemons);
}

fn multi_region() -> PathBuf {
    program().with_file_name("multi-region")
}

/// What that daemon of a answers.
fn asked(mesh: &Mesh, arguments: &[&str]) -> String {
    let mut command = Command::new(multi_region());
    command.args(arguments).arg("--control");
    command.arg(mesh.path("a/multi-region.sock"));
    let output = command.output().expect("the program");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Gives b a name in a's file.
fn of_b_called(mesh: &Mesh, name: &str) {
    let key = run(&["pubkey", "--key", &text(&mesh.path("b/b.key"))]).1;
    let peer = format!("\n[[peers]]\nkey = \"{}\"\nname = \"{name}\"\n", key.trim());
    mesh.append("a/mesh.toml", &peer);
}

/// What `mesh status` and a member's metrics tell is told by the other daemon as well.
fn multi_region_shows_the_mesh(mesh: &Mesh, a: &Namespace) {
    let told: Value = serde_json::from_str(&asked(mesh, &["status", "--json"])).expect("JSON");
    let mesh_of = &told["tunnels"]["mesh"]["mesh"];
    let (hub, peer) = (&mesh_of["hubs"][0], &mesh_of["peers"][0]);
    assert_eq!(
        (&hub["endpoint"], &hub["state"]),
        (&HUB.into(), &"up".into())
    );
    let of_b = mesh.status("b");
    assert_eq!(mesh_of["addresses"][0], "10.77.0.2");
    assert_eq!(mesh_of["key"], of_b["peers"][0]["key"]);
    assert_eq!(peer["key"], of_b["key"]);
    assert_eq!(
        (&peer["name"], &peer["path"]),
        (&"bee".into(), &"direct".into())
    );
    assert_eq!(peer["addresses"][0], "10.77.0.3");
    assert!(peer["rx_packets"].as_u64() > Some(2), "{peer:#}");

    let text = asked(mesh, &["status"]);
    let line = |start: &str| {
        let found = text
            .lines()
            .find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("{start} in {text}"))
    };
    assert!(
        line("hub ").contains(HUB) && line("hub ").contains(" up "),
        "{text}"
    );
    let endpoint = peer["endpoint"].as_str().expect("an endpoint");
    for part in ["bee", "direct", endpoint, " ms "] {
        assert!(line("peer ").contains(part), "{part} in {text}");
    }

    let mut command = Command::new("curl");
    command.args(["-s", "-m", "5", "http://127.0.0.1:9100/metrics"]);
    let output = a.output(command, LIMIT).expect("curl").stdout;
    for line in [
        "vpn_mesh_peers{mesh=\"mesh\",path=\"direct\"} 1",
        "vpn_mesh_hub_up{mesh=\"mesh\",hub=\"0\"} 1",
        "vpn_tunnel_up{tunnel=\"mesh\"} 1",
    ] {
        assert!(output.contains(line), "{line} in {output}");
    }
}

/// What is let in is what the configuration says, and pings.
#[test]
fn only_what_inbound_names_is_let_in() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b");
    mesh.edit("b/mesh.toml", "inbound = []", "inbound = [\"tcp:7\"]");
    let _daemons = [mesh.hub(hub), mesh.join(a, "a"), mesh.join(b, "b")];
    assert!(pings(a, "10.77.0.3", 2).contains("2 received"));
    let open = |port: u16| {
        let listener = b
            .run(move || std::net::TcpListener::bind(("10.77.0.3", port)))
            .expect("a namespace")
            .expect("a port");
        let connected = a
            .run(move || {
                let to = ([10, 77, 0, 3], port).into();
                std::net::TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok()
            })
            .expect("a namespace");
        drop(listener);
        connected
    };
    assert!(open(7), "it is named");
    assert!(!open(8), "it is not");
}

#[test]
fn who_is_not_on_the_list_is_told() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let mesh = Mesh::new("a");
    let path = mesh.path("hub/hub.toml");
    let before = fs::read_to_string(&path).expect("a file");
    let (head, _) = before.split_once("[[members]]").expect("members");
    fs::write(&path, head).expect("a file");
    let _hub = mesh.hub(lab.hub());
    let _a = mesh.join(lab.host(Side::A), "a");
    let link = mesh.status("a")["hubs"][0].clone();
    assert_ne!(link["state"], "up");
    let why = link["why"].as_str().unwrap_or_default();
    assert!(why.contains("does not know this key"), "{link:#}");
}
