//! Decides which goals of the project a run met: ratios to a peer of the same run, and few limits
//! that are absolute.

use serde::Serialize;

use crate::measure::Figures;
use crate::results::Results;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One goal, and what was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// The group it belongs to: G1, G6, ...
    pub(crate) group: &'static str,
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) bound: Bound,
}

impl Goal {
    pub(crate) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.value >= least,
            Bound::AtMost(most) => self.value <= most,
        }
    }

    /// One line of a report.
    pub(crate) fn line(&self) -> String {
        let (sign, bound) = match self.bound {
            Bound::AtLeast(least) => (">=", least),
            Bound::AtMost(most) => ("<=", most),
        };
        let unit = self.unit;
        let value = format!("{:.2} {unit}", self.value);
        // 0.97, 20, 23.8: as many digits as it takes.
        let bound = (bound * 100.0).round() / 100.0;
        let met = if self.is_met() { "met" } else { "MISSED" };
        format!(
            "{:<4} {:<60} {value:>12}  (goal {sign} {bound} {unit})  {met}",
            self.group, self.what
        )
    }
}

/// A figure by its name, and how it is read.
type Figure = (&'static str, fn(&Figures) -> Option<f64>);

const THROUGHPUT: Figure = ("throughput", |f| Some(f.gbits));
const OWN_CPU: Figure = ("own CPU per GB", |f| f.own_cpu);
const MACHINE_CPU: Figure = ("machine's CPU per GB", |f| Some(f.machine_cpu));
const SMALL: Figure = ("small datagrams", |f| f.flood_kpps);
const IDLE: Figure = ("round trip, idle", |f| f.idle.map(|t| t.median));
const LOADED: Figure = ("round trip, loaded", |f| f.loaded.map(|t| t.median));

/// Ratios that are goals: group, who, beside whom, of what, and the bound.
const RATIOS: &[(&str, &str, &str, Figure, Bound)] = &[
    ("G1", "engine", "null", THROUGHPUT, Bound::AtLeast(0.97)),
    ("G1", "engine", "null", OWN_CPU, Bound::AtMost(1.10)),
    ("G1", "engine", "null", MACHINE_CPU, Bound::AtMost(1.10)),
    ("G1", "engine", "tun-rs", OWN_CPU, Bound::AtMost(0.85)),
    (
        "G6",
        "wireguard",
        "wireguard-go-new",
        THROUGHPUT,
        Bound::AtLeast(1.5),
    ),
    (
        "G6",
        "wireguard",
        "wireguard-go-new",
        MACHINE_CPU,
        Bound::AtMost(0.65),
    ),
    (
        "G6",
        "wireguard",
        "wireguard-go-new",
        SMALL,
        Bound::AtLeast(2.5),
    ),
    (
        "G6",
        "wireguard",
        "gotatun",
        THROUGHPUT,
        Bound::AtLeast(3.0),
    ),
    (
        "G6",
        "wireguard",
        "boringtun",
        THROUGHPUT,
        Bound::AtLeast(5.0),
    ),
    (
        "G6",
        "wireguard",
        "openvpn",
        THROUGHPUT,
        Bound::AtLeast(2.5),
    ),
    ("G6", "wireguard", "openvpn", SMALL, Bound::AtLeast(1.2)),
    (
        "G9",
        "wireguard",
        "wireguard-go-new",
        IDLE,
        Bound::AtMost(1.0),
    ),
    (
        "G9",
        "wireguard",
        "wireguard-go-new",
        LOADED,
        Bound::AtMost(1.0),
    ),
    ("G9", "wireguard", "wireguard-go", IDLE, Bound::AtMost(1.0)),
    (
        "G9",
        "wireguard",
        "wireguard-go",
        LOADED,
        Bound::AtMost(1.0),
    ),
];

/// The goals for which everybody was measured.
pub(crate) fn of(results: &Results) -> Vec<Goal> {
    let ratios = RATIOS.iter();
    ratios
        .filter_map(|(group, one, other, (name, get), bound)| {
            Some(Goal {
                group,
                what: format!("{name}, {one} beside {other}"),
                value: results.ratio(one, other, get)?,
                unit: "x",
                bound: *bound,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn a_goal_is_met_or_missed_by_its_ratio() {
        let told = of(&results(&[
            ("null", &[Some(10.0)]),
            ("engine", &[Some(9.6)]),
        ]));
        // Nobody else took part, so nothing is said about them.
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(!told[0].is_met() && told[0].line().contains("0.96 x"));
        assert!(told[0].line().ends_with("MISSED"), "{}", told[0].line());
        assert!(told[1].is_met() && told[1].line().ends_with(" met"));
    }
}
