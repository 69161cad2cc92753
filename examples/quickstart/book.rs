//! Decides whether an answer came from the right region: the rules of each app, and when they
//! were in force.

use crate::clock::Nanos;
use crate::report::Report;

/// Rules of an app that are remembered. The oldest were over long before any connection that is
/// still being judged: one takes seconds, and rules stay for seconds too.
const MAX_PERIODS: usize = 32;

/// A region that an app's rule named, for a while.
#[derive(Debug)]
struct Period {
    region: String,
    /// When the rule was given to the rule source.
    from: Nanos,
    /// When the next rule was in force in the router; `None` for the rule of today. Between both
    /// moments of a change, either rule may decide.
    until: Option<Nanos>,
}

/// What became of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The region the app's rule named.
    Right(String),
    /// Another region. This must never happen.
    Wrong {
        /// Which answered.
        got: String,
        /// Which should have.
        wanted: String,
    },
    /// No answer, and why.
    Failed(String),
}

/// The rules of one app over time.
#[derive(Debug)]
pub(crate) struct Book {
    periods: Vec<Period>,
    /// When the newest rule was given, until an answer shows that the app has moved.
    moving: Option<Nanos>,
}

impl Book {
    /// An app whose rule names this region from the beginning.
    pub(crate) fn new(region: &str) -> Self {
        let region = region.to_owned();
        Self {
            periods: vec![Period {
                region,
                from: Nanos(0),
                until: None,
            }],
            moving: None,
        }
    }

    /// The region the rule names now.
    pub(crate) fn region(&self) -> &str {
        self.periods.last().map_or("", |p| &p.region)
    }

    /// The rule was changed at `given`, and was in force at `in_force`.
    pub(crate) fn change(&mut self, region: &str, given: Nanos, in_force: Nanos) {
        if let Some(last) = self.periods.last_mut() {
            last.until = Some(in_force);
        }
        if self.periods.len() == MAX_PERIODS {
            self.periods.remove(0);
        }
        let region = region.to_owned();
        self.periods.push(Period {
            region,
            from: given,
            until: None,
        });
        self.moving = Some(given);
    }

    /// Judges a connection: its region must be one that the app's rule named at some moment
    /// between asking for the connection and having it. The second value is how many
    /// milliseconds after its rule the app was seen to have moved, said once per change.
    pub(crate) fn judge(&mut self, report: &Report) -> (Verdict, Option<f64>) {
        let region = match &report.answer {
            Err(why) => return (Verdict::Failed(why.clone()), None),
            Ok(region) => region,
        };
        let named = |p: &Period| {
            p.region == *region
                && p.from <= report.connected
                && p.until.is_none_or(|until| until >= report.opened)
        };
        if !self.periods.iter().any(named) {
            let at = |p: &&Period| p.from <= report.opened;
            let wanted = self
                .periods
                .iter()
                .rev()
                .find(at)
                .map_or("", |p| &p.region)
                .to_owned();
            return (
                Verdict::Wrong {
                    got: region.clone(),
                    wanted,
                },
                None,
            );
        }
        let arrived = *region == self.region();
        let moved = self
            .moving
            .take_if(|given| arrived && report.connected >= *given);
        let moved = moved.map(|given| report.connected.millis_since(given));
        (Verdict::Right(region.clone()), moved)
    }

    /// The region the app was told to use and has not been seen in yet.
    pub(crate) fn missing_move(&self) -> Option<&str> {
        self.moving.map(|_| self.region())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(opened: u64, connected: u64, region: &str) -> Report {
        Report {
            opened: Nanos(opened),
            connected: Nanos(connected),
            answer: Ok(region.to_owned()),
        }
    }

    fn right(book: &mut Book, opened: u64, connected: u64, region: &str) -> bool {
        matches!(
            book.judge(&report(opened, connected, region)).0,
            Verdict::Right(_)
        )
    }

    #[test]
    fn only_a_connection_that_meets_the_change_may_see_either_region() {
        let book = &mut Book::new("uk");
        assert!(right(book, 1, 2, "uk"));
        assert!(!right(book, 1, 2, "fr"));
        book.change("fr", Nanos(100), Nanos(110));
        assert!(right(book, 90, 95, "uk"));
        assert!(!right(book, 90, 95, "fr"));
        for region in ["uk", "fr"] {
            assert!(right(book, 90, 105, region));
            assert!(right(book, 104, 106, region));
        }
        assert!(right(book, 111, 112, "fr"));
        assert!(!right(book, 111, 112, "uk"));
        let wanted = Verdict::Wrong {
            got: "uk".into(),
            wanted: "fr".into(),
        };
        assert_eq!(book.judge(&report(111, 112, "uk")).0, wanted);
    }

    #[test]
    fn a_move_is_seen_once_and_only_in_the_new_region() {
        let book = &mut Book::new("uk");
        assert_eq!(book.missing_move(), None);
        book.change("fr", Nanos(0), Nanos(1_000_000));
        assert_eq!(book.judge(&report(0, 1, "uk")).1, None);
        assert_eq!(book.missing_move(), Some("fr"));
        assert_eq!(book.judge(&report(0, 2_000_000, "fr")).1, Some(2.0));
        assert_eq!(book.missing_move(), None);
        assert_eq!(book.judge(&report(0, 3_000_000, "fr")).1, None);
    }

    #[test]
    fn no_answer_is_a_failure_with_its_reason() {
        let silent = Report {
            opened: Nanos(0),
            connected: Nanos(1),
            answer: Err("timed out".to_owned()),
        };
        let verdict = Book::new("uk").judge(&silent).0;
        assert_eq!(verdict, Verdict::Failed("timed out".to_owned()));
    }
}
