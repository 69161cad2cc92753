//! Reports for people.

use std::fmt::Write as _;

use serde_json::Value;
use vpn_examples::print;
use vpn_examples::words::{bytes, milliseconds};

use crate::error::Error;
use vpn_examples::mesh::Report;

/// Prints what a daemon said.
pub(crate) fn status(value: &Value, as_json: bool) -> Result<(), Error> {
    if as_json {
        print(&format!("{value:#}\n"));
        return Ok(());
    }
    let is_hub = value.get("members").is_some();
    let text = if is_hub {
        hub(value)
    } else {
        let report: Report = serde_json::from_value(value.clone())
            .map_err(|error| Error::Unanswered(format!("its answer makes no sense: {error}")))?;
        member(&report)
    };
    print(&text);
    Ok(())
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// A member. Writing to a string cannot fail.
pub(crate) fn member(report: &Report) -> String {
    let mut out = String::new();
    let addresses: Vec<String> = report.addresses.iter().map(ToString::to_string).collect();
    let _ = writeln!(
        out,
        "{}  {}  {}\n",
        or_dash(&report.name),
        addresses.join(", "),
        report.key
    );
    let _ = writeln!(
        out,
        "{:<24} {:<9} {:<7} {:>9}  {:<22} why",
        "hub", "state", "carrier", "rtt", "seen as"
    );
    for hub in &report.hubs {
        let observed = hub.observed.map_or_else(|| "-".into(), |at| at.to_string());
        let _ = writeln!(
            out,
            "{:<24} {:<9} {:<7} {:>9}  {observed:<22} {}",
            hub.endpoint,
            hub.state,
            hub.carrier.as_deref().unwrap_or("-"),
            milliseconds(hub.rtt_ms),
            or_dash(&hub.why)
        );
        if hub.isolated {
            out.push_str("  isolated: it lets members reach only those it allows\n");
        }
    }
    let _ = writeln!(
        out,
        "\n{:<12} {:<16} {:<10} {:<24} {:>9} {:>5} {:>8} {:>8}  why",
        "peer", "address", "path", "endpoint", "rtt", "loss", "sent", "received"
    );
    for peer in &report.peers {
        let address = peer.addresses.first();
        let _ = writeln!(
            out,
            "{:<12} {:<16} {:<10} {:<24} {:>9} {:>4.0}% {:>8} {:>8}  {}",
            or_dash(&peer.name),
            address.map_or_else(|| "-".into(), ToString::to_string),
            peer.path,
            peer.endpoint.as_deref().unwrap_or("-"),
            milliseconds(peer.rtt_ms),
            peer.loss * 100.0,
            bytes(peer.tx_bytes),
            bytes(peer.rx_bytes),
            or_dash(&peer.why)
        );
    }
    if report.peers.is_empty() {
        out.push_str("nobody was spoken to yet\n");
    }
    for conflict in &report.conflicts {
        let _ = writeln!(out, "\n{conflict}");
    }
    for (reason, count) in &report.drops {
        let _ = writeln!(out, "\ndropped, {reason}: {count}");
    }
    out
}

fn hub(value: &Value) -> String {
    let word = |value: &Value, key: &str| match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(Value::Array(all)) => {
            let texts = all.iter().map(|it| it.as_str().unwrap_or("-").to_owned());
            texts.collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    };
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}  {}  {}\n",
        word(value, "name"),
        word(value, "listen"),
        word(value, "key")
    );
    let _ = writeln!(
        out,
        "{:<12} {:<16} {:<7} {:<24} {:>10}",
        "member", "address", "carrier", "endpoint", "relayed"
    );
    for member in value["members"].as_array().into_iter().flatten() {
        let online = member["online"].as_bool() == Some(true);
        let carrier = if online {
            word(member, "carrier")
        } else {
            "away".into()
        };
        let _ = writeln!(
            out,
            "{:<12} {:<16} {:<7} {:<24} {:>10}",
            word(member, "name"),
            word(member, "addresses"),
            carrier,
            word(member, "endpoint"),
            bytes(member["relayed_bytes"].as_u64().unwrap_or(0))
        );
    }
    let neighbours = value["neighbours"].as_array().into_iter().flatten();
    for neighbour in neighbours {
        let state = match neighbour["online"].as_bool() {
            Some(true) => word(neighbour, "endpoint"),
            _ => format!("away: {}", word(neighbour, "why")),
        };
        let _ = writeln!(
            out,
            "\nhub {}  {state}, {} members known behind it, {} came from it",
            word(neighbour, "key"),
            word(neighbour, "members"),
            bytes(neighbour["carried_bytes"].as_u64().unwrap_or(0))
        );
    }
    let _ = writeln!(
        out,
        "\n{} online, {} relayed",
        word(value, "online"),
        bytes(value["relayed_bytes"].as_u64().unwrap_or(0))
    );
    for kind in ["refused", "dropped"] {
        for (why, count) in value[kind].as_object().into_iter().flatten() {
            if count.as_u64().is_some_and(|count| count > 0) {
                let _ = writeln!(out, "{kind}, {why}: {count}");
            }
        }
    }
    out
}
