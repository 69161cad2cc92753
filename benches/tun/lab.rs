//! Makes two network namespaces, a device in each, and sends a TCP stream from one to the other.
//!
//! A namespace belongs to a thread here and goes with it: nothing is left behind, also after a
//! panic or a kill.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::cpu;
use super::device::BenchTun;
use super::forward::Contender;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The application's address.
const APP: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);

/// What the tunnel was assigned: with the engine the server sees this one.
pub(crate) const ASSIGNED: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 2);

/// Where the server listens.
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Time until the stream runs at full speed; not measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// Bytes per write and read of the stream's ends.
const CHUNK: usize = 256 * 1024;

/// What one round brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    bytes: u64,
    wall: Duration,
    process: Duration,
    machine: Duration,
}

impl Run {
    pub(crate) fn gbits(&self) -> f64 {
        self.bytes as f64 * 8e-9 / self.wall.as_secs_f64()
    }

    pub(crate) fn cpu_per_gb(&self) -> f64 {
        self.process.as_secs_f64() * 1e9 / self.bytes as f64
    }

    pub(crate) fn machine_per_gb(&self) -> f64 {
        self.machine.as_secs_f64() * 1e9 / self.bytes as f64
    }
}

/// Makes sure that namespaces can be made, in a user namespace of its own unless this is root.
/// To be called before any thread is started.
pub(crate) fn enter() -> Result<(), String> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if !uid.is_root() {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| format!("no user namespace ({e})"))?;
        let write = |file: &str, text: String| {
            std::fs::write(format!("/proc/self/{file}"), text)
                .map_err(|e| format!("cannot write {file} ({e})"))
        };
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("0 {uid} 1"))?;
        write("gid_map", format!("0 {gid} 1"))?;
    }
    // The thread that makes the attempt takes its namespace with it.
    let attempt = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("no network namespace ({e})"))?;
        if !std::path::Path::new("/dev/net/tun").exists() {
            return Err("/dev/net/tun is missing".to_owned());
        }
        ip("link set lo up").map_err(|e| e.to_string())
    });
    attempt
        .join()
        .map_err(|_| "the attempt panicked".to_owned())?
}

/// One round: fresh namespaces and devices, `wall` of measured streaming.
pub(crate) fn run(contender: Contender, offload: bool, wall: Duration) -> Result<Run, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let (ready, sockets) = mpsc::channel();
    // Each side makes its device and its socket in its own namespace and hands them over.
    let server = side(handle.clone(), SERVER, [APP, ASSIGNED], offload, || {
        TcpListener::bind((SERVER, 0))
    })?;
    let app = side(handle, APP, [SERVER, SERVER], offload, || Ok(()))?;
    let address = server.socket.local_addr()?;
    let (app_device, server_device) = (
        BenchTun::new(app.device, offload),
        BenchTun::new(server.device, offload),
    );
    let forwarder = thread::spawn(move || {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let _ = ready.send(stop);
        runtime.block_on(async {
            tokio::select! {
                () = contender.forward(app_device, server_device, offload) => {}
                _ = stopped => {}
            }
        });
    });
    let stop = sockets.recv()?;
    let listener = server.socket;
    let receiver = thread::spawn(move || receive(listener, wall));
    // Sockets belong to the namespace they are made in: the application's side connects.
    app.go.send(address)?;
    let result = receiver.join().map_err(|_| "the receiver panicked")?;
    drop((app.go, server.go));
    // While the forwarder still runs, so that the stream's end reaches the other side.
    let _ = app.thread.join();
    let _ = server.thread.join();
    let _ = stop.send(());
    let _ = forwarder.join();
    result
}

/// One namespace, held by a thread.
struct Side<S> {
    device: AsyncDevice,
    socket: S,
    /// Where to stream to. Dropping it ends the thread.
    go: mpsc::Sender<SocketAddr>,
    thread: thread::JoinHandle<()>,
}

fn side<S: Send + 'static>(
    runtime: tokio::runtime::Handle,
    address: Ipv4Addr,
    peers: [Ipv4Addr; 2],
    offload: bool,
    socket: impl FnOnce() -> std::io::Result<S> + Send + 'static,
) -> Result<Side<S>, Error> {
    let (made, parts) = mpsc::channel();
    let (go, start) = mpsc::channel::<SocketAddr>();
    let thread = thread::spawn(move || {
        let _runtime = runtime.enter();
        let attempt = || -> Result<(AsyncDevice, S), Error> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let device = DeviceBuilder::new()
                .name("tun0")
                .mtu(1500)
                .offload(offload)
                .build_async()?;
            ip(&format!("addr replace {address}/32 dev tun0"))?;
            ip("link set tun0 up txqueuelen 1000")?;
            for peer in peers {
                ip(&format!("route replace {peer}/32 dev tun0"))?;
            }
            Ok((device, socket()?))
        };
        let _ = made.send(attempt());
        while let Ok(to) = start.recv() {
            stream(to);
        }
    });
    let (device, socket) = parts.recv()??;
    Ok(Side {
        device,
        socket,
        go,
        thread,
    })
}

/// Sends zeros until the other end has had enough.
fn stream(to: SocketAddr) {
    let Ok(mut socket) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else {
        return;
    };
    // Also ends when nobody forwards any more.
    let _ = socket.set_write_timeout(Some(Duration::from_secs(1)));
    let chunk = vec![0; CHUNK];
    while socket.write_all(&chunk).is_ok() {}
}

/// Counts what arrives in `wall`, after the warm-up.
fn receive(listener: TcpListener, wall: Duration) -> Result<Run, Error> {
    let mut socket = accept(&listener)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut chunk = vec![0; CHUNK];
    let warm = Instant::now();
    while warm.elapsed() < WARM_UP {
        socket
            .read(&mut chunk)
            .map_err(|e| format!("the stream stalled ({e})"))?;
    }
    let (started, process, machine) = (Instant::now(), cpu::process(), cpu::machine());
    let mut bytes = 0;
    while started.elapsed() < wall {
        bytes += socket
            .read(&mut chunk)
            .map_err(|e| format!("the stream stalled ({e})"))? as u64;
    }
    Ok(Run {
        bytes,
        wall: started.elapsed(),
        process: cpu::process() - process,
        machine: cpu::machine() - machine,
    })
}

fn accept(listener: &TcpListener) -> Result<TcpStream, Error> {
    listener.set_nonblocking(true)?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        if let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(false)?;
            return Ok(socket);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err("no connection came through the forwarder".into())
}

/// Runs `ip` in this thread's namespace.
fn ip(arguments: &str) -> Result<(), Error> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
    .into())
}
