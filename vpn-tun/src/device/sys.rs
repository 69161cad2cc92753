//! Touches raw descriptors: the only unsafe code of the device.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

use tun_rs::AsyncDevice;

/// Takes over the descriptor of a TUN device.
pub(super) fn adopt(fd: OwnedFd) -> io::Result<AsyncDevice> {
    let raw = fd.into_raw_fd();
    // SAFETY: `raw` came out of an `OwnedFd`, so it is open and nobody else closes it; the device
    // owns it from here on and closes it, also when it refuses it. That it is a TUN is checked by
    // TUNGETIFF; framing other than IFF_NO_PI yields malformed packets, not undefined behaviour.
    unsafe { AsyncDevice::from_fd(raw) }
}

/// The index of the interface of this name in the calling thread's network namespace.
pub(crate) fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a NUL-terminated string that lives until the call returns.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}
