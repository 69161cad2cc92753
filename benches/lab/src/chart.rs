//! Draws results as an SVG picture: throughput, and what a gigabyte costs the machine.

use std::fmt::Write as _;

use crate::results::{Results, Rounds};

const ROW: usize = 26;
const TOP: usize = 74;
const LABELS: usize = 250;
const BARS: usize = 250;
const GAP: usize = 74;

/// Colours that are told apart on light and on dark pages, and by the colour-blind.
const OURS: &str = "#0b7285";
const OTHERS: &str = "#adb5bd";

/// The picture of all contenders that were measured.
pub(crate) fn draw(results: &Results) -> String {
    let rows: Vec<(&Rounds, f64, f64)> = results
        .contenders
        .iter()
        .filter_map(|rounds| {
            let gbits = rounds.median(|f| Some(f.gbits))?;
            Some((rounds, gbits, rounds.median(|f| Some(f.machine_cpu))?))
        })
        .collect();
    let width = LABELS + 2 * BARS + 2 * GAP;
    let height = TOP + rows.len() * ROW + 44;
    let right = LABELS + BARS + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <g fill=\"#212529\">\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"600\">One TCP stream through each, \
         in turns on one machine</text>\n\
         <text x=\"{LABELS}\" y=\"56\" font-weight=\"600\">Gbit/s, more is better</text>\n\
         <text x=\"{right}\" y=\"56\" font-weight=\"600\">CPU seconds per GB, less is better</text>\n</g>\n"
    );
    let most = |get: fn(&(&Rounds, f64, f64)) -> f64| rows.iter().map(get).fold(1e-9, f64::max);
    let (fastest, dearest) = (most(|row| row.1), most(|row| row.2));
    for (number, (rounds, gbits, cpu)) in rows.iter().enumerate() {
        let y = TOP + number * ROW;
        let (text, weight) = (y + 14, if rounds.ours { "600" } else { "400" });
        let fill = if rounds.ours { OURS } else { OTHERS };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\" fill=\"#212529\" \
             font-weight=\"{weight}\">{}</text>",
            LABELS - 10,
            escaped(&rounds.label)
        );
        for (x, value, most) in [(LABELS, *gbits, fastest), (right, *cpu, dearest)] {
            let length = (value / most * BARS as f64).max(1.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"18\" rx=\"2\" \
                 fill=\"{fill}\"/><text x=\"{:.1}\" y=\"{text}\" fill=\"#212529\">{value:.2}</text>",
                x as f64 + length + 6.0
            );
        }
    }
    let _ = write!(
        svg,
        "<text x=\"16\" y=\"{}\" fill=\"#495057\" font-size=\"11\">{}</text>\n</svg>\n",
        height - 16,
        escaped(&format!(
            "Medians of {} rounds of {} s. CPU is that of the whole machine: {} processors ({}), shared \
             by both ends. Linux {}, MTU {} in tunnels.",
            results
                .contenders
                .iter()
                .map(|rounds| rounds.rounds.len())
                .max()
                .unwrap_or(0),
            results.windows.stream,
            results.processors,
            results.processor,
            results.kernel,
            results.mtu
        ))
    );
    svg
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn every_contender_that_was_measured_has_two_bars() {
        let picture = draw(&results(&[
            ("null", &[Some(10.0)]),
            ("engine", &[Some(5.0)]),
            ("broken", &[None]),
        ]));
        assert_eq!(picture.matches("<rect x=").count(), 4, "{picture}");
        assert!(picture.contains("label of engine") && !picture.contains("label of broken"));
        // The longest bar is full, the other one half.
        assert!(picture.contains("width=\"250.0\"") && picture.contains("width=\"125.0\""));
        assert!(picture.contains("a &amp; b") && picture.contains("6.1 &lt;test&gt;"));
    }
}
