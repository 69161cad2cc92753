//! Touches other programs: runs a small one to its end, and ends one that a killed run left.

mod sys;

use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// Where else programs are, when `PATH` of a daemon leaves the system's folders out.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// How long a small program may take. It works for some milliseconds; longer, something is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a process that is left over may take to say goodbye, and then to be gone.
const ENDS: Duration = Duration::from_secs(3);

/// Runs a program to its end with this on its standard input; `NotFound` if there is none of that
/// name. It works in the network namespace of this thread, and not after we are killed.
pub(crate) async fn run(name: &str, args: &[&str], input: &[u8]) -> io::Result<Output> {
    let folders = FOLDERS.iter().map(|folder| format!("{folder}/{name}"));
    let mut child = spawn(std::iter::once(name.to_owned()).chain(folders), args)?;
    let feeding = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read to the end says why by its status.
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await
    };
    tokio::time::timeout(PATIENCE, feeding)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn spawn(names: impl Iterator<Item = String>, args: &[&str]) -> io::Result<Child> {
    for name in names {
        let mut command = Command::new(name);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        sys::end_with_us(&mut command);
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Ends the processes that were started with this path as an argument, which only they know: asked
/// first, then killed. Answers how many there were, once they are gone.
pub(crate) async fn end_those_with(argument: &Path) -> io::Result<usize> {
    let mut ended = 0;
    for entry in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() || !has_argument(pid, argument) {
            continue;
        }
        let Ok(process) = sys::handle(pid) else {
            continue;
        };
        // Again: the number may have been somebody else's when the handle was made.
        if has_argument(pid, argument) {
            let process = sys::watched(process)?;
            for signal in [libc::SIGTERM, libc::SIGKILL] {
                // It may be gone by now.
                let _ = sys::signal(process.get_ref(), signal);
                // A handle is readable once its process has ended (pidfd_open(2)).
                if tokio::time::timeout(ENDS, process.readable()).await.is_ok() {
                    break;
                }
            }
            ended += 1;
        }
    }
    Ok(ended)
}

fn has_argument(pid: u32, argument: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = argument.as_os_str().as_bytes();
    line.split(|&byte| byte == 0).any(|word| word == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_told_from_one_that_fails() {
        let error = run("no-such-program-here", &[], b"").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let output = run("cat", &[], b"word").await.unwrap();
        assert_eq!(output.stdout, b"word");
        assert!(!run("false", &[], b"").await.unwrap().status.success());
    }

    #[tokio::test]
    async fn only_a_process_with_the_argument_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("management");
        assert_eq!(end_those_with(&path).await.unwrap(), 0);
        let start = |script: &str, argument: &Path| {
            std::process::Command::new("sh")
                .args(["-c", script])
                .arg(argument)
                .spawn()
                .unwrap()
        };
        // One that does as it is asked; a shell that waits for a child ends with it.
        let mut meant = start("while :; do read line || sleep 1; done", &path);
        let mut other = start("sleep 30; :", &dir.path().join("other"));
        // Started is not executed yet.
        while !has_argument(meant.id(), &path) {
            tokio::task::yield_now().await;
        }
        assert_eq!(end_those_with(&path).await.unwrap(), 1);
        assert!(meant.try_wait().unwrap().is_some());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
