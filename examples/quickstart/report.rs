//! What an app tells about one connection, as a value and as a line of text.

use std::fmt;
use std::str::FromStr;

use crate::clock::Nanos;

/// One connection of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Just before the app asked for the connection.
    pub(crate) opened: Nanos,
    /// When the connection stood (or the app gave up): its tunnel was chosen in between.
    pub(crate) connected: Nanos,
    /// Which region answered, or why none did.
    pub(crate) answer: Result<String, String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verdict, text) = match &self.answer {
            Ok(region) => ("ok", region),
            Err(why) => ("failed", why),
        };
        let (opened, connected) = (self.opened.0, self.connected.0);
        write!(f, "{opened} {connected} {verdict} {text}")
    }
}

/// The line is not a [`Report`].
#[derive(Debug, thiserror::Error)]
#[error("not a report of an app: {0:?}")]
pub(crate) struct NotAReport(String);

impl FromStr for Report {
    type Err = NotAReport;

    fn from_str(line: &str) -> Result<Self, NotAReport> {
        let wrong = || NotAReport(line.to_owned());
        let mut parts = line.splitn(4, ' ');
        let mut next = || parts.next().ok_or_else(wrong);
        let opened = Nanos(next()?.parse().map_err(|_| wrong())?);
        let connected = Nanos(next()?.parse().map_err(|_| wrong())?);
        let answer = match (next()?, next()?.to_owned()) {
            ("ok", region) => Ok(region),
            ("failed", why) => Err(why),
            _ => return Err(wrong()),
        };
        Ok(Self {
            opened,
            connected,
            answer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_the_report_it_was_made_from() {
        for answer in [
            Ok("uk".to_owned()),
            Err("connection refused (os error 111)".to_owned()),
        ] {
            let report = Report {
                opened: Nanos(7),
                connected: Nanos(9),
                answer,
            };
            assert_eq!(report.to_string().parse::<Report>().unwrap(), report);
        }
        for line in ["", "1 2", "1 2 ok", "x 2 ok uk", "1 2 maybe uk"] {
            assert!(line.parse::<Report>().is_err(), "{line}");
        }
    }
}
