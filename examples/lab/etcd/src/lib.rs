//! Starts the distribution's etcd on loopback, kills it, and starts it again with what it had; and cuts
//! the way to it.
//!
//! Panics where it cannot: it is for tests.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "for tests, which fail by it"
)]

mod papers;
mod wire;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use papers::{Papers, SERVER_NAME};
pub use wire::Wire;

/// How long etcd may take until it answers: a second, on a busy machine many.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A server that ends with this, and its data too.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    ports: [u16; 2],
    /// Where it says how it is, without TLS.
    health: SocketAddr,
    scheme: &'static str,
    options: Vec<String>,
    child: Option<Child>,
}

/// Whether etcd is installed; says so if it is not. With `VPN_LAB_REQUIRED=1`, as in CI, that is a
/// failure.
pub fn is_there() -> bool {
    let version = Command::new("etcd").arg("--version").output();
    if version.is_ok_and(|version| version.status.success()) {
        return true;
    }
    let required = std::env::var_os("VPN_LAB_REQUIRED").is_some_and(|value| value == "1");
    assert!(
        !required,
        "this test must not be skipped here: etcd is missing"
    );
    println!("SKIPPED: etcd is not installed (Debian: etcd-server)");
    false
}

/// etcd with its data in this folder, for clients at this address and port; the second port is for other
/// members, of which there are none. `scheme` is `http` or `https`. Not started.
pub fn command(folder: &Path, address: IpAddr, ports: [u16; 2], scheme: &str) -> Command {
    let [clients, members] = ports.map(|port| SocketAddr::new(address, port));
    let mut command = Command::new("etcd");
    command
        .arg(format!("--data-dir={}", folder.display()))
        .arg(format!("--listen-client-urls={scheme}://{clients}"))
        .arg(format!("--advertise-client-urls={scheme}://{clients}"))
        .arg(format!("--listen-peer-urls=http://{members}"))
        .arg(format!("--initial-advertise-peer-urls=http://{members}"))
        .arg(format!("--initial-cluster=default=http://{members}"))
        .args(["--logger=zap", "--log-level=error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Writes a key at this etcd, from the network namespace of this thread, over HTTP without TLS.
///
/// # Errors
///
/// It cannot be reached, or did not say that it was written.
pub fn put(etcd: SocketAddr, key: &str, value: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&etcd, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let [key, value] = [key, value].map(|text| STANDARD.encode(text));
    let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
    write!(
        stream,
        "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(()),
        false => Err(io::Error::other(answer)),
    }
}

/// Whether the one that says so there has a leader and answers.
fn is_well(health: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&health, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// A port of loopback that nobody has at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

impl Server {
    /// Starts one, without TLS; `None` where etcd is not installed ([`is_there`]).
    pub fn start() -> Option<Self> {
        Self::start_with("http", &[])
    }

    /// Starts one for `http` or `https`, with these options of etcd.
    pub fn start_with(scheme: &'static str, options: &[String]) -> Option<Self> {
        if !is_there() {
            return None;
        }
        let name = format!("etcd-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let mut server = Self {
            folder: std::env::temp_dir().join(name),
            ports: [free_port(), free_port()],
            health: SocketAddr::new(LOOPBACK, free_port()),
            scheme,
            options: options.to_vec(),
            child: None,
        };
        server.wipe();
        server.run();
        Some(server)
    }

    /// Where clients ask: address and port.
    pub fn endpoint(&self) -> String {
        format!("{LOOPBACK}:{}", self.port())
    }

    /// The port of [`endpoint`](Self::endpoint).
    pub const fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Starts it again, with what it had. Blocks until it answers: it takes connections before, and one
    /// that is killed while it writes its first log never starts again.
    pub fn run(&mut self) {
        let mut command = command(&self.folder, LOOPBACK, self.ports, self.scheme);
        command
            .arg(format!("--listen-metrics-urls=http://{}", self.health))
            .args(&self.options);
        self.child = Some(command.spawn().expect("etcd"));
        let from = Instant::now();
        while !is_well(self.health).unwrap_or(false) {
            assert!(from.elapsed() < STARTS_WITHIN, "etcd does not start");
            // Its port may be somebody's for a moment: one that waits for it to come back dials from any.
            if let Some(Ok(Some(_))) = self.child.as_mut().map(Child::try_wait) {
                self.child = Some(command.spawn().expect("etcd"));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, as by a crash.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that has ended by itself is ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Keeps a copy of what it has. It must not run.
    pub fn save(&self) {
        assert!(self.child.is_none(), "it runs");
        copy(&self.folder, &self.copy());
    }

    /// It has what it had when it was [`save`](Self::save)d. It must not run.
    pub fn restore(&self) {
        assert!(self.child.is_none(), "it runs");
        self.wipe();
        copy(&self.copy(), &self.folder);
    }

    fn copy(&self) -> PathBuf {
        self.folder.with_extension("copy")
    }

    /// What it had is gone.
    pub fn wipe(&self) {
        // It may have had nothing yet.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        self.wipe();
        let _ = std::fs::remove_dir_all(self.copy());
    }
}

/// A folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("its entries");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("its kind").is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("a copy")),
        }
    }
}
