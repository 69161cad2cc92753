//! Peers and transports of the VPN SDK.
//!
//! Without features there is only this page and the [`manual`].
#![cfg_attr(
    feature = "wireguard",
    doc = "
| Module | What it does |
|---|---|
| [`wg_quick`] | reads the provider's `wg-quick` file, unchanged |
| [`session`] | what one peer's cryptography does, without sockets |
| [`wireguard`] | [`WireGuardTransport`]: a tunnel to a provider, or a server for clients |
| [`manual`] | how-tos, tuning, troubleshooting |
"
)]
//!
#![cfg_attr(
    feature = "directory",
    doc = "
| Module | What it does |
|---|---|
| [`identity`] | who a node is: an Ed25519 key |
| [`directory`] | who is where: signed records, claims of addresses, and directories of them |
"
)]
//!
#![cfg_attr(
    feature = "streams",
    doc = "
| Module | What it does |
|---|---|
| [`streams`] | packets over byte streams: a dispatcher, a pool per peer, a tunnel over them |
"
)]
//!
#![cfg_attr(
    feature = "libp2p",
    doc = "
| Module | What it does |
|---|---|
| [`mod@libp2p`] | peers without a hub: found by a DHT, reached by QUIC, TCP, relays and punched holes |
"
)]
//!
#![cfg_attr(
    feature = "mesh",
    doc = "
| Module | What it does |
|---|---|
| [`mesh`] | peers that find each other through a hub, directly through NATs or relayed |
"
)]
//!
//! # Features
//!
//! | Feature | Default | Adds |
//! |---|---|---|
//! | `directory` | no | `identity` and `directory`: who is where; ed25519-dalek, tokio |
//! | `etcd` | no | `directory::etcd`: a directory over etcd; etcd-client, `protoc` to build it |
//! | `libp2p` | no | `directory`, `streams` and `libp2p`: peers without a hub; libp2p, 230 crates |
//! | `mesh` | no | `directory`, `streams`, `wireguard`, and `mesh`: a mesh of peers through NATs; ed25519-dalek, rustls |
//! | `streams` | no | `streams`: packets over byte streams; tokio |
//! | `testing` | no | with `mesh`: its test doubles |
//! | `wireguard` | no | `wg_quick`, `session` and `wireguard`; gotatun (MPL-2.0), ring, quinn-udp, tokio |
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "directory")]
#[cfg_attr(docsrs, doc(cfg(feature = "directory")))]
pub mod directory;
#[cfg(any(feature = "mesh", feature = "libp2p"))]
#[cfg_attr(
    not(feature = "mesh"),
    allow(
        dead_code,
        reason = "who asks a directory drops what waits when it gives up, not by age"
    )
)]
mod held;
#[cfg(feature = "directory")]
#[cfg_attr(docsrs, doc(cfg(feature = "directory")))]
pub mod identity;
#[cfg(feature = "libp2p")]
#[cfg_attr(docsrs, doc(cfg(feature = "libp2p")))]
pub mod libp2p;
pub mod manual;
#[cfg(feature = "mesh")]
#[cfg_attr(docsrs, doc(cfg(feature = "mesh")))]
pub mod mesh;
#[cfg(feature = "wireguard")]
#[cfg_attr(docsrs, doc(cfg(feature = "wireguard")))]
pub mod session;
#[cfg(feature = "streams")]
#[cfg_attr(docsrs, doc(cfg(feature = "streams")))]
pub mod streams;
#[cfg(feature = "wireguard")]
#[cfg_attr(docsrs, doc(cfg(feature = "wireguard")))]
pub mod wg_quick;
#[cfg(feature = "wireguard")]
#[cfg_attr(docsrs, doc(cfg(feature = "wireguard")))]
pub mod wireguard;

#[cfg(feature = "wireguard")]
pub use wg_quick::WgQuick;
#[cfg(feature = "wireguard")]
pub use wireguard::{WireGuardOptions, WireGuardTransport};

/// The README's example is compiled too.
#[cfg(all(doctest, feature = "wireguard"))]
#[doc = include_str!("../README.md")]
struct Readme;
