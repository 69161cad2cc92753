//! Prints results as a table.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use crate::measure::Figures;
use crate::results::Results;

/// Prints medians, one contender per line.
pub(crate) fn print(results: &Results) {
    println!(
        "\n{} processors ({}), Linux {}, MTU {} in tunnels, {} cables, {} s windows\n",
        results.processors,
        results.processor,
        results.kernel,
        results.mtu,
        if results.cut { "cutting" } else { "whole" },
        results.windows.stream
    );
    println!(
        "{:<34} {:>7} {:^15} {:>8} {:>8} {:>6} {:>7} {:>13} {:>15} {:>6}",
        "one TCP stream",
        "Gbit/s",
        "(low..high)",
        "own s/GB",
        "all s/GB",
        "resent",
        "kpps",
        "RTT us (p99)",
        "loaded (p99)",
        "MiB"
    );
    for rounds in &results.contenders {
        let of = |get: fn(&Figures) -> Option<f64>| rounds.median(get);
        let Some(gbits) = of(|f| Some(f.gbits)) else {
            let why = rounds.problems.first().map_or("", String::as_str);
            println!("{:<34} FAILED: {why}", rounds.label);
            continue;
        };
        let (low, high) = rounds.range().unwrap_or_default();
        let star = if rounds.is_disturbed() { " *" } else { "" };
        println!(
            "{:<34} {:>7.2} {:^15} {:>8} {:>8} {:>6} {:>7} {:>13} {:>15} {:>6}",
            format!("{}{star}", rounds.label),
            gbits,
            format!("({low:.2}..{high:.2})"),
            number(of(|f| f.own_cpu), 3),
            number(of(|f| Some(f.machine_cpu)), 3),
            number(of(|f| Some(f.retransmits as f64)), 0),
            number(of(|f| f.flood_kpps), 0),
            pair(
                of(|f| f.idle.map(|t| t.median)),
                of(|f| f.idle.map(|t| t.p99))
            ),
            pair(
                of(|f| f.loaded.map(|t| t.median)),
                of(|f| f.loaded.map(|t| t.p99))
            ),
            number(of(|f| f.resident), 1),
        );
        for problem in &rounds.problems {
            println!("{:<34} a round failed: {problem}", "");
        }
    }
    if results
        .contenders
        .iter()
        .any(|rounds| rounds.is_disturbed())
    {
        println!("* = other programs were busy: measure again on a quiet machine");
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn pair(median: Option<f64>, p99: Option<f64>) -> String {
    match (median, p99) {
        (Some(median), Some(p99)) => format!("{median:.0} ({p99:.0})"),
        _ => "-".to_owned(),
    }
}
