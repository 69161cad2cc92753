//! What hub and member are asked, and what tells them to end.

use serde::{Deserialize, Serialize};
pub(crate) use vpn_examples::signals::Signals;

/// What a control socket is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How do you stand?
    Status,
    /// Connect with this peer (its key), whether there is a packet for it or not.
    Connect(crate::config::Key),
}
