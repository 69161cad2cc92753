//! What is asked of a daemon, and what ends it.

use serde::{Deserialize, Serialize};
pub(crate) use vpn_examples::signals::Signals;

/// What a control socket is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How do you stand?
    Status,
}
