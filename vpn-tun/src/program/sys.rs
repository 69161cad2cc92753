//! Touches processes: the only unsafe code of running other programs.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

/// Has the kernel end the program when the thread that starts it is gone: what a killed daemon had
/// begun is not finished after somebody has begun to undo it.
pub(super) fn end_with_us(command: &mut Command) {
    let parent = std::process::id();
    let bind = move || {
        // SAFETY: prctl with these arguments reads no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: getppid has no arguments and always succeeds.
        let now = unsafe { libc::getppid() };
        // Gone in between: nobody would send the signal any more.
        if u32::try_from(now) == Ok(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls, which are safe there
    // (signal-safety(7)), and allocates nothing.
    unsafe {
        command.pre_exec(bind);
    }
}

/// A handle to a running process, which stays its own whoever has the number later.
pub(super) fn handle(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: pidfd_open reads no memory.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    match i32::try_from(result) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same handle, which is readable once its process has ended (pidfd_open(2)).
pub(super) fn watched(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the handle owns its descriptor and is moved in, so it stays open, and the same, until
    // it is dropped together with its registration.
    Ok(unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?)
}

/// Sends a signal to the process of a handle.
pub(super) fn signal(process: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: the handle is open as long as it is borrowed, and no signal information is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
