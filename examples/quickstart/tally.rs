//! Counts what the apps told, and decides whether all of it was right.

use std::collections::BTreeSet;

use crate::book::{Book, Verdict};
use crate::circuit::{APPS, REGIONS};
use crate::clock::Nanos;
use crate::report::Report;

/// Different problems that are told at the end; more are only counted.
const MAX_PROBLEMS: usize = 10;

/// One app's counts.
#[derive(Debug)]
pub(crate) struct AppTally {
    /// Its rules.
    pub(crate) book: Book,
    /// Connections answered by the region its rule named.
    pub(crate) right: u64,
    /// Connections answered by another one.
    pub(crate) wrong: u64,
    /// Connections without an answer.
    pub(crate) failed: u64,
    /// The right ones since the last picture.
    pub(crate) recent: u64,
    /// The regions that answered since the last picture.
    pub(crate) regions: BTreeSet<String>,
}

/// All counts.
#[derive(Debug)]
pub(crate) struct Tally {
    /// One per app, in the order of [`APPS`].
    pub(crate) apps: Vec<AppTally>,
    problems: BTreeSet<String>,
}

impl Tally {
    /// Nothing yet; every app's rule names the region at its position.
    pub(crate) fn new() -> Self {
        let app = |region: &str| AppTally {
            book: Book::new(region),
            right: 0,
            wrong: 0,
            failed: 0,
            recent: 0,
            regions: BTreeSet::new(),
        };
        Self {
            apps: REGIONS.into_iter().map(app).collect(),
            problems: BTreeSet::new(),
        }
    }

    /// Notes a problem that makes the result a failure.
    pub(crate) fn problem(&mut self, text: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.insert(text);
        }
    }

    /// Judges a connection. Says how many milliseconds after its rule an app has moved, if this
    /// is the connection that shows it.
    pub(crate) fn report(&mut self, app: usize, report: &Report) -> Option<f64> {
        let tally = self.apps.get_mut(app)?;
        let (verdict, moved) = tally.book.judge(report);
        let problem = match verdict {
            Verdict::Right(region) => {
                tally.right += 1;
                tally.recent += 1;
                tally.regions.insert(region);
                return moved;
            }
            Verdict::Wrong { got, wanted } => {
                tally.wrong += 1;
                tally.regions.insert(got.clone());
                format!("answered by {got}, its rule named {wanted}")
            }
            Verdict::Failed(why) => {
                tally.failed += 1;
                format!("no answer: {why}")
            }
        };
        self.problem(format!("{}: {problem}", APPS[app]));
        None
    }

    /// The rule of an app was changed.
    pub(crate) fn changed(&mut self, app: usize, region: &str, given: Nanos, in_force: Nanos) {
        if let Some(tally) = self.apps.get_mut(app) {
            tally.book.change(region, given, in_force);
        }
    }

    /// A picture was shown: what is recent starts anew.
    pub(crate) fn shown(&mut self) {
        for app in &mut self.apps {
            app.recent = 0;
            app.regions.clear();
        }
    }

    /// Connections in all.
    pub(crate) fn total(&self) -> u64 {
        self.apps
            .iter()
            .map(|app| app.right + app.wrong + app.failed)
            .sum()
    }

    /// What was not right. With `finished`, an app that was never answered, or that has not
    /// followed its last rule, is a problem too: the show was not broken off.
    pub(crate) fn verdict(mut self, finished: bool) -> Vec<String> {
        let mut missing = Vec::new();
        for (app, name) in self.apps.iter().zip(APPS) {
            if app.right == 0 {
                missing.push(format!("{name}: never answered"));
            } else if let Some(region) = app.book.missing_move() {
                missing.push(format!("{name}: was not seen moving to {region}"));
            }
        }
        if finished {
            missing.into_iter().for_each(|text| self.problem(text));
        }
        self.problems.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(region: &str) -> Report {
        Report {
            opened: Nanos(10),
            connected: Nanos(20),
            answer: Ok(region.to_owned()),
        }
    }

    fn all_right() -> Tally {
        let mut tally = Tally::new();
        for (app, region) in REGIONS.into_iter().enumerate() {
            tally.report(app, &answered(region));
        }
        tally
    }

    #[test]
    fn every_app_in_its_own_region_is_success() {
        let tally = all_right();
        assert_eq!(tally.total(), 3);
        assert_eq!(tally.verdict(true), Vec::<String>::new());
    }

    #[test]
    fn one_wrong_answer_among_many_is_failure() {
        let mut tally = all_right();
        tally.report(1, &answered("us"));
        assert_eq!(
            tally.verdict(false),
            ["mail: answered by us, its rule named fr"]
        );
    }

    #[test]
    fn silence_and_an_unseen_move_are_failures_unless_broken_off() {
        assert_eq!(Tally::new().verdict(true).len(), 3);
        assert!(Tally::new().verdict(false).is_empty());
        let mut tally = all_right();
        tally.changed(0, "us", Nanos(30), Nanos(31));
        assert_eq!(tally.verdict(true), ["browser: was not seen moving to us"]);
    }
}
