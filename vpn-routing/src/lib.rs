//! Routes many tunnels on one interface: addresses, rules per app, owners of flows.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod alloc;
pub mod owner;
pub mod rules;
pub mod source;
