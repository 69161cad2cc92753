//! The control socket: one JSON request a connection, one JSON answer.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::error::Error;
use crate::rule::Proto;

/// Longest request line: a path of 4 KiB and some JSON around it.
const MAX_REQUEST: u64 = 8 * 1024;

/// Longest answer a client reads.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    Explain { uid: u32, exe: Option<PathBuf>, dst: SocketAddr, proto: Proto },
}

/// The listening end; the file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Binds the socket, 0600. A file that a former daemon left behind is replaced; a socket that
    /// answers, and any other file, is not.
    pub(crate) async fn bind(path: &Path) -> Result<Self, Error> {
        let control = |cause| Error::Control { path: path.to_owned(), cause };
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(control(io::Error::other("the file exists and is not a socket")));
            }
            if UnixStream::connect(path).await.is_ok() {
                return Err(control(io::Error::other("another daemon answers there")));
            }
            std::fs::remove_file(path).map_err(control)?;
        }
        // Private from its first moment; no other file is made meanwhile on this thread.
        let before = umask(Mode::from_bits_truncate(0o177));
        let socket = UnixListener::bind(path);
        umask(before);
        Ok(Self { socket: socket.map_err(control)?, path: path.to_owned() })
    }

    /// The next request of a caller who may ask: this user or root.
    pub(crate) async fn accept(&self) -> Option<(Request, Reply)> {
        let (stream, _) = match self.socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "control socket");
                // Out of file descriptors, say: do not spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return None;
            }
        };
        let caller = stream.peer_cred().ok()?.uid();
        if caller != 0 && caller != nix::unistd::geteuid().as_raw() {
            tracing::warn!(uid = caller, "control request refused");
            return None;
        }
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        let read = (&mut reader).take(MAX_REQUEST);
        tokio::time::timeout(PATIENCE, BufReader::new(read).read_line(&mut line))
            .await
            .ok()?
            .ok()?;
        let reply = Reply(reader.into_inner());
        match serde_json::from_str(&line) {
            Ok(request) => Some((request, reply)),
            Err(error) => {
                reply.send(&serde_json::json!({ "error": error.to_string() })).await;
                None
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

/// Where the answer goes.
#[derive(Debug)]
pub(crate) struct Reply(UnixStream);

impl Reply {
    pub(crate) async fn send(mut self, answer: &Value) {
        let mut line = answer.to_string();
        line.push('\n');
        // A caller that has gone away does not want it any more.
        let _ = tokio::time::timeout(PATIENCE, self.0.write_all(line.as_bytes())).await;
    }
}

/// Asks a running daemon.
pub(crate) async fn ask(path: &Path, request: &Request) -> Result<Value, Error> {
    let control = |cause| Error::Control { path: path.to_owned(), cause };
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        let value: Value = serde_json::from_str(&answer)?;
        match value.get("error") {
            Some(error) => Err(io::Error::other(error.to_string())),
            None => Ok(value),
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(control),
        Err(_) => Err(control(io::Error::new(io::ErrorKind::TimedOut, "no answer"))),
    }
}
