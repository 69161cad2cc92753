//! What the whole SDK counts, as plain values at one moment: no registry, nothing global, no thread.
//!
//! A [`Snapshot`] is filled by whoever has the parts (the status of a router, of a pool, of a breaker),
//! and [visited](Snapshot::visit): every sample comes with its [`Family`], which says its name, kind,
//! unit, labels and meaning. What is not there has no samples.
//!
#![doc = include_str!("../../METRICS.md")]
//!
//! # Where they go
//!
//! | Feature | Adapter |
//! |---|---|
//! | `prometheus` | [`prometheus::Text`]: the text format, version 0.0.4 |
//! | `metrics` | [`facade::record`]: to a recorder of the `metrics` facade, which is an argument |
//!
//! ```
//! use vpn_core::metrics::{Breaker, Snapshot};
//!
//! let mut snapshot = Snapshot::default();
//! snapshot.breakers.push(Breaker { name: "provider".into(), opened: 2, ..Breaker::default() });
//! let mut opened = 0.0;
//! snapshot.visit(&mut |metric| {
//!     if metric.family.name == "vpn_breaker_transitions_total" && metric.label("to") == Some("open") {
//!         opened = metric.value;
//!     }
//! });
//! assert_eq!(opened, 2.0);
//! ```

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod facade;
pub mod families;
mod hub;
mod mesh;
mod node;
#[cfg(feature = "prometheus")]
#[cfg_attr(docsrs, doc(cfg(feature = "prometheus")))]
pub mod prometheus;
mod resilience;
mod router;
mod snapshot;
mod tunnel;

pub use hub::{Hub, Mesh};
pub use mesh::{Directory, Path, Pool};
pub use node::Node;
pub use resilience::{Breaker, Life, Limit, Retry, Task};
pub use router::{Dns, GroupMember, Router, Rules};
pub use snapshot::Snapshot;
pub use tunnel::{Beside, Tunnel};

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only grows, until its owner starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// What a value of 1 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// One of what the name says; for a state, that it is so.
    Count,
    /// A byte.
    Bytes,
    /// A second.
    Seconds,
}

/// Samples of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Family {
    /// Its name, as in Prometheus: lower case, the unit at its end, `_total` behind counters. Stable.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Of its values.
    pub unit: Unit,
    /// The labels that every sample has, in this order.
    pub labels: &'static [&'static str],
    /// What it is, in one sentence.
    pub help: &'static str,
}

impl Family {
    const fn new(
        kind: Kind,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            unit: Unit::Count,
            labels,
            help,
        }
    }

    /// A counter. Its name ends with `_total`.
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(Kind::Counter, name, labels, help)
    }

    /// A gauge.
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(Kind::Gauge, name, labels, help)
    }

    /// The same family of another unit.
    #[must_use]
    pub const fn of(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric<'a> {
    /// What it is a sample of.
    pub family: &'static Family,
    /// The values of the family's labels, in their order.
    pub labels: &'a [&'a str],
    /// The value, in the family's unit.
    pub value: f64,
}

impl<'a> Metric<'a> {
    /// The value of a label; `None` if the family has none of this name.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        let at = self.family.labels.iter().position(|label| *label == name)?;
        self.labels.get(at).copied()
    }
}

/// Who is shown each sample.
pub type Visit<'a> = dyn FnMut(&Metric<'_>) + 'a;

/// Something that has samples.
pub trait Measured {
    /// Shows every sample once. The samples of one family follow each other where that is possible;
    /// adapters do not rely on it.
    fn visit(&self, visit: &mut Visit<'_>);
}

/// Shows one sample.
fn show(visit: &mut Visit<'_>, family: &'static Family, labels: &[&str], value: f64) {
    debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
    visit(&Metric {
        family,
        labels,
        value,
    });
}

#[cfg(test)]
mod tests;
