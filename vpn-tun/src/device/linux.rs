//! Touches the TUN descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use tokio::sync::watch;
use tun_rs::{AsyncDevice, DeviceBuilder};
use vpn_core::device::{DeviceCapabilities, DeviceError};
use vpn_core::packet::PacketBatch;
use vpn_core::{DropCounters, TunDevice};

use super::{TunConfig, TunError, moving, proof, runtime, sys, vnet};
use crate::name::InterfaceName;

/// Most queues of a device: the kernel's own bound (`MAX_TAP_QUEUES`).
pub const MAX_QUEUES: u16 = 256;

/// A TUN device of Linux. See [`TunDevice`] for the contract.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use vpn_tun::{LinuxTun, TunConfig};
/// let tun = LinuxTun::create(TunConfig::named("vpn0".parse()?).mtu(1420))?;
/// println!("made {}", tun.name());
/// # Ok(())
/// # }
/// ```
pub struct LinuxTun {
    // Taken out at shutdown, so that the descriptor closes as soon as the last wait has woken.
    device: RwLock<Option<Arc<AsyncDevice>>>,
    closed: watch::Sender<bool>,
    name: InterfaceName,
    index: u32,
    mtu: AtomicU16,
    /// Each packet has its offload description in front (`IFF_VNET_HDR`).
    described: bool,
}

impl LinuxTun {
    /// Makes a device, down and without addresses: [`crate::Applier`] brings it up.
    ///
    /// It lives in the network namespace of the calling thread and goes when it is dropped, shut
    /// down, or the process dies.
    ///
    /// # Errors
    ///
    /// See [`TunError`]; nothing is left behind.
    pub fn create(config: TunConfig) -> Result<Self, TunError> {
        Self::make(config, false)
    }

    /// Makes a device with several queues, each a device to its reader: one per worker. The
    /// interface goes when the last of them is closed.
    ///
    /// The kernel keeps the order of every flow: all packets of one come out of one queue, which it
    /// chooses by the flow's hash, until an answer is written to another queue. It then moves the
    /// flow there, so a worker that answers on its own queue keeps its flows.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); also [`TunError::Unsupported`] for more than [`MAX_QUEUES`].
    pub fn create_queues(config: TunConfig, queues: NonZeroU16) -> Result<Vec<Self>, TunError> {
        if queues.get() > MAX_QUEUES {
            return Err(TunError::Unsupported("more than 256 queues"));
        }
        let first = Self::make(config, true)?;
        let device = first.device().map_err(|closed| TunError::Io {
            doing: "use the device",
            cause: io::Error::other(closed),
        })?;
        let more = (1..queues.get()).map(|_| {
            let queue = device.try_clone().map_err(|cause| TunError::Io {
                doing: "make another queue of the device",
                cause,
            })?;
            Self::wrap(queue, first.described)
        });
        let more: Vec<Self> = more.collect::<Result<_, _>>()?;
        drop(device);
        Ok(std::iter::once(first).chain(more).collect())
    }

