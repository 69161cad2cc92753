//! Decides what the packet filter does for networks behind this host.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::GatewayConfig;
use crate::forwarding::{Interfaces, Opened};
use crate::name::InterfaceName;
use crate::nft::{Table, accept, drop, field, kind_here, matches, meta, set};

/// Where filters stand (`filter` of nft(8)).
const FILTER: i32 = 0;

/// One per device. What nft(8) does not take in a name is an underscore.
pub(super) fn table(interface: &InterfaceName) -> Table {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let device: String = interface.as_str().chars().map(plain).collect();
    Table {
        family: "inet",
        name: format!("vpn_tun_gateway_{device}"),
    }
}

/// The whole table, which replaces what was there.
pub(super) fn commands(
    config: &GatewayConfig,
    leading: &Interfaces,
    opened: &Opened,
) -> Vec<Value> {
    let table = table(&config.interface);
    let mut all: Vec<Value> = table.anew().into();
    all.push(table.chain("filter", "forward", FILTER));
    all.push(table.chain("filter", "input", FILTER));
    let ours = config.interface.as_str();
    let from_us = || matches(meta("iifname"), "==", json!(ours));
    let to_us = || matches(meta("oifname"), "==", json!(ours));
    let mut forward = Vec::new();
    // Where it came from: a relay between those behind the tunnel.
    forward.push(vec![from_us(), to_us(), drop()]);
    for net in &config.networks {
        forward.push(vec![from_us(), within(net, "daddr"), accept()]);
        let names = match net {
            IpNet::V4(_) => &leading.v4,
            IpNet::V6(_) => &leading.v6,
        };
        // An empty set is an error to nft(8).
        if !names.is_empty() {
            let names = names.iter().map(|name| json!(name)).collect();
            let from_there = matches(meta("iifname"), "==", set(names));
            forward.push(vec![to_us(), from_there, within(net, "saddr"), accept()]);
        }
    }
    forward.push(vec![from_us(), drop()]);
    for net in &config.networks {
        // From elsewhere, so it only says that it is of that network. What has another source is
        // forwarded only where somebody else wants it.
        forward.push(vec![to_us(), within(net, "saddr"), drop()]);
    }
    forward.extend(opened.others_dropped());
    all.extend(forward.into_iter().map(|expr| table.rule("forward", expr)));
    for net in &config.networks {
        // This host has addresses there too (and hears broadcasts), for which its own rules are: it
        // is reached by those of the device.
        let elsewhere = matches(kind_here(), "!=", json!("local"));
        let input = vec![from_us(), within(net, "daddr"), elsewhere, drop()];
        all.push(table.rule("input", input));
    }
    all
}

/// An address of a packet is in this network.
fn within(net: &IpNet, which: &str) -> Value {
    let protocol = match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    };
    let net = net.trunc();
    if net.prefix_len() == 0 {
        let family = if net.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        return matches(meta("nfproto"), "==", json!(family));
    }
    let prefix = json!({"prefix": {"addr": net.addr().to_string(), "len": net.prefix_len()}});
    matches(field(protocol, which), "==", prefix)
}
