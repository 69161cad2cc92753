//! Addresses on the device.
