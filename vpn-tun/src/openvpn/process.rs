//! Starts one `openvpn`, and carries its management conversation.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
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

/// Longest wait between its own attempts. It begins with a second, and doubles after four failures.
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How long it may take to end after it was asked to: it says goodbye to its server. Whoever closes
/// a tunnel waits a second.
const ENDS: Duration = Duration::from_millis(600);

/// Longest line that is kept, in bytes; the rest of it is dropped. OpenVPN's own messages have up to
/// 10 kB.
const MAX_LINE: usize = 64 << 10;

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

/// The lines of a conversation, as text whatever bytes a server had OpenVPN quote.
#[derive(Debug)]
struct Lines<R> {
    from: R,
    begun: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next line; `None` at the end. Cancel-safe.
    async fn next(&mut self) -> Option<String> {
        loop {
            let read = self.from.fill_buf().await.ok()?;
            if read.is_empty() {
                return None;
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = &read[..end.unwrap_or(read.len())];
            let room = MAX_LINE.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&part[..part.len().min(room)]);
            let taken = part.len() + usize::from(end.is_some());
            self.from.consume(taken);
            if end.is_some() {
                let line = String::from_utf8_lossy(&self.begun).into_owned();
                self.begun.clear();
                return Some(line);
            }
        }
    }
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
        let stdin = child.stdin.take();
        let greeting = async {
            // The text that was checked, not the file: that may be another one by now.
            if let Some(mut stdin) = stdin {
                // One that does not read on ends, and says so below.
                let _ = stdin.write_all(start.profile.text().as_bytes()).await;
                let _ = stdin.write_all(b"\n").await;
            }
            listener.accept().await
        };
        let stream = tokio::select! {
            accepted = greeting => accepted?.0,
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
            lines: Lines {
                from: BufReader::new(read),
                begun: Vec::new(),
            },
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
        self.lines.next().await
    }

    pub(super) async fn say(&mut self, text: &str) -> io::Result<()> {
        // One that is stopped does not listen.
        let said = tokio::time::timeout(ENDS, self.say.write_all(text.as_bytes()));
        said.await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Ends it: asked first, then killed.
    pub(super) async fn end(mut self) {
        let asked = async {
            let _ = self.say.write_all(b"signal SIGTERM\n").await;
            self.child.wait().await
        };
        if tokio::time::timeout(ENDS, asked).await.is_err() {
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
            // A wrong password is asked once; and all that a server pushes is heard.
            .args(["--auth-retry", "none", "--mute", "0"])
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Lines {
            from: bytes,
            begun: Vec::new(),
        };
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn whatever_a_server_writes_is_a_line_of_bounded_length() {
        let told = lines(b">LOG:1,N,AUTH_FAILED,ung\xfcltig\n>HOLD:x\nhalf").await;
        assert_eq!(told, [">LOG:1,N,AUTH_FAILED,ung\u{fffd}ltig", ">HOLD:x"]);
        let long = [vec![b'a'; 3 * MAX_LINE], b"\nb\n".to_vec()].concat();
        let told = lines(&long).await;
        assert_eq!((told[0].len(), told[1].as_str()), (MAX_LINE, "b"));
    }
}
