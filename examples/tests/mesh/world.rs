//! Programs that run in a lab, and the folder that `init` made for them.

use super::*;

/// How long any command may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// How long a daemon may take to say `ready`: without a hub it waits six seconds for one before.
pub(crate) const READY: Duration = Duration::from_secs(20);

/// How long a daemon may take to end.
pub(crate) const ENDS: Duration = Duration::from_secs(8);

/// Longer than a direct way takes on a busy machine. What is promised is measured elsewhere: by the lab's own
/// tests, and by `.ci/lab-mesh`.
pub(crate) const DIRECT: Duration = Duration::from_secs(20);

/// The hub of all tests.
pub(crate) const HUB: &str = "198.51.100.1:51820";

/// A key that nobody uses.
pub(crate) const KEY: &str = "X/WBOnaj/aOngoMOJ/GaP2PYDHcLhL8ALNqq3C8u2AI=";

pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let deps = test.parent().expect("deps");
    let path = deps.with_file_name("examples").join("mesh");
    assert!(path.exists(), "cargo build --examples first");
    path
}

pub(crate) fn command_of(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it here, where it touches nothing but files.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command_of(arguments).output().expect("the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), out, errors)
}

/// It says all of this, in one line, with exit code 2.
pub(crate) fn refuses(arguments: &[&str], parts: &[&str]) {
    let (code, _, errors) = run(arguments);
    assert_eq!(code, Some(2), "{arguments:?}: {errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    for part in parts {
        assert!(errors.contains(part), "{part} in {errors}");
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A daemon that runs; it is ended when dropped.
pub(crate) struct Daemon {
    pub(crate) process: Process,
    pub(crate) log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(namespace: &Namespace, arguments: &[&str], log: PathBuf) -> Self {
        Self::run(namespace, command_of(arguments), log)
    }

    pub(crate) fn run(namespace: &Namespace, mut command: Command, log: PathBuf) -> Self {
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

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn ends(mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(ENDS).expect("an end in time");
        assert!(status.success(), "{}", self.said());
    }
}

/// A folder that `init` made, with sockets in it.
pub(crate) struct Mesh {
    pub(crate) folder: TempDir,
}

impl Mesh {
    pub(crate) fn new(members: &str) -> Self {
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("m").join(name)
    }

    pub(crate) fn socket(&self, name: &str) -> String {
        text(&self.path(name).join("s"))
    }

    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let before = fs::read_to_string(&path).expect("a file");
        assert!(before.contains(from), "{before}");
        fs::write(&path, before.replace(from, to)).expect("a file");
    }

    pub(crate) fn append(&self, file: &str, more: &str) {
        let path = self.path(file);
        let before = fs::read_to_string(&path).expect("a file");
        fs::write(&path, before + more).expect("a file");
    }

    pub(crate) fn hub(&self, namespace: &Namespace) -> Daemon {
        let config = text(&self.path("hub/hub.toml"));
        let log = self.path("hub.log");
        Daemon::start(namespace, &["hub", "--config", &config], log)
    }

    pub(crate) fn join(&self, namespace: &Namespace, name: &str) -> Daemon {
        let config = text(&self.path(&format!("{name}/mesh.toml")));
        let log = self.path(&format!("{name}.log"));
        Daemon::start(namespace, &["join", "--config", &config], log)
    }

    pub(crate) fn status(&self, name: &str) -> Value {
        let (code, out, errors) = run(&["status", "--json", "--control", &self.socket(name)]);
        assert_eq!(code, Some(0), "{errors}");
        serde_json::from_str(&out).expect("JSON")
    }

    /// What `name` says of the path to `peer`.
    pub(crate) fn path_of(&self, name: &str, peer: &str) -> Value {
        let status = self.status(name);
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let found = peers.into_iter().find(|it| it["name"] == peer);
        found.unwrap_or(Value::Null)
    }

    pub(crate) fn until_path(&self, name: &str, peer: &str, path: &str, limit: Duration) -> Value {
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

pub(crate) fn pings(namespace: &Namespace, to: &str, count: u32) -> String {
    let mut command = Command::new("ping");
    let count = count.to_string();
    command.args(["-c", &count, "-i", "0.2", "-W", "3", to]);
    let output = namespace.output(command, LIMIT).expect("ping");
    let received = output.stdout.lines().find(|line| line.contains("received"));
    received.unwrap_or("nothing").to_owned()
}

pub(crate) fn lab(a: NatKind, b: NatKind) -> Option<NatLab> {
    if vpn_lab::skip(&NatPlan::PROGRAMS) {
        return None;
    }
    Some(NatLab::start(NatPlan::of(a, b)).expect("a lab"))
}
