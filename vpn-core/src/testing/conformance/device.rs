//! The suite of [`TunDevice`].

use async_trait::async_trait;

use super::clause::{Checked, Clause, Suite, Violation};
use super::far_end::FarEnd;
use super::line::{Fault, Line, Pipe};
use crate::device::{DeviceError, TunDevice};
use crate::packet::PacketBatch;
use crate::verdict::DropCounters;

const SUITE: Suite = Suite("TunDevice");

/// A device, and the applications behind it.
pub trait DeviceFixture: FarEnd {
    /// The device.
    fn device(&self) -> &dyn TunDevice;
}

/// Checks a device. `make` makes a fresh one for each clause.
///
/// # Errors
///
/// The first clause that is broken.
pub async fn tun_device<F: DeviceFixture>(make: impl AsyncFn() -> F) -> Result<(), Violation> {
    // One at a time: each is gone before the next is made.
    capabilities(make().await.device())?;
    line(&make().await).receives_in_order().await?;
    line(&make().await).wakes_who_waits_for_packets().await?;
    line(&make().await).readable_is_cancel_safe().await?;
    line(&make().await).sends_and_counts().await?;
    line(&make().await).leaves_the_rest().await?;
    line(&make().await).closes().await
}

fn capabilities(device: &dyn TunDevice) -> Checked {
    let first = device.capabilities();
    let plausible = first.mtu > 0 && first.max_packet >= u32::from(first.mtu);
    let same = device.capabilities() == first;
    SUITE.check(plausible && same, Clause::Capabilities, || {
        format!("it says {first:?}, then {:?}", device.capabilities())
    })
}

fn line<F: DeviceFixture>(fixture: &F) -> Line<'_> {
    let device = fixture.device();
    Line {
        suite: SUITE,
        pipe: Box::new(device),
        far: fixture,
        largest: device.capabilities().max_packet as usize,
    }
}

#[async_trait]
impl Pipe for &(dyn TunDevice + '_) {
    fn try_recv(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> Result<usize, Fault> {
        (**self).try_recv(batch, drops).map_err(fault)
    }
    fn try_send(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> Result<usize, Fault> {
        (**self).try_send(batch, drops).map_err(fault)
    }
    async fn readable(&self) -> Result<(), Fault> {
        (**self).readable().await.map_err(fault)
    }
    async fn writable(&self) -> Result<(), Fault> {
        (**self).writable().await.map_err(fault)
    }
    async fn close(&self) {
        self.shutdown();
    }
}

fn fault(error: DeviceError) -> Fault {
    match error {
        DeviceError::Closed => Fault::Closed,
        other => Fault::Other(other.to_string()),
    }
}
