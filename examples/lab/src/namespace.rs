//! Network namespaces: each is made by a thread of its own, which stays in it.
//!
//! A namespace belongs to threads, not to the process. The *keeper* thread unshares, keeps the
//! namespace alive and starts the processes that are to run in it: they inherit the namespace of
//! the thread that starts them. Closures and runtimes run in further threads, which join the
//! namespace first and end with the closure, so that no other thread ever changes its place.

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Pid, gettid};
use tokio::sync::oneshot;

use crate::error::LabError;
use crate::process::Process;

/// How long a keeper may take to answer: starting a program takes milliseconds.
const KEEPER_LIMIT: Duration = Duration::from_secs(10);

/// How long tasks of a runtime get to end once it is told to stop.
const RUNTIME_STOP_LIMIT: Duration = Duration::from_secs(2);

/// A request to the keeper.
struct Start(Command, mpsc::Sender<io::Result<Child>>);

/// A network namespace, with `lo` up and IPv6 on. It lives as long as this value, the threads and
/// the processes in it.
#[derive(Debug)]
pub struct Namespace {
    label: String,
    handle: Arc<File>,
    keeper: mpsc::Sender<Start>,
    keeper_tid: Pid,
    persistent: bool,
}

impl Namespace {
    /// A new anonymous namespace. `label` is for messages only.
    pub fn new(label: &str) -> Result<Self, LabError> {
        let this = Self::keep(label, || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
        })?;
        this.first_settings()?;
        Ok(this)
    }

    /// A new namespace with a name that `ip netns` knows; needs root. It is removed on drop.
    pub fn named(name: &str) -> Result<Self, LabError> {
        let label = name.to_owned();
        let made = Command::new("ip").args(["netns", "add", name]).output();
        match made {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                return Err(LabError::Failed {
                    command: format!("ip netns add {name}"),
                    label,
                    message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                });
            }
            Err(cause) => {
                return Err(LabError::Start {
                    program: "ip".to_owned(),
                    cause,
                });
            }
        }
        let mut this = Self::open(Path::new("/run/netns").join(name).as_path())?;
        this.label = label;
        this.persistent = true;
        this.first_settings()?;
        Ok(this)
    }

    /// A namespace that somebody else made, by its file. It is left as it is.
    pub fn open(path: &Path) -> Result<Self, LabError> {
        let label = path.display().to_string();
        let file = File::open(path).map_err(|cause| LabError::Namespace {
            action: "open",
            label: label.clone(),
            cause,
        })?;
        Self::keep(&label, move || {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
        })
    }

    /// The name used in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What `ip link set … netns` takes: the id of the thread that stays inside.
    pub fn tid(&self) -> i32 {
        self.keeper_tid.as_raw()
    }

    /// Runs `work` in a thread inside the namespace and waits for it. Sockets and devices made
    /// there stay in the namespace wherever they are used later. A panic of `work` goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name(self.label.clone())
                .spawn_scoped(scope, || {
                    self.join_namespace()?;
                    Ok(work())
                })
                .map_err(|_| LabError::Thread(self.label.clone()))?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `work` in a thread inside the namespace that goes on by itself.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T, LabError>>, LabError> {
        let (label, handle) = (self.label.clone(), Arc::clone(&self.handle));
        thread::Builder::new()
            .name(self.label.clone())
            .spawn(move || {
                enter(&handle, &label)?;
                Ok(work())
            })
            .map_err(|_| LabError::Thread(self.label.clone()))
    }

    /// Runs the future that `make` builds on a single-threaded tokio runtime inside the namespace,
    /// until it ends or the handle is dropped, which also ends all tasks it has spawned.
    pub fn runtime<F: Future<Output = ()>>(
        &self,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Result<RuntimeHandle, LabError> {
        let (stop, stopped) = oneshot::channel::<()>();
        let label = self.label.clone();
        let (ready, started) = mpsc::channel();
        let thread = self.thread(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(cause) => {
                    let _ = ready.send(Err(LabError::socket("a runtime", cause)));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            runtime.block_on(async {
                tokio::select! {
                    () = make() => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(RUNTIME_STOP_LIMIT);
        })?;
        started
            .recv_timeout(KEEPER_LIMIT)
            .map_err(|_| LabError::Thread(label))??;
        Ok(RuntimeHandle {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Starts a program inside the namespace. The result ends it when dropped.
    pub fn spawn(&self, mut command: Command) -> Result<Process, LabError> {
        // The programs of a lab live where an ordinary user's PATH does not look.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let program = command.get_program().to_string_lossy().into_owned();
        let (answer, answered) = mpsc::channel();
        self.keeper
            .send(Start(command, answer))
            .map_err(|_| LabError::Thread(self.label.clone()))?;
        match answered.recv_timeout(KEEPER_LIMIT) {
            Ok(Ok(child)) => Ok(Process::new(program, child)),
            Ok(Err(cause)) => Err(LabError::Start { program, cause }),
            Err(_) => Err(LabError::Thread(self.label.clone())),
        }
    }

    /// Starts the keeper; `enter` puts it into the namespace.
    fn keep(
        label: &str,
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Self, LabError> {
        let (keeper, requests) = mpsc::channel::<Start>();
        let (ready, made) = mpsc::channel();
        thread::Builder::new()
            .name(format!("{label}-keeper"))
            .spawn(move || {
                let inside = enter().and_then(|()| File::open("/proc/thread-self/ns/net"));
                let failed = inside.is_err();
                let _ = ready.send(inside.map(|file| (file, gettid())));
                if failed {
                    return;
                }
                // Ends when the `Namespace`, the only sender, is gone.
                for Start(mut command, answer) in requests {
                    let _ = answer.send(command.spawn());
                }
            })
            .map_err(|_| LabError::Thread(label.to_owned()))?;
        let (handle, keeper_tid) = made
            .recv_timeout(KEEPER_LIMIT)
            .map_err(|_| LabError::Thread(label.to_owned()))?
            .map_err(|cause| LabError::Namespace {
                action: "make",
                label: label.to_owned(),
                cause,
            })?;
        Ok(Self {
            label: label.to_owned(),
            handle: Arc::new(handle),
            keeper,
            keeper_tid,
            persistent: false,
        })
    }

    fn join_namespace(&self) -> Result<(), LabError> {
        enter(&self.handle, &self.label)
    }

    fn first_settings(&self) -> Result<(), LabError> {
        self.ip("link set lo up")?;
        for scope in ["all", "default"] {
            self.set(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "0")?;
            self.set(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.persistent {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.label])
                .output();
        }
    }
}

/// A runtime inside a namespace; dropping it stops it and waits for its thread.
#[derive(Debug)]
pub struct RuntimeHandle {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Result<(), LabError>>>,
}

impl Drop for RuntimeHandle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn enter(handle: &File, label: &str) -> Result<(), LabError> {
    setns(handle, CloneFlags::CLONE_NEWNET).map_err(|errno| LabError::Namespace {
        action: "enter",
        label: label.to_owned(),
        cause: errno.into(),
    })
}
