//! Starts one `openvpn`, and carries its management conversation.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use super::profile::Profile;
use crate::InterfaceName;
use crate::journal::{Journal, from_hex, to_hex};
use crate::program;

/// Where else the program is, when `PATH` of a daemon leaves the system's folders out.
const FOLDERS: [&str; 3] = ["", "/usr/sbin/", "/usr/local/sbin/"];

/// How long it may take to open the conversation.
const GREETS: Duration = Duration::from_secs(10);

/// Longest wait between its own attempts: it doubles from a second.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How long it may take to end after it was asked to: it says goodbye to its server. Whoever closes
/// a tunnel waits a second.
const ENDS: Duration = Duration::from_millis(600);

/// Each process has a folder of its own.
static FOLDER: AtomicU32 = AtomicU32::new(0);

/// What the journal's entries begin with; the interface follows. They hold the folder.
const PREFIX: &str = "openvpn:";

/// The socket in it, which no other process has as an argument.
const SOCKET: &str = "management";

/// A folder that nobody else can look into, and that goes when it is dropped. It is in the journal
/// for as long as there is one.
#[derive(Debug)]
struct Private {
    path: PathBuf,
    noted: Option<(Journal, String)>,
}

impl Private {
    fn new(interface: &InterfaceName, journal: Option<&Journal>) -> io::Result<Self> {
        let number = FOLDER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vpn-tun-openvpn-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut noted = None;
        if let Some(journal) = journal {
            let key = format!("{PREFIX}{interface}");
            let entry = to_hex(path.as_os_str().as_bytes());
            journal.set(&key, entry).map_err(io::Error::other)?;
            noted = Some((journal.clone(), key));
        }
        let this = Self { path, noted };
        // Made anew or not at all: nobody's folder or link is followed.
        match std::fs::DirBuilder::new().mode(0o700).create(&this.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Of a process that had our number before, if it is ours at all.
                std::fs::remove_dir_all(&this.path)?;
                std::fs::DirBuilder::new().mode(0o700).create(&this.path)?;
            }
            made => made?,
        }
        Ok(this)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        if let Some((journal, key)) = &self.noted
            && let Err(error) = journal.remove(key)
        {
            tracing::warn!(%error, "the journal still names a process that ended");
        }
    }
}

/// Ends the processes that a former run left, and removes their folders: how many there were, by
/// their interfaces.
pub(crate) async fn end_leftovers(journal: &Journal) -> io::Result<Vec<(String, usize)>> {
    let mut ended = Vec::new();
    for (interface, entry) in journal.with_prefix(PREFIX) {
        let key = format!("{PREFIX}{interface}");
        let Some(bytes) = from_hex(&entry) else {
            return Err(io::Error::other(journal.unreadable(&key)));
        };
        let folder = PathBuf::from(OsString::from_vec(bytes));
        let count = program::end_those_with(&folder.join(SOCKET)).await?;
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        journal.remove(&key).map_err(io::Error::other)?;
        ended.push((interface, count));
    }
    Ok(ended)
}

/// A running `openvpn`. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    lines: Lines<BufReader<OwnedReadHalf>>,
    say: OwnedWriteHalf,
    _folder: Private,
}

/// What a process is started with.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) profile: &'a Profile,
    pub(super) interface: &'a InterfaceName,
    /// How long a server may take to say its first word.
    pub(super) patience: Duration,
    /// Where it is written down.
    pub(super) journal: Option<&'a Journal>,
    /// Exempts its sockets from the capture.
    pub(super) mark: Option<u32>,
    /// It has to ask for user and password, whatever file the profile names.
    pub(super) asks: bool,
}

impl Process {
    /// Starts it, and waits until it speaks.
    pub(super) async fn start(start: &Start<'_>) -> io::Result<Self> {
        let folder = Private::new(start.interface, start.journal)?;
        let path = folder.path.join(SOCKET);
        let listener = UnixListener::bind(&path)?;
        let mut child = spawn(start, &path)?;
        // The text that was checked, not the file: that may be another one by now.
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(start.profile.text().as_bytes()).await?;
            stdin.write_all(b"\n").await?;
        }
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            status = child.wait() => {
                return Err(io::Error::other(format!("it ended at once: {}", status?)));
            }
            () = tokio::time::sleep(GREETS) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let peer = stream.peer_cred()?;
        if i64::from(peer.pid().unwrap_or(0)) != i64::from(child.id().unwrap_or(0)) {
            return Err(io::Error::other("somebody else speaks for it"));
        }
        let (read, say) = stream.into_split();
        Ok(Self {
            child,
            lines: BufReader::new(read).lines(),
            say,
            _folder: folder,
        })
    }

    /// Its number; 0 once it has ended.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The next line; `None` once it is gone. Cancel-safe.
    pub(super) async fn line(&mut self) -> Option<String> {
        self.lines.next_line().await.ok().flatten()
    }

    pub(super) async fn say(&mut self, text: &str) -> io::Result<()> {
        self.say.write_all(text.as_bytes()).await
    }

    /// Ends it: asked first, then killed.
    pub(super) async fn end(mut self) {
        let _ = self.say("signal SIGTERM\n").await;
        if tokio::time::timeout(ENDS, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn spawn(start: &Start<'_>, management: &Path) -> io::Result<Child> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for folder in FOLDERS {
        let mut command = Command::new(format!("{folder}openvpn"));
        command
            .args(["--config", "stdin"])
            // Behind the profile, so that these hold.
            .args(["--dev", start.interface.as_str(), "--dev-type", "tun"])
            .args(["--persist-tun", "--ifconfig-noexec", "--route-noexec"])
            .args(["--script-security", "0", "--auth-nocache"])
            .arg("--management")
            .arg(management)
            .args(["unix", "--management-client", "--management-hold"])
            .args(["--management-query-passwords", "--management-query-remote"])
            // If we are gone, it has nobody to ask, and ends.
            .args([
                "--management-signal",
                "--suppress-timestamps",
                "--verb",
                "3",
            ])
            .current_dir(start.profile.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
            .args([
                "--server-poll-timeout",
                &start.patience.as_secs().to_string(),
            ])
            .args(["--connect-retry", "1", &LONGEST_RETRY.as_secs().to_string()]);
        if let Some(mark) = start.mark {
            command.args(["--mark", &mark.to_string()]);
        }
        if start.asks {
            command.arg("--auth-user-pass");
        }
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
            result => return result,
        }
    }
    Err(last)
}
