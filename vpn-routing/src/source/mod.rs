//! Where rules come from: sources that implement [`RuleSource`](vpn_core::RuleSource).
//!
//! | Source | Feature | Changes |
//! |---|---|---|
//! | `StaticRules` | `tokio` | by `set`, in this process |
//! | `SqliteRules` | `sqlite` | by any process that writes the file |
//! | `TomlRules` | `toml` | by whoever edits the file |
//! | `EtcdRules` | `etcd` | by whoever writes to etcd |
//! | `Layered` | `tokio` | when one of the sources it is made of changes |
//!
//! The files are for Unix: who may write them, and which users they name, is judged by its
//! permissions and its users. A host elsewhere implements `RuleSource`.
//!
//! A source is brought into force by `rules::RuleFeed`.

#[cfg(all(unix, any(feature = "sqlite", feature = "toml")))]
mod changes;
#[cfg(all(unix, feature = "etcd"))]
mod etcd;
#[cfg(feature = "tokio")]
mod fixed;
#[cfg(feature = "tokio")]
mod layered;
#[cfg(all(unix, any(feature = "sqlite", feature = "toml")))]
mod permission;
#[cfg(all(unix, feature = "sqlite"))]
mod sqlite;
#[cfg(all(unix, feature = "toml"))]
mod toml;

#[cfg(all(unix, feature = "etcd"))]
#[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
pub use etcd::{EtcdRules, EtcdRulesConfig, EtcdRulesError, REQUEST};
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use fixed::StaticRules;
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use layered::{LAYER_DEADLINE, Layered};
#[cfg(all(unix, feature = "sqlite"))]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{BUSY_TIMEOUT, POLL_EVERY, SCHEMA_VERSION, SqliteError, SqliteRules};
#[cfg(all(unix, feature = "toml"))]
#[cfg_attr(docsrs, doc(cfg(feature = "toml")))]
pub use toml::{TomlError, TomlRules};
