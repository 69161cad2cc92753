//! Numbers as people read them, short.

/// Bytes with a decimal unit, in at most 7 characters: `999 B`, `1.23 kB`, `12.3 MB`, `123 GB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (count as f64, 0);
    // What would round up to four digits has the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value {
        _ if unit == 0 => format!("{count} B"),
        _ if value < 9.995 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A rate that may not be known yet.
pub fn rate(per_second: Option<u64>) -> String {
    per_second.map_or_else(|| "-".to_owned(), bytes)
}

/// A count with a decimal unit from ten thousand on: `9999`, `12.3k`.
pub fn count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        _ => bytes(count)
            .replace(" B", "")
            .replace("kB", "k")
            .replace(['B', ' '], ""),
    }
}

/// Milliseconds: `0.42 ms`, `12.3 ms`, `1234 ms`.
pub fn milliseconds(time: Option<f64>) -> String {
    match time {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.2} ms"),
        Some(ms) if ms < 100.0 => format!("{ms:.1} ms"),
        Some(ms) => format!("{ms:.0} ms"),
    }
}
