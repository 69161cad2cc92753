//! The manual: how to implement the traits, how to tune, what to do when it does not work.
//!
//! | Page | For |
//! |---|---|
//! | [`own_device`] | packets from somewhere else than a kernel TUN |
//! | [`own_transport`] | a tunnel protocol of your own |
//! | [`own_rule_source`] | rules from your own store |
//! | [`conformance`] | whether your implementation keeps the contract |
//! | [`tuning`] | batch sizes, buffers, offload |
//! | [`troubleshooting`] | symptoms, and where to look |

pub mod conformance;
pub mod own_device;
pub mod own_rule_source;
pub mod own_transport;
pub mod troubleshooting;
pub mod tuning;
