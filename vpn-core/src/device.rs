//! Packets to and from the operating system.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::packet::PacketBatch;
use crate::verdict::DropCounters;

/// What a device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceCapabilities {
    /// Largest IP packet on the wire, in bytes.
    pub mtu: u16,
    /// Whether the device yields and takes super-packets (GSO) and packets whose transport
    /// checksum is only a pseudo-header sum.
    pub offload: bool,
    /// Largest packet it yields or takes, in bytes: the MTU without offload, up to 65,535 with it.
    pub max_packet: u32,
}

impl DeviceCapabilities {
    /// A device without offload.
    pub const fn plain(mtu: u16) -> Self {
        Self {
            mtu,
            offload: false,
            max_packet: mtu as u32,
        }
    }

    /// The same device with offload: super-packets of up to 65,535 bytes.
    #[must_use]
    pub const fn with_offload(mut self) -> Self {
        self.offload = true;
        self.max_packet = u16::MAX as u32;
        self
    }
}

/// Why a device does not work any more. One bad packet is not such a reason: it is counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device was shut down, by us or by the system. Make a new one.
    #[error("the device is closed")]
    Closed,
    /// The system reports an error that is not about one packet.
    #[error("the device failed")]
    Io(#[from] std::io::Error),
}

/// A virtual network interface: the IP packets of this machine's applications.
///
/// # Contract
///
/// * **Batches.** [`try_recv`](Self::try_recv) appends what is there until the batch is full and
///   returns how many it appended; `0` means "nothing now". Buffers come from the batch's pool.
/// * **Sending.** [`try_send`](Self::try_send) removes packets from the front, in order, until the
///   device takes no more; what is left is the caller's. A packet that the system refuses is
///   removed and counted in `drops`, and its batch-mates go on. It returns how many were sent.
/// * **Readiness.** [`readable`](Self::readable) and [`writable`](Self::writable) are cancel-safe
///   and may wake spuriously. They hold no packet.
/// * **Close.** After [`shutdown`](Self::shutdown), which is idempotent and never fails, every
///   pending and later call returns [`DeviceError::Closed`].
///
/// # Example
///
/// The manual has a complete implementation: [`crate::manual::own_device`].
#[async_trait]
pub trait TunDevice: Debug + Send + Sync {
    /// What it can do. Constant while the device lives, but for the MTU.
    fn capabilities(&self) -> DeviceCapabilities;

    /// Appends packets that applications sent.
    ///
    /// # Errors
    ///
    /// Those of the device as a whole, as everywhere here: [`DeviceError`]. What was appended
    /// before stays in the batch.
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError>;

    /// Delivers packets to applications.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]; what was not sent stays in the batch.
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError>;

    /// Waits until `try_recv` may yield packets.
    async fn readable(&self) -> Result<(), DeviceError>;

    /// Waits until `try_send` may take packets.
    async fn writable(&self) -> Result<(), DeviceError>;

    /// Closes the device.
    fn shutdown(&self);
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        impl<T: TunDevice + ?Sized> TunDevice for $pointer {
            fn capabilities(&self) -> DeviceCapabilities {
                (**self).capabilities()
            }
            fn try_recv(
                &self,
                batch: &mut PacketBatch,
                drops: &mut DropCounters,
            ) -> Result<usize, DeviceError> {
                (**self).try_recv(batch, drops)
            }
            fn try_send(
                &self,
                batch: &mut PacketBatch,
                drops: &mut DropCounters,
            ) -> Result<usize, DeviceError> {
                (**self).try_send(batch, drops)
            }
            async fn readable(&self) -> Result<(), DeviceError> {
                (**self).readable().await
            }
            async fn writable(&self) -> Result<(), DeviceError> {
                (**self).writable().await
            }
            fn shutdown(&self) {
                (**self).shutdown()
            }
        }
    )*};
}
forward!(Arc<T>, Box<T>);

/// A device on which nothing ever arrives and which swallows what it is sent: for nodes that
/// only relay.
#[derive(Debug, Default)]
pub struct NoDevice {
    closed: std::sync::atomic::AtomicBool,
    waiters: tokio::sync::Notify,
}

impl NoDevice {
    fn check(&self) -> Result<(), DeviceError> {
        if self.closed.load(std::sync::atomic::Ordering::Acquire) {
            return Err(DeviceError::Closed);
        }
        Ok(())
    }
}

#[async_trait]
impl TunDevice for NoDevice {
    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::plain(1500)
    }
    fn try_recv(&self, _: &mut PacketBatch, _: &mut DropCounters) -> Result<usize, DeviceError> {
        self.check().map(|()| 0)
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.check()?;
        let sent = batch.len();
        batch.clear();
        Ok(sent)
    }
    async fn readable(&self) -> Result<(), DeviceError> {
        let closed = self.waiters.notified();
        self.check()?;
        closed.await;
        Err(DeviceError::Closed)
    }
    async fn writable(&self) -> Result<(), DeviceError> {
        self.check()
    }
    fn shutdown(&self) {
        self.closed
            .store(true, std::sync::atomic::Ordering::Release);
        self.waiters.notify_waiters();
    }
}
