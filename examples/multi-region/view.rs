//! Reports for people.

use std::fmt::Write as _;

use serde_json::Value;
use vpn_examples::mesh::Report;
pub(crate) use vpn_examples::print;
use vpn_examples::words::milliseconds;

fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn drops(value: &Value) -> String {
    let counts = value.as_object().into_iter().flatten();
    let list: Vec<String> = counts.map(|(reason, n)| format!("{reason} {n}")).collect();
    if list.is_empty() {
        "none".to_owned()
    } else {
        list.join(", ")
    }
}

/// Bytes as people read them.
fn mebibytes(bytes: &Value) -> String {
    match bytes.as_u64() {
        Some(bytes) if bytes < 1 << 20 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        Some(bytes) => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        None => "-".to_owned(),
    }
}

/// What a tunnel occupies, and how far its other end is.
fn occupied(tunnel: &Value) -> String {
    let (resources, beside) = (&tunnel["resources"], &tunnel["resources"]["process"]);
    let mut line = format!(
        "{} fds, {} tasks, {} memory",
        resources["fds"],
        resources["tasks"],
        mebibytes(&resources["memory"]),
    );
    if beside.is_object() {
        let _ = write!(
            line,
            "; process {}: {} fds, {} threads, {} memory",
            beside["pid"],
            text(&beside["fds"]),
            beside["threads"],
            mebibytes(&beside["memory"]),
        );
    }
    if let Some(time) = tunnel["round_trip_ms"].as_f64() {
        let _ = write!(line, "   round trip {time:.1} ms");
    }
    line
}

/// Hubs and peers of a mesh, a line each.
fn mesh(out: &mut String, report: &Report) {
    for hub in &report.hubs {
        let _ = writeln!(
            out,
            "  hub  {:<24} {:<9} {:>8}  {}",
            hub.endpoint,
            hub.state,
            milliseconds(hub.rtt_ms),
            hub.why,
        );
    }
    for peer in &report.peers {
        let _ = writeln!(
            out,
            "  peer {:<14} {:<9} {:<24} {:>8}  {}",
            peer.label(),
            peer.path,
            peer.endpoint.as_deref().unwrap_or("-"),
            milliseconds(peer.rtt_ms),
            peer.why,
        );
    }
    for conflict in &report.conflicts {
        let _ = writeln!(out, "  {conflict}");
    }
}

/// States by name, with what is counted where that is news.
fn states(of: &Value, counted: &str, from: u64) -> String {
    let named = of.as_object().into_iter().flatten();
    let named = named.map(|(name, one)| {
        let mut said = format!("{name} {}", text(&one["state"]).replace('_', "-"));
        if let Some(count) = one[counted].as_u64().filter(|count| *count >= from) {
            let _ = write!(said, " ({counted} {count})");
        }
        if let Some(why) = one["said"].as_str() {
            let _ = write!(said, ": {why}");
        }
        said
    });
    named.collect::<Vec<_>>().join(", ")
}

/// `multi-region status`
pub(crate) fn status(value: &Value, json: bool) {
    if json {
        return print(&format!("{value:#}\n"));
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "interface {}  addresses {}  rules generation {}  flows {}",
        text(&value["interface"]["name"]),
        text(&value["interface"]["addresses"]),
        value["rules"]["generation"],
        value["flows"],
    );
    for (name, tunnel) in value["tunnels"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "\n{name}: {}", text(&tunnel["state_text"]));
        for address in tunnel["addresses"].as_array().into_iter().flatten() {
            let _ = writeln!(
                out,
                "  {}  {}, on the device {}",
                text(&address["assigned"]),
                text(&address["role"]),
                text(&address["address_on_device"]),
            );
        }
        let _ = writeln!(
            out,
            "  out {} packets, {} bytes   in {} packets, {} bytes   flows {}   drops: {}",
            tunnel["packets"]["tx"],
            tunnel["bytes"]["tx"],
            tunnel["packets"]["rx"],
            tunnel["bytes"]["rx"],
            tunnel["flows"],
            drops(&tunnel["drops"]),
        );
        let _ = writeln!(out, "  {}", occupied(tunnel));
        // What another version says otherwise is left out; `--json` has it.
        if let Ok(report) = serde_json::from_value(tunnel["mesh"].clone()) {
            mesh(&mut out, &report);
        }
    }
    for (name, group) in value["groups"].as_object().into_iter().flatten() {
        let members = group["members"].as_array().into_iter().flatten();
        let members: Vec<String> = members
            .map(|member| format!("{} {}", text(&member["tunnel"]), text(&member["standing"])))
            .collect();
        let _ = writeln!(
            out,
            "\ngroup {name}: {}, now {}   members: {}",
            text(&group["policy"]),
            text(&group["chosen"]),
            members.join(", "),
        );
    }
    let _ = writeln!(out, "\nall drops: {}", drops(&value["drops"]));
    let dns = &value["dns"];
    let _ = writeln!(
        out,
        "dns: {} queries, {} answers, {} waiting, {} names",
        dns["queries"], dns["answers"], dns["pending"], dns["names"],
    );
    for (key, counted, from) in [("breakers", "opened", 1), ("tasks", "starts", 2)] {
        let _ = writeln!(out, "{key}: {}", states(&value[key], counted, from));
    }
    let process = &value["process"];
    let _ = writeln!(
        out,
        "process: {} fds, {} threads, {} tasks, {} memory",
        text(&process["fds"]),
        process["threads"],
        process["tasks"],
        mebibytes(&process["memory"]),
    );
    for problem in value["rules"]["problems"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "rule problem: {}", text(problem));
    }
    for change in value["changed_by_others"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "changed by others: {}", text(&change["change"]));
    }
    if let Value::String(error) = &value["rules"]["error"] {
        let _ = writeln!(out, "rules cannot be loaded: {error}");
    }
    print(&out);
}

/// `multi-region explain`
pub(crate) fn explanation(value: &Value, json: bool) {
    if json {
        return print(&format!("{value:#}\n"));
    }
    let mut out = String::new();
    for key in [
        "flow",
        "owner",
        "rule",
        "rule_says",
        "verdict",
        "group",
        "group_reason",
        "tunnel",
        "state",
        "source",
        "translated",
        "names",
        "resolver",
        "mtu",
    ] {
        let _ = writeln!(out, "{key:12} {}", text(&value[key]));
    }
    for rule in value["beaten"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "{:12} {}", "beaten", text(rule));
    }
    if let Value::String(note) = &value["note"] {
        let _ = writeln!(out, "{:12} {note}", "note");
    }
    if let Value::String(evidence) = &value["evidence"] {
        let _ = writeln!(out, "evidence\n{evidence}");
    }
    print(&out);
}

/// `multi-region reload`
pub(crate) fn reloaded(value: &Value) {
    let mut out = String::new();
    for (what, key) in [("in force", "applied"), ("after a restart", "restart")] {
        for name in value[key].as_array().into_iter().flatten() {
            let _ = writeln!(out, "{what}: {}", text(name));
        }
    }
    if out.is_empty() {
        out.push_str("nothing changed\n");
    }
    print(&out);
}
