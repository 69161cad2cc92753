//! Processes the lab started: known by their handle, never by a name, and ended with it.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::LabError;
use crate::namespace::Namespace;

/// How long a process gets between the request to end and being killed.
const GRACE: Duration = Duration::from_secs(2);

/// How often a waiting process is looked at.
const POLL: Duration = Duration::from_millis(2);

/// A running process; dropping it ends it.
#[derive(Debug)]
pub struct Process {
    program: String,
    child: Child,
}

/// What a finished process left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Its standard error, invalid UTF-8 replaced.
    pub stderr: String,
}

impl Process {
    pub(crate) fn new(program: String, child: Child) -> Self {
        Self { program, child }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal. Does nothing once it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running()
            && let Ok(pid) = i32::try_from(self.child.id())
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < end => thread::sleep(POLL),
                Ok(None) => {
                    return Err(LabError::Timeout {
                        what: format!("the end of `{}`", self.program),
                        limit,
                    });
                }
                Err(cause) => {
                    return Err(LabError::Start {
                        program: self.program.clone(),
                        cause,
                    });
                }
            }
        }
    }

    /// Asks it to end (SIGTERM), and kills it if it does not.
    pub fn end(&mut self) {
        self.signal(Signal::SIGTERM);
        if self.wait(GRACE).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Namespace {
    /// Runs a program inside the namespace to its end and collects what it writes.
    pub fn output(&self, command: Command, limit: Duration) -> Result<Output, LabError> {
        self.output_of(command, &[], limit)
    }

    /// As [`output`](Self::output), with `input` on its standard input: at most what a pipe holds
    /// (64 KiB) if the program does not read.
    pub fn output_of(
        &self,
        mut command: Command,
        input: &[u8],
        limit: Duration,
    ) -> Result<Output, LabError> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = self.spawn(command)?;
        if let Some(mut pipe) = process.child().stdin.take() {
            // A program that does not read its input is no error: its status tells.
            let _ = pipe.write_all(input);
        }
        let stdout = collect(process.child().stdout.take());
        let stderr = collect(process.child().stderr.take());
        let status = process.wait(limit)?;
        Ok(Output {
            status,
            stdout: stdout.recv_timeout(GRACE).unwrap_or_default(),
            stderr: stderr.recv_timeout(GRACE).unwrap_or_default(),
        })
    }
}

/// Reads a pipe to its end in a thread: a full pipe would otherwise stop the process.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        });
    }
    receiver
}

/// A command whose process is killed by the kernel when the thread that starts it is gone: nothing
/// outlives a test process that was killed.
pub(crate) fn bound_to_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// Repeats `attempt` until it answers `Some`, for at most `limit`.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<T, LabError> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = attempt() {
            return Ok(value);
        }
        if Instant::now() >= end {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                limit,
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
}
