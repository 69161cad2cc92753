//! Touches raw descriptors: the only unsafe code of the device.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
#[cfg(target_os = "linux")]
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;
#[cfg(target_os = "linux")]
use tun_rs::AsyncDevice;

/// Makes a descriptor non-blocking and has the runtime wait for it.
pub(super) fn register(file: File) -> io::Result<AsyncFd<File>> {
    let fd = file.as_raw_fd();
    // SAFETY: `file` keeps the descriptor open over both calls; they take and give flags only.
    let set = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 {
            flags
        } else {
            libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
        }
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the file owns its descriptor and is moved in, so it stays open, and the same, until
    // it is dropped together with its registration.
    Ok(unsafe { AsyncFd::register(file) }?)
}

/// Takes over the descriptor of a TUN device.
#[cfg(target_os = "linux")]
pub(super) fn adopt(fd: OwnedFd) -> io::Result<AsyncDevice> {
    let raw = fd.into_raw_fd();
    // SAFETY: `raw` came out of an `OwnedFd`, so it is open and nobody else closes it; the device
    // owns it from here on and closes it, also when it refuses it. That it is a TUN is checked by
    // TUNGETIFF; framing other than IFF_NO_PI yields malformed packets, not undefined behaviour.
    unsafe { AsyncDevice::from_fd(raw) }
}

/// The index of the interface of this name in the calling thread's network namespace.
#[cfg(target_os = "linux")]
pub(crate) fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a NUL-terminated string that lives until the call returns.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Says what the kernel may leave undone in packets it hands over (`TUNSETOFFLOAD`): everything, or
/// nothing.
#[cfg(target_os = "linux")]
pub(super) fn set_offload(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let set = |flags: libc::c_uint| {
        // SAFETY: the descriptor is open while it is borrowed; the argument is a number.
        let result = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(flags),
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    match on {
        // UDP since Linux 6.2.
        true => set(tcp | udp).or_else(|_| set(tcp)),
        false => set(0),
    }
}

/// Moves the calling thread into a new network namespace, which goes with it.
#[cfg(target_os = "linux")]
pub(super) fn leave_network() -> io::Result<()> {
    // SAFETY: no memory is touched; only this thread's namespace changes.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