    fn make(config: TunConfig, several: bool) -> Result<Self, TunError> {
        runtime()?;
        let offload = config.offload && proof::offload_works();
        let mut builder = DeviceBuilder::new()
            .mtu(config.mtu)
            .offload(offload)
            .multi_queue(several)
            .enable(false);
        if let Some(name) = &config.name {
            // The kernel would attach to somebody's persistent TUN without a word.
            if sys::index_of(name.as_str()).is_some() {
                return Err(TunError::NameInUse(name.clone()));
            }
            builder = builder.name(name.as_str());
        }
        let device = builder
            .build_async()
            .map_err(|cause| creation_error(cause, config.name))?;
        match device.set_tx_queue_len(config.queue_len) {
            // Root of a user namespace may make a device but not this: the kernel's own length
            // drops a little earlier under load.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::debug!("the kernel's queue keeps its own length");
            }
            set => set.map_err(|cause| TunError::Io {
                doing: "set the length of the device's queue",
                cause,
            })?,
        }
        Self::wrap(device, offload)
    }

    /// Takes over a TUN that somebody else opened: Android's `VpnService`, a privileged parent.
    /// It must carry plain IP packets (`IFF_NO_PI`, no `IFF_VNET_HDR`).
    ///
    /// # Errors
    ///
    /// [`TunError::NotTun`] if it is something else. The descriptor is closed in any case of error.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TunError> {
        runtime()?;
        Self::wrap(sys::adopt(fd).map_err(TunError::NotTun)?, false)
    }

    /// Its name.
    pub const fn name(&self) -> &InterfaceName {
        &self.name
    }

    /// Its interface index.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Whether it was made with offload.
    pub const fn has_offload(&self) -> bool {
        self.described
    }

    /// Switches offload off or on again while the device runs, if it was made with it: from here on
    /// the kernel cuts what applications send, and completes every checksum. Super-packets that
    /// are under way still come; those that are written are taken as before.
    ///
    /// # Errors
    ///
    /// [`TunError::Unsupported`] if it was made without, [`TunError::Io`] if the kernel refuses or
    /// the device is closed.
    pub fn set_offload(&self, on: bool) -> Result<(), TunError> {
        if !self.described {
            return Err(TunError::Unsupported("offload of a device made without"));
        }
        let io = |cause| TunError::Io {
            doing: "switch the device's offload",
            cause,
        };
        let device = self
            .device()
            .map_err(|closed| io(io::Error::other(closed)))?;
        sys::set_offload(device.as_fd(), on).map_err(io)
    }

    /// Tells the device that its MTU was changed (by an applied plan), for
    /// [`capabilities`](TunDevice::capabilities).
    pub fn mtu_changed(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    fn wrap(device: AsyncDevice, described: bool) -> Result<Self, TunError> {
        let io = |doing| move |cause| TunError::Io { doing, cause };
        let name = device.name().map_err(io("read the name of the device"))?;
        let name = InterfaceName::new(name)
            .map_err(|e| io("use the name of the device")(io::Error::other(e)))?;
        Ok(Self {
            index: device
                .if_index()
                .map_err(io("read the index of the device"))?,
            mtu: AtomicU16::new(device.mtu().map_err(io("read the MTU of the device"))?),
            name,
            described,
            device: RwLock::new(Some(Arc::new(device))),
            closed: watch::Sender::new(false),
        })
    }

    fn device(&self) -> Result<Arc<AsyncDevice>, DeviceError> {
        let device = self.device.read().unwrap_or_else(PoisonError::into_inner);
        device.clone().ok_or(DeviceError::Closed)
    }

    /// Resolves when the device is shut down.
    async fn closed(&self) -> DeviceError {
        // The sender is ours, so waiting ends only with the value.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
        DeviceError::Closed
    }
}

#[async_trait]
impl TunDevice for LinuxTun {
    fn capabilities(&self) -> DeviceCapabilities {
        let plain = DeviceCapabilities::plain(self.mtu.load(Ordering::Relaxed));
        match self.described {
            true => plain.with_offload(),
            false => plain,
        }
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        let device = self.device()?;
        if !self.described {
            return moving::receive(batch, |into| device.try_recv(into));
        }
        moving::receive_described(batch, drops, |header, into| {
            let mut parts = [IoSliceMut::new(header), IoSliceMut::new(into)];
            device.try_recv_vectored(&mut parts)
        })
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        let device = self.device()?;
        moving::send(batch, drops, |packet| {
            if !self.described {
                return moving::plainly(packet, |bytes| device.try_send(bytes));
            }
            let header = vnet::write(packet).ok_or(io::ErrorKind::InvalidInput)?;
            let parts = [IoSlice::new(&header), IoSlice::new(packet.bytes())];
            device.try_send_vectored(&parts).map(drop)
        })
    }

    async fn readable(&self) -> Result<(), DeviceError> {
        let device = self.device()?;
        tokio::select! {
            biased;
            // First, for under load it is ready at once.
            ready = device.readable() => Ok(ready?),
            closed = self.closed() => Err(closed),
        }
    }

    async fn writable(&self) -> Result<(), DeviceError> {
        let device = self.device()?;
        tokio::select! {
            biased;
            // First, for under load it is ready at once.
            ready = device.writable() => Ok(ready?),
            closed = self.closed() => Err(closed),
        }
    }

    fn shutdown(&self) {
        self.device
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.closed.send_replace(true);
    }
}

impl std::fmt::Debug for LinuxTun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinuxTun")
            .field("name", &self.name.as_str())
            .field("index", &self.index)
            .field("closed", &*self.closed.borrow())
            .finish()
    }
}

fn creation_error(cause: io::Error, name: Option<InterfaceName>) -> TunError {
    match (cause.raw_os_error(), name) {
        (Some(libc::EBUSY | libc::EEXIST), Some(name)) => TunError::NameInUse(name),
        (Some(libc::EPERM | libc::EACCES), _) => TunError::Permission(cause),
        (Some(libc::ENOENT | libc::ENODEV | libc::ENXIO), _) => TunError::NoDriver(cause),
        _ => TunError::Io {
            doing: "make the device",
            cause,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_permission_says_what_to_do() {
        let error = creation_error(io::Error::from_raw_os_error(libc::EPERM), None);
        assert!(matches!(error, TunError::Permission(_)));
        assert!(error.to_string().contains("CAP_NET_ADMIN"));
    }

    #[test]
    fn a_runtime_is_required() {
        assert!(matches!(
            LinuxTun::create(TunConfig::default()),
            Err(TunError::NoRuntime)
        ));
    }
}
