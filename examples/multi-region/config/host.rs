//! What is made on this host: `[interface]`, `[control]`, the way past the tunnels, what is left at the end.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vpn_routing::engine::MAX_WORKERS;

use super::value::Count;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnExit {
    #[default]
    Block,
    Open,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direct {
    #[default]
    Auto,
    Always,
    Never,
}

/// `[interface]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Interface {
    /// Name of the interface. Default `vpn0`.
    pub(crate) name: String,
    /// Its MTU in bytes. Default none: that of the widest tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<Count<1280, 65_535>>,
    /// Whether the kernel hands over what apps send at once as one packet of up to 64 KiB. Default
    /// `auto`; buffers for such packets are forty times as large.
    pub(crate) offload: Offload,
    /// Workers, each with a queue of the interface and tunnels of its own. Default 1; more than one
    /// per core do not pay.
    pub(crate) workers: Count<1, MAX_WORKERS>,
}

/// `interface.offload`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Offload {
    /// If a self-test shows that this kernel does it right.
    #[default]
    Auto,
    Off,
}

impl Default for Interface {
    fn default() -> Self {
        Self {
            name: "vpn0".to_owned(),
            mtu: None,
            offload: Offload::Auto,
            workers: Count(1),
        }
    }
}

/// `[control]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Control {
    /// Path of the control socket, 0600. Default `multi-region.sock`.
    pub(crate) socket: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("multi-region.sock"),
        }
    }
}
