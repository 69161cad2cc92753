//! Namespaces: makes this process root of a small machine of its own.

use std::fs::{self, OpenOptions};
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::error::{Doing, StepError};

/// Moves this process into a new network namespace: as root directly, otherwise inside a new user
/// namespace, in which the caller is root over that network and over nothing else. Returns what
/// was made.
///
/// Call it before the process has a second thread: the kernel refuses a user namespace then, and
/// a network namespace would be that of one thread only. After an error the process can go on,
/// but for the network.
pub(crate) fn enter() -> Result<&'static str, StepError> {
    // Asked first: nothing else is any use without it.
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .doing("open /dev/net/tun")?;
    if geteuid().is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok("network namespaces");
    }
    enter_user_namespace().doing("make a user namespace")?;
    unshare(CloneFlags::CLONE_NEWNET).doing("make a network namespace")?;
    Ok("user and network namespaces")
}

/// Another network namespace, for the calling thread alone.
pub(crate) fn leave_alone() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // Without this an unprivileged process may not write its group map (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}
