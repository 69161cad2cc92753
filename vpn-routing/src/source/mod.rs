//! Where rules come from: sources that implement [`RuleSource`](vpn_core::RuleSource).
//!
//! | Source | Feature | Changes |
//! |---|---|---|
//! | `StaticRules` | `tokio` | by `set`, in this process |
//! | `SqliteRules` | `sqlite` | by any process that writes the file |
//!
//! A source is brought into force by `rules::RuleFeed`.

#[cfg(feature = "tokio")]
mod fixed;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use fixed::StaticRules;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{BUSY_TIMEOUT, POLL_EVERY, SCHEMA_VERSION, SqliteError, SqliteRules};
