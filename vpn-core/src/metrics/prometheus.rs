//! Prometheus' text format, version 0.0.4. Pure: serving it is the integrator's.

use std::fmt::Write as _;

use super::{Family, Kind, Measured, Metric};

/// The media type of the format.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text of whole families: the format wants the samples of one together, whoever brings them.
///
/// ```
/// use vpn_core::metrics::prometheus::Text;
/// use vpn_core::metrics::{Dns, families};
///
/// let mut text = Text::default();
/// text.declare(families::DNS);
/// text.add(&Dns { queries: 3, ..Dns::default() });
/// assert!(text.finish().contains("\nvpn_dns_queries_total 3\n"));
/// ```
#[derive(Debug, Default)]
pub struct Text {
    families: Vec<(&'static Family, String)>,
}

impl Text {
    /// Says what these families are, also if they have no sample, in this order.
    pub fn declare(&mut self, families: &[&'static Family]) {
        for family in families {
            self.samples(family);
        }
    }

    /// Adds all samples of something.
    pub fn add(&mut self, measured: &dyn Measured) {
        measured.visit(&mut |metric| self.sample(metric));
    }

    /// Adds one sample. Its family is declared by that.
    pub fn sample(&mut self, metric: &Metric<'_>) {
        let Metric {
            family,
            labels,
            value,
        } = *metric;
        let out = self.samples(family);
        out.push_str(family.name);
        for (at, (label, said)) in family.labels.iter().zip(labels).enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            // A String takes everything, here and below.
            let _ = write!(out, "{before}{label}=\"");
            escape(said, out);
            out.push('"');
        }
        if !family.labels.is_empty() {
            out.push('}');
        }
        let _ = writeln!(out, " {value}");
    }

    /// The text.
    pub fn finish(self) -> String {
        let mut text = String::new();
        for (family, samples) in self.families {
            let Family { name, help, .. } = family;
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            text.push_str(&samples);
        }
        text
    }

    fn samples(&mut self, family: &'static Family) -> &mut String {
        let known = self
            .families
            .iter()
            .position(|(f, _)| f.name == family.name);
        let at = known.unwrap_or_else(|| {
            self.families.push((family, String::new()));
            self.families.len() - 1
        });
        &mut self.families[at].1
    }
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}
