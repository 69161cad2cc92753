//! The control socket of a daemon: one JSON request a connection, one JSON answer.

use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest request line: a path of 4 KiB and some JSON around it.
const MAX_REQUEST: u64 = 8 * 1024;

/// Longest answer a client reads.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Callers at the same time; further ones wait in the kernel's queue.
const CALLERS: usize = 8;

/// Pause after an error of the listening socket.
const BREATH: Duration = Duration::from_millis(100);

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listening end; the file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Binds the socket, 0600. A file that a former daemon left behind is replaced; a socket that
    /// somebody listens on, and any other file, is not.
    ///
    /// # Errors
    ///
    /// What the system says, or who is there.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        match state_of(path).await? {
            State::Free => {}
            State::Stale => std::fs::remove_file(path)?,
            State::Alive => return Err(io::Error::other("another daemon answers there")),
        }
        // Private from its first moment. A file another thread makes meanwhile is, too.
        let before = umask(Mode::from_bits_truncate(0o177));
        let socket = UnixListener::bind(path);
        umask(before);
        Ok(Self {
            socket: socket?,
            path: path.to_owned(),
        })
    }

    /// Answers until `shutdown`; again, if it is called again. Each caller has a task of its own: one that says nothing delays
    /// no other one, and nothing else.
    pub async fn serve<R, A, F>(&self, answer: A, shutdown: CancellationToken)
    where
        R: DeserializeOwned + Send + 'static,
        A: Fn(R) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Value> + Send + 'static,
    {
        let mut callers = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = callers.join_next() => {}
                accepted = self.socket.accept(), if callers.len() < CALLERS => match accepted {
                    Ok((stream, _)) => {
                        if may_ask(&stream) {
                            callers.spawn(converse(stream, answer.clone()));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "control socket");
                        // Out of file descriptors, say: do not spin.
                        tokio::time::sleep(BREATH).await;
                    }
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What is at the path of a control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Free,
    /// A socket nobody listens on any more.
    Stale,
    /// A socket somebody listens on.
    Alive,
}

/// Looks without changing anything.
///
/// # Errors
///
/// Any other file is one.
pub async fn state_of(path: &Path) -> io::Result<State> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::other("the file exists and is not a socket"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Free),
        Err(error) => return Err(error),
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(State::Stale),
        // A program that a killed daemon was about to start holds the socket for a moment more.
        Ok(stream) if is_orphan(&stream) => Ok(State::Stale),
        // Also one that is busy or not ours.
        _ => Ok(State::Alive),
    }
}

/// Whether the process that listened there has ended. One that cannot be told is there.
fn is_orphan(stream: &UnixStream) -> bool {
    let Some(listener) = stream.peer_cred().ok().and_then(|peer| peer.pid()) else {
        return false;
    };
    if listener <= 0 {
        return false;
    }
    match std::fs::read_to_string(format!("/proc/{listener}/stat")) {
        // Behind its name, which is in brackets and may be anything: the state (proc(5)).
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether the caller is this user or root.
fn may_ask(stream: &UnixStream) -> bool {
    let Ok(caller) = stream.peer_cred() else {
        return false;
    };
    let may = caller.uid() == 0 || caller.uid() == nix::unistd::geteuid().as_raw();
    if !may {
        tracing::warn!(uid = caller.uid(), "control request refused");
    }
    may
}

/// One question and its answer, each bounded in time.
async fn converse<R, A, F>(stream: UnixStream, answer: A)
where
    R: DeserializeOwned,
    A: Fn(R) -> F,
    F: Future<Output = Value>,
{
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut limited = (&mut stream).take(MAX_REQUEST);
    // A caller that asks nothing, or no longer, gets no answer.
    let asked = tokio::time::timeout(PATIENCE, limited.read_line(&mut line)).await;
    let Ok(Ok(1..)) = asked else { return };
    let said = match serde_json::from_str(&line) {
        Ok(request) => tokio::time::timeout(PATIENCE, answer(request))
            .await
            .unwrap_or_else(|_| serde_json::json!({ "error": "the engine does not answer" })),
        Err(error) => serde_json::json!({ "error": format!("bad request: {error}") }),
    };
    let text = format!("{said}\n");
    // Who asked may have gone away, or not read: the answer is theirs to miss.
    let _ = tokio::time::timeout(PATIENCE, stream.write_all(text.as_bytes())).await;
}

/// Asks a running daemon.
///
/// # Errors
///
/// What the system says, or what the daemon says is wrong.
pub async fn ask(path: &Path, request: &impl Serialize) -> io::Result<Value> {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        let value: Value = serde_json::from_str(&answer)?;
        match value.get("error").and_then(Value::as_str) {
            Some(error) => Err(io::Error::other(error.to_owned())),
            None => Ok(value),
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
}
