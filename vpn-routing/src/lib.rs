//! Many tunnels on one interface: which tunnel a packet belongs to, and what it looks like there.
//!
//! Every flow belongs to an application; a rule says which tunnel that application uses; the packet
//! leaves with the address that *that* tunnel was assigned, and answers come back only through it,
//! also when every provider hands out the identical address.
//!
//! | Module | What it decides |
//! |---|---|
//! | [`alloc`] | which addresses are on the device, and who shares them |
//! | [`rules`] | which tunnel a flow's rule names; the cache that swaps rules whole |
//! | [`source`] | where rules come from: fixed, SQLite |
//! | [`owner`] | which application a flow belongs to: a table, Linux |
//! | [`group`] | which member of a group of tunnels a flow uses |
//! | [`fragment`] | which flow a fragment belongs to |
//! | [`filter`] | what may not pass all the same |
//! | [`nat`] | which address and port a flow has in its tunnel |
//! | [`routes`] | behind which tunnel a destination lies, of the routes that policy admits |
//! | [`conn`] | the connection table: both directions of every flow, bounded |
//! | [`dns`] | which query an answer belongs to; the names of addresses |
//! | [`router`] | all of it put together: a pure state machine of six verbs |
//! | `engine` | the thin shell that drives the router on tokio (feature `tokio`) |
//! | [`manual`] | how-tos, tuning, troubleshooting |
//!
//! # Features
//!
//! | Feature | Default | Adds |
//! |---|---|---|
//! | `tokio` | no | the `engine`, and the task that follows a rule source |
//! | `sqlite` | no | rules in an SQLite file |
//! | `etcd` | no | rules in etcd, and `toml`; `protoc` to build it |
//! | `linux-owner` | no | owners from sock_diag and /proc |
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod alloc;
pub mod conn;
pub mod dns;
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub mod engine;
pub mod filter;
pub mod fragment;
pub mod group;
pub mod manual;
pub mod nat;
pub mod owner;
pub mod router;
pub mod routes;
pub mod rules;
pub mod source;

pub use router::{Router, RouterConfig};
