//! The manual: how to implement the traits.

/// How to implement a device.
pub mod own_device {}
/// How to implement a transport.
pub mod own_transport {}
