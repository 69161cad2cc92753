//! The daemon as a process: its folder, its start and what it says.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failing test says so")]

pub mod app;
pub mod lab;
pub mod metrics;
pub mod place;
pub mod trace;
pub mod traffic;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use vpn_lab::{LabError, Namespace, Output, Process};

/// How long any command may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The promise of `run`: `ready` within this time.
pub const READY_LIMIT: Duration = Duration::from_secs(10);

/// The example `name`, which `cargo test` builds beside the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let path = test
        .parent()
        .expect("deps")
        .with_file_name("examples")
        .join(name);
    let built = path.exists();
    assert!(
        built,
        "{} is missing: cargo build --examples first",
        path.display()
    );
    path
}

/// By a process of its own: a descriptor open for writing here could be inherited by a process
/// another test starts at that moment, and the copy would be "busy".
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().expect("cp");
    assert!(status.success(), "cp {}", from.display());
}

/// A folder that every user may enter, with the daemon's program and its files.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
}

impl Site {
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("multi-region-").expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let this = Self { folder };
        copy(&example("multi-region"), &this.program());
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn program(&self) -> PathBuf {
        self.path("multi-region")
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        // Providers' files hold keys; a warning would be one more line.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }

    /// A copy of this test program, to be run as an app.
    pub fn app(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let test = std::env::current_exe().expect("a path");
        copy(&test, &path);
        path
    }

    /// What lies in the folder, sorted.
    pub fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    /// `rule add` and the like, for the site's rules file.
    pub fn rule(&self, namespace: &Namespace, arguments: &str) -> Output {
        let mut words = vec!["rule"];
        words.extend(arguments.split_whitespace());
        let mut command = self.command(&words);
        command.args(["--rules", "rules.db"]);
        namespace.output(command, LIMIT).expect("the program")
    }

    /// `rule add`, which must work.
    pub fn add_rule(&self, namespace: &Namespace, rest: &str) {
        let output = self.rule(namespace, &format!("add {rest}"));
        assert!(output.status.success(), "{rest}: {}", output.stderr);
    }

    /// `status --json`.
    pub fn status(&self, namespace: &Namespace) -> Value {
        self.ask(namespace, "status")
    }

    /// `explain`, with what follows `explain` in `rest`.
    pub fn ask(&self, namespace: &Namespace, request: &str) -> Value {
        let mut words: Vec<&str> = request.split_whitespace().collect();
        words.extend(["--control", "multi-region.sock", "--json"]);
        let output = namespace
            .output(self.command(&words), LIMIT)
            .expect("the program");
        assert!(output.status.success(), "{request}: {}", output.stderr);
        serde_json::from_str(&output.stdout).expect("JSON")
    }

    /// One request over the control socket, without a program in between.
    pub fn request(&self, request: &Value) -> Value {
        let mut stream = UnixStream::connect(self.path("multi-region.sock")).expect("the socket");
        writeln!(stream, "{request}").expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        serde_json::from_str(&text).expect("JSON")
    }
}

/// A time that is promised on a machine that does nothing else. This one may: up to three measurements are
/// made, and one in time is enough. What is wrong is late each time.
pub fn in_time(limit: Duration, mut measured: impl FnMut() -> Duration) {
    let mut late = Vec::new();
    while late.len() < 3 {
        let took = measured();
        if took < limit {
            return;
        }
        late.push(took);
    }
    panic!("{limit:?} are promised: {late:?}");
}

/// A running daemon; it is ended when dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    log: PathBuf,
    lines: mpsc::Receiver<String>,
}

impl Daemon {
    /// Starts it; see [`ready`](Self::ready).
    pub fn spawn(site: &Site, namespace: &Namespace) -> Self {
        let command = site.command(&["run", "--config", "multi-region.toml"]);
        Self::spawn_as(site, namespace, command)
    }

    /// Starts it so that it finds programs in its own folder first, and waits for `ready`.
    pub fn start_with_path(site: &Site, namespace: &Namespace) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("env");
        command
            .arg(format!("PATH={}:{path}", site.path("").display()))
            .arg(site.program())
            .args(["run", "--config", "multi-region.toml"])
            .current_dir(site.path(""));
        let this = Self::spawn_as(site, namespace, command);
        this.ready();
        this
    }

    /// Starts it by a command of its own, which ends in `run`.
    pub fn spawn_as(site: &Site, namespace: &Namespace, mut command: Command) -> Self {
        let log = site.path("daemon.log");
        let errors = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        command
            // What it leaves of temporary files is seen in the listing.
            .env("TMPDIR", site.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut process = namespace.spawn(command).expect("the daemon");
        let stdout = process.child().stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            process,
            log,
            lines,
        }
    }

    /// Starts it and waits for `ready`.
    pub fn start(site: &Site, namespace: &Namespace) -> Self {
        let this = Self::spawn(site, namespace);
        this.ready();
        this
    }

    /// Waits for `ready`: how long it took.
    pub fn ready(&self) -> Duration {
        let begun = Instant::now();
        match self.lines.recv_timeout(READY_LIMIT) {
            Ok(line) => assert_eq!(line, "ready"),
            Err(_) => panic!("not ready: {}", self.log()),
        }
        begun.elapsed()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait(LIMIT).expect("an end");
    }

    /// Asks it to end, and does not wait.
    pub fn ask_to_end(&mut self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Waits for its end: the exit code.
    pub fn ends(&mut self) -> Option<i32> {
        let limit = Duration::from_secs(8);
        self.process.wait(limit).expect("an end in time").code()
    }

    /// Asks it to end, and waits: whether with success.
    pub fn terminate(&mut self) -> bool {
        self.process.signal(Signal::SIGTERM);
        let status = self
            .process
            .wait(Duration::from_secs(8))
            .expect("an end in time");
        status.success()
    }
}

/// A program as this user.
pub fn as_user(program: &Path, uid: u32) -> Command {
    let mut command = Command::new(program);
    // libtest and others want a folder they may enter.
    command.uid(uid).gid(uid).current_dir("/");
    command
}

/// Rules, routes and addresses of a namespace, as `ip` prints them, without what changes by itself.
pub fn network_of(namespace: &Namespace) -> Result<String, LabError> {
    let mut all = String::new();
    for what in [
        "rule show",
        "-6 rule show",
        "route show table all",
        "-6 route show table all",
        "-o addr show",
        "-o link show",
    ] {
        let text = namespace.tool("ip", what)?;
        for line in text.lines() {
            // Lifetimes count down; `ip` colours nothing here.
            let line = line.split(" expires ").next().unwrap_or(line);
            all.push_str(line.trim_end());
            all.push('\n');
        }
    }
    Ok(all)
}
