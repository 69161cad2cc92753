//! Makes a TUN with the defaults.

use vpn_tun::{InterfaceName, LinuxTun, TunConfig};

use crate::error::{Doing, StepError};

/// A device of this name in the namespace of the calling thread.
pub(crate) fn make(name: &str) -> Result<LinuxTun, StepError> {
    let interface: InterfaceName = name.parse().doing("name a device")?;
    LinuxTun::create(TunConfig::named(interface)).doing("make a device")
}
