//! What the machine allows: root, or a user namespace in which we are root; and the programs.

use std::fs;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::error::LabError;

/// Becomes root of a new user namespace, with the caller's own user and group as the only ones
/// mapped. Processes keep the caller's rights on files; inside network namespaces made afterwards
/// everything is allowed.
///
/// Call it first in `main`: the kernel refuses once the process has a second thread, and libtest
/// has one before any test starts, so a test that needs this sets `harness = false`.
pub fn enter_user_namespace() -> Result<(), LabError> {
    let (uid, gid) = (geteuid(), getegid());
    let fail = |step| move |cause| LabError::UserNamespace { step, cause };
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| fail("making it")(errno.into()))?;
    // Without this an unprivileged process may not write its group map (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").map_err(fail("denying setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(fail("mapping the user"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(fail("mapping the group"))
}

/// What this machine lacks for a lab that uses `programs`, as a sentence to print before skipping;
/// `None` if it lacks nothing.
pub fn missing(programs: &[&str]) -> Option<String> {
    if !geteuid().is_root() {
        return Some("not root (run as root, or inside a user namespace)".to_owned());
    }
    let absent: Vec<&str> = ["ip"]
        .iter()
        .chain(programs)
        .copied()
        .filter(|program| !installed(program))
        .collect();
    if !absent.is_empty() {
        return Some(format!("not installed: {}", absent.join(", ")));
    }
    if !Path::new("/proc/sys/net/ipv6").is_dir() {
        return Some("IPv6 is switched off in this kernel".to_owned());
    }
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    opened
        .err()
        .map(|cause| format!("/dev/net/tun cannot be opened: {cause}"))
}

/// For the first line of a test: whether it has to be skipped because this machine lacks something
/// for a lab that uses `programs`; prints what.
///
/// # Panics
///
/// Instead of skipping, if the environment has `VPN_LAB_REQUIRED=1`: where labs must run, as in CI,
/// a skipped test is a failed one.
#[allow(
    clippy::panic,
    clippy::print_stdout,
    reason = "it speaks to whoever runs the tests"
)]
pub fn skip(programs: &[&str]) -> bool {
    match missing(programs) {
        None => false,
        Some(reason) if std::env::var_os("VPN_LAB_REQUIRED").is_some_and(|value| value == "1") => {
            panic!("this test must not be skipped here: {reason}")
        }
        Some(reason) => {
            println!("SKIPPED: {reason}");
            true
        }
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|folder| Path::new(folder).join(program).is_file())
}
