//! All rounds of all contenders: medians, ratios of rounds, and the file they are written to.

use serde::Serialize;
use vpn_benches::ruler::median;

use crate::contender::Contender;
use crate::measure::{Figures, Windows};

/// Processors that strangers may use before a round counts as disturbed.
const DISTURBED: f64 = 0.15;

/// One contender's rounds, in order; `None` where it failed.
#[derive(Debug, Serialize)]
pub(crate) struct Rounds {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) ours: bool,
    pub(crate) rounds: Vec<Option<Figures>>,
    /// Why it failed, where it did.
    pub(crate) problems: Vec<String>,
}

impl Rounds {
    pub(crate) fn of(contender: &Contender) -> Self {
        Self {
            name: contender.name.clone(),
            label: contender.label.clone(),
            ours: contender.is_ours(),
            rounds: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// The median over the rounds of what `get` takes.
    pub(crate) fn median(&self, get: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.rounds.iter().flatten().filter_map(get).collect();
        (!values.is_empty()).then(|| median(values))
    }

    /// Lowest and highest throughput.
    pub(crate) fn range(&self) -> Option<(f64, f64)> {
        let values = || self.rounds.iter().flatten().map(|f| f.gbits);
        (values().count() > 0).then(|| {
            (
                values().fold(f64::INFINITY, f64::min),
                values().fold(0.0, f64::max),
            )
        })
    }

    /// Whether strangers were busy in most rounds.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.median(|f| Some(f.strangers)) > Some(DISTURBED)
    }
}

/// Everything that was measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    /// Whether the cable cut super-packets.
    pub(crate) cut: bool,
    pub(crate) mtu: u16,
    pub(crate) windows: Windows,
    pub(crate) contenders: Vec<Rounds>,
}

impl Results {
    pub(crate) fn get(&self, name: &str) -> Option<&Rounds> {
        self.contenders.iter().find(|rounds| rounds.name == name)
    }

    /// One contender beside another: the median of the ratios of rounds, so that what changes from
    /// round to round meets both alike.
    pub(crate) fn ratio(
        &self,
        one: &str,
        other: &str,
        get: impl Fn(&Figures) -> Option<f64>,
    ) -> Option<f64> {
        let (one, other) = (self.get(one)?, self.get(other)?);
        let ratios: Vec<f64> = one
            .rounds
            .iter()
            .zip(&other.rounds)
            .filter_map(|(a, b)| Some(get(a.as_ref()?)? / get(b.as_ref()?)?))
            .collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Figures with this throughput, and one CPU second per GB.
    pub(crate) fn figures(gbits: f64) -> Figures {
        Figures {
            gbits,
            own_cpu: Some(1.0),
            machine_cpu: 1.0,
            retransmits: 0,
            flood_kpps: Some(100.0),
            idle: None,
            loaded: None,
            resident: Some(10.0),
            strangers: 0.0,
        }
    }

    pub(crate) fn results(contenders: &[(&str, &[Option<f64>])]) -> Results {
        Results {
            kernel: "6.1 <test>".to_owned(),
            processor: "a & b".to_owned(),
            processors: 2,
            cut: false,
            mtu: 1420,
            windows: Windows::of(8.0),
            contenders: contenders
                .iter()
                .map(|(name, rounds)| Rounds {
                    name: (*name).to_owned(),
                    label: format!("label of {name}"),
                    ours: *name == "engine",
                    rounds: rounds.iter().map(|r| r.map(figures)).collect(),
                    problems: Vec::new(),
                })
                .collect(),
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine is twice as fast in the last round.
        let results = results(&[
            ("null", &[Some(10.0), Some(10.0), Some(20.0), None]),
            ("engine", &[Some(9.0), Some(9.5), Some(19.0), Some(1.0)]),
        ]);
        let ratio = results.ratio("engine", "null", |f| Some(f.gbits));
        assert!(ratio.is_some_and(|r| (r - 0.95).abs() < 1e-9), "{ratio:?}");
        assert_eq!(results.ratio("engine", "nobody", |f| Some(f.gbits)), None);
        let engine = results.get("engine");
        assert_eq!(engine.and_then(Rounds::range), Some((1.0, 19.0)));
        assert!(engine.is_some_and(|e| !e.is_disturbed()));
    }
}
