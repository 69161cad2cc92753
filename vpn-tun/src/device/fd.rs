//! Touches the descriptor of a TUN device that somebody else opened.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use vpn_core::device::{DeviceCapabilities, DeviceError};
use vpn_core::packet::PacketBatch;
use vpn_core::{DropCounters, TunDevice};

use super::{TunError, moving, runtime, sys};

/// A TUN device by its descriptor alone: Android's `VpnService.establish`, a privileged parent.
///
/// It asks the descriptor nothing but packets, so it works where the interface may not be looked
/// at. The descriptor carries plain IP packets (`IFF_NO_PI`, no `IFF_VNET_HDR`).
///
/// The descriptor is closed once, when the device is shut down or dropped and the last call that
/// uses it has returned: no number is ever used again by somebody else while a call still means
/// this device. It is made non-blocking; copies share that, so nobody else should read them.
///
/// ```no_run
/// # async fn example(established: std::os::fd::OwnedFd) -> Result<(), vpn_tun::TunError> {
/// // `detachFd` of Android's `ParcelFileDescriptor` hands the number over for good.
/// let tun = vpn_tun::FdTun::owned(established, 1420)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FdTun {
    // Taken out at shutdown, so that the descriptor closes as soon as the last wait has woken.
    fd: RwLock<Option<Arc<AsyncFd<File>>>>,
    closed: watch::Sender<bool>,
    mtu: AtomicU16,
}

impl FdTun {
    /// Takes a descriptor over, and closes it in the end. `mtu` is what the interface was
    /// established with, in bytes.
    ///
    /// # Errors
    ///
    /// [`TunError::NoRuntime`], and [`TunError::Io`] if the descriptor cannot be waited for. It is
    /// closed in any case of error.
    pub fn owned(fd: OwnedFd, mtu: u16) -> Result<Self, TunError> {
        runtime()?;
        let fd = sys::register(File::from(fd)).map_err(|cause| TunError::Io {
            doing: "wait for the descriptor of the device",
            cause,
        })?;
        Ok(Self {
            fd: RwLock::new(Some(Arc::new(fd))),
            closed: watch::Sender::new(false),
            mtu: AtomicU16::new(mtu),
        })
    }

    /// Uses a copy of a descriptor that stays its owner's. The interface lives as long as any copy:
    /// it goes only once the owner has closed too.
    ///
    /// # Errors
    ///
    /// As [`owned`](Self::owned), and [`TunError::Io`] if it cannot be copied.
    pub fn borrowed(fd: BorrowedFd<'_>, mtu: u16) -> Result<Self, TunError> {
        let copy = fd.try_clone_to_owned().map_err(|cause| TunError::Io {
            doing: "copy the descriptor of the device",
            cause,
        })?;
        Self::owned(copy, mtu)
    }

    /// Tells the device that its interface has another MTU, in bytes.
    pub fn mtu_changed(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    fn fd(&self) -> Result<Arc<AsyncFd<File>>, DeviceError> {
        let fd = self.fd.read().unwrap_or_else(PoisonError::into_inner);
        fd.clone().ok_or(DeviceError::Closed)
    }

    /// Resolves when the device is shut down.
    async fn closed(&self) -> DeviceError {
        // The sender is ours, so waiting ends only with the value.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
        DeviceError::Closed
    }
}

/// Nothing to read is the end of a device whose interface is gone.
fn read(mut file: &File, into: &mut [u8]) -> io::Result<usize> {
    match file.read(into)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => Ok(length),
    }
}

#[async_trait]
impl TunDevice for FdTun {
    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::plain(self.mtu.load(Ordering::Relaxed))
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        let fd = self.fd()?;
        moving::receive(batch, |into| {
            fd.try_io(Interest::READABLE, |file| read(file, into))
        })
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        let fd = self.fd()?;
        moving::send(batch, drops, |packet| {
            moving::plainly(packet, |bytes| {
                fd.try_io(Interest::WRITABLE, |mut file| file.write(bytes))
            })
        })
    }

    async fn readable(&self) -> Result<(), DeviceError> {
        let fd = self.fd()?;
        tokio::select! {
            biased;
            closed = self.closed() => Err(closed),
            ready = fd.readable() => {
                ready?.retain_ready();
                Ok(())
            }
        }
    }

    async fn writable(&self) -> Result<(), DeviceError> {
        let fd = self.fd()?;
        tokio::select! {
            biased;
            closed = self.closed() => Err(closed),
            ready = fd.writable() => {
                ready?.retain_ready();
                Ok(())
            }
        }
    }

    fn shutdown(&self) {
        self.fd
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.closed.send_replace(true);
    }
}
