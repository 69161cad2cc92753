//! Makes a TUN, also inside a user namespace.

use std::os::fd::AsFd;

use tun_rs::DeviceBuilder;
use vpn_tun::{InterfaceName, LinuxTun, TunConfig, TunError};

use crate::error::{Doing, StepError};

/// A device of this name in the namespace of the calling thread.
pub(crate) fn make(name: &str) -> Result<LinuxTun, StepError> {
    let interface: InterfaceName = name.parse().doing("name a device")?;
    match LinuxTun::create(TunConfig::named(interface)) {
        // Of all that making a device takes, only setting the length of its queue asks for rights
        // over the whole machine (SIOCSIFTXQLEN), which root of a user namespace has not.
        Err(TunError::Permission(_)) => with_plain_queue(name),
        made => made.doing("make a device"),
    }
}

/// A device with the kernel's own length of the queue, handed over by its descriptor.
fn with_plain_queue(name: &str) -> Result<LinuxTun, StepError> {
    let mtu = TunConfig::default().mtu;
    let device = DeviceBuilder::new()
        .name(name)
        .mtu(mtu)
        .enable(false)
        .build_sync();
    let device = device.doing("make a device")?;
    let descriptor = device.as_fd().try_clone_to_owned().doing("make a device")?;
    LinuxTun::from_fd(descriptor).doing("make a device")
}
