//! Draws what was measured: one small plot per quantity, over the number of members.

use std::fmt::Write as _;

const WIDTH: f64 = 230.0;
const HEIGHT: f64 = 150.0;
const MARGIN: f64 = 34.0;

/// What was measured with so many members, quantity by quantity.
pub(crate) type Point = (usize, Vec<f64>);

/// All of them, each from zero.
pub(crate) fn svg(title: &str, quantities: &[&str], points: &[Point]) -> String {
    let (columns, rows) = (3, quantities.len().div_ceil(3));
    let (width, height) = (WIDTH * columns as f64, HEIGHT * rows as f64 + 24.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"16\" font-size=\"13\">{title}</text>\n"
    );
    for (place, name) in quantities.iter().enumerate() {
        let x = WIDTH * (place % columns) as f64;
        let y = HEIGHT * (place / columns) as f64 + 24.0;
        one(&mut out, points, (name, place), x, y);
    }
    out.push_str("</svg>\n");
    out
}

fn one(out: &mut String, costs: &[Point], (name, place): (&str, usize), left: f64, top: f64) {
    let value = |(_, values): &Point| values[place];
    let most = (costs.iter().map(value).fold(0.0, f64::max) * 1.25).max(f64::MIN_POSITIVE);
    let decades = |(members, _): &Point| (*members as f64).log10();
    let (first, last) = match costs {
        [first, .., last] => (decades(first), decades(last)),
        _ => (0.0, 1.0),
    };
    let x = |cost: &Point| {
        let share = (decades(cost) - first) / (last - first);
        left + MARGIN + share * (WIDTH - 2.0 * MARGIN)
    };
    let bottom = top + HEIGHT - 22.0;
    let y = |cost: &Point| bottom - value(cost) / most * (HEIGHT - 52.0);
    let end = left + WIDTH - MARGIN / 2.0;
    let start = left + MARGIN / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{start}\" y=\"{:.0}\">{name}</text>\n\
         <line x1=\"{start}\" y1=\"{bottom}\" x2=\"{end}\" y2=\"{bottom}\" stroke=\"#888\"/>",
        top + 16.0
    );
    let points: Vec<String> = (costs.iter())
        .map(|cost| format!("{:.1},{:.1}", x(cost), y(cost)))
        .collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#2a6\" stroke-width=\"2\"/>",
        points.join(" ")
    );
    for cost in costs {
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#2a6\"/>\
             <text x=\"{x:.1}\" y=\"{above:.1}\" text-anchor=\"middle\">{value:.1}</text>\
             <text x=\"{x:.1}\" y=\"{below:.1}\" text-anchor=\"middle\" fill=\"#888\">{members}</text>",
            x = x(cost),
            y = y(cost),
            above = y(cost) - 7.0,
            value = value(cost),
            below = bottom + 14.0,
            members = cost.0
        );
    }
}
