//! Decides what the packet filter does for the direct transport.

use ipnet::IpNet;
use serde_json::{Value, json};
use vpn_core::Family;

use super::config::DirectConfig;
use super::device_beside;
use crate::apply::CaptureConfig;
use crate::forwarding::Opened;
use crate::nft::{Table, accept, drop, field, matches, meta, set};

/// Where sources are translated (`srcnat` of nft(8)).
const SRCNAT: i32 = 100;
/// Where filters stand (`filter` of nft(8)).
const FILTER: i32 = 0;

pub(super) fn table(capture: &CaptureConfig) -> Table {
    Table {
        family: "inet",
        name: format!("vpn_tun_direct_{}", capture.table),
    }
}

/// The whole table, which replaces what was there.
pub(super) fn commands(config: &DirectConfig, opened: &Opened) -> Vec<Value> {
    let table = table(&config.capture);
    let mut all: Vec<Value> = table.anew().into();
    all.push(table.chain("nat", "postrouting", SRCNAT));
    all.push(table.chain("filter", "forward", FILTER));
    let ours = config.interface.as_str();
    let from_us = || matches(meta("iifname"), "==", json!(ours));
    let not_from_us = || matches(meta("iifname"), "!=", json!(ours));
    let to_us = || matches(meta("oifname"), "==", json!(ours));
    let not_to_us = || matches(meta("oifname"), "!=", json!(ours));
    let mut forward = Vec::new();
    for net in &config.addresses {
        let source = source(net);
        let masquerade = json!({"masquerade": null});
        all.push(table.rule("postrouting", vec![source.clone(), not_to_us(), masquerade]));
        // Nobody else has this address, or is masqueraded for having it.
        forward.push(vec![not_from_us(), source, drop()]);
    }
    // Into the captured device, or where they came from: a loop.
    let devices = set(vec![json!(ours), json!(captured(config))]);
    forward.push(vec![
        from_us(),
        matches(meta("oifname"), "==", devices),
        drop(),
    ]);
    for net in &config.addresses {
        forward.push(vec![from_us(), source(net), accept()]);
    }
    forward.push(vec![from_us(), drop()]);
    let state = json!({"ct": {"key": "state"}});
    let answers = matches(state, "in", json!(["established", "related"]));
    forward.push(vec![to_us(), answers, accept()]);
    forward.push(vec![to_us(), drop()]);
    forward.extend(opened.others_dropped());
    all.extend(forward.into_iter().map(|expr| table.rule("forward", expr)));
    all
}

/// The captured device: the interface's name says whose `direct` it is. With a name of the
/// caller's own there is none to tell, and the rules alone prevent the loop.
fn captured(config: &DirectConfig) -> String {
    let ours = config.interface.as_str();
    let device = ours.strip_suffix('d').and_then(|name| name.parse().ok());
    match device {
        Some(device) if device_beside(&device) == config.interface => device.to_string(),
        _ => ours.to_owned(),
    }
}

fn source(net: &IpNet) -> Value {
    let protocol = match Family::of(net.addr()) {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    matches(
        field(protocol, "saddr"),
        "==",
        json!(net.addr().to_string()),
    )
}
