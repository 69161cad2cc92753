//! Writes samples in Prometheus' text format, version 0.0.4. Pure.

use std::fmt::Write as _;

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, until the daemon starts anew.
    Counter,
    Gauge,
}

/// Samples of one name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// A text that grows by whole families: the format wants the samples of one together.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Adds a family. Of one without samples it is said what it would be.
    pub(super) fn family<'a>(
        &mut self,
        family: Family,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) {
        let Family { name, kind, help } = family;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // A String takes everything.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            self.0.push_str(name);
            for (at, (label, said)) in labels.iter().enumerate() {
                let before = if at == 0 { '{' } else { ',' };
                let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(said));
            }
            if !labels.is_empty() {
                self.0.push('}');
            }
            let _ = writeln!(self.0, " {value}");
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Names and values that tell samples of a family apart.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out
}
