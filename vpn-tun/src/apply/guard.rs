//! Decides what the packet filter drops beside the capture; touches it by [`crate::nft`].
//!
//! Always: who sends to an address of the device over another interface gets no answer, also not to
//! the question who has it (Linux answers for every address on every interface). With `lockdown`:
//! what routes cannot stop is dropped as well, namely packets of apps that bind to the uplink and
//! what a more specific route leads around.
//!
//! IPv6 neighbours need no rule of ours: the kernel answers a solicitation only for addresses of
//! the interface it came in by.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::{Value, json};
use vpn_core::{Family, InterfacePlan, Way};

use super::config::CaptureConfig;
use super::policy::{Entry, entries};
use crate::direct::device_beside;
use crate::name::InterfaceName;
use crate::nft::{self, NftError, Table, accept, drop, field, matches, meta, set};

/// Behind the tables that change packets, where filters stand (`filter` of nft(8)).
const PRIORITY: i32 = 0;

/// ICMPv6 types a host needs to find neighbours and routers (RFC 4861 §4) and to join their
/// multicast groups (RFC 2710, RFC 3810).
const NEIGHBOUR_DISCOVERY: [u8; 6] = [131, 132, 133, 135, 136, 143];

/// What is guarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Guarded {
    pub(super) addresses: BTreeSet<IpNet>,
    v4: Vec<Entry>,
    v6: Vec<Entry>,
    lockdown: bool,
}

impl Guarded {
    /// What a plan needs: nothing of the bypass list without lockdown.
    pub(super) fn new(plan: &InterfacePlan, lockdown: bool) -> Self {
        let list = |family| match lockdown {
            true => entries(&plan.bypass, family),
            false => Vec::new(),
        };
        Self {
            addresses: plan.addresses.clone(),
            v4: list(Family::V4),
            v6: list(Family::V6),
            lockdown,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && !self.lockdown
    }
}

/// Replaces what is guarded, at once.
pub(super) async fn install(
    capture: &CaptureConfig,
    device: &InterfaceName,
    guarded: &Guarded,
) -> Result<(), NftError> {
    nft::run(commands(capture, device, guarded)).await
}

/// Removes the tables, if there are any.
pub(super) async fn remove(capture: &CaptureConfig) -> Result<(), NftError> {
    let [inet, arp] = tables(capture);
    nft::run(inet.gone().into_iter().chain(arp.gone()).collect()).await
}

/// One table per family of hooks, named after the capture's routing table.
pub(super) fn tables(capture: &CaptureConfig) -> [Table; 2] {
    ["inet", "arp"].map(|family| Table {
        family,
        name: format!("vpn_tun_guard_{}", capture.table),
    })
}

fn commands(capture: &CaptureConfig, device: &InterfaceName, guarded: &Guarded) -> Vec<Value> {
    let [inet, arp] = tables(capture);
    if guarded.is_empty() {
        return inet.gone().into_iter().chain(arp.gone()).collect();
    }
    let mut all: Vec<Value> = inet.anew().into_iter().chain(arp.anew()).collect();
    all.push(inet.chain("filter", "input", PRIORITY));
    all.push(arp.chain("filter", "input", PRIORITY));
    let from_elsewhere = |ours: &[&str]| {
        let ours = ours.iter().map(|name| json!(name)).collect();
        matches(meta("iifname"), "!=", set(ours))
    };
    let elsewhere = from_elsewhere(&[device.as_str(), "lo"]);
    for (family, protocol) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let addresses: Vec<Value> = guarded
            .addresses
            .iter()
            .filter(|net| Family::of(net.addr()) == family)
            .map(|net| json!(net.addr().to_string()))
            .collect();
        if addresses.is_empty() {
            continue;
        }
        let to = matches(field(protocol, "daddr"), "==", set(addresses.clone()));
        all.push(inet.rule("input", vec![elsewhere.clone(), to, drop()]));
        if family == Family::V4 {
            let asked = matches(field("arp", "daddr ip"), "==", set(addresses));
            all.push(arp.rule("input", vec![elsewhere.clone(), asked, drop()]));
        }
    }
    if guarded.lockdown {
        lockdown(capture, device, guarded, &inet, &mut all);
    }
    all
}

/// Drops what leaves by any way but ours.
fn lockdown(
    capture: &CaptureConfig,
    device: &InterfaceName,
    guarded: &Guarded,
    table: &Table,
    all: &mut Vec<Value>,
) {
    let direct = device_beside(device);
    let both = || set(vec![json!(device.as_str()), json!(direct.as_str())]);
    let lists = [(Family::V4, &guarded.v4), (Family::V6, &guarded.v6)];
    all.push(table.chain("filter", "output", PRIORITY));
    let ours = set(vec![json!(device.as_str()), json!("lo")]);
    let mut output = vec![
        vec![matches(meta("oifname"), "==", ours), accept()],
        vec![matches(meta("mark"), "==", json!(capture.mark)), accept()],
        vec![
            matches(
                field("icmpv6", "type"),
                "==",
                set(NEIGHBOUR_DISCOVERY.map(|kind| json!(kind)).into()),
            ),
            accept(),
        ],
        dhcp("ip", 68, 67),
        dhcp("ip6", 546, 547),
    ];
    for (family, list) in lists {
        output.extend(
            list.iter()
                .map(|entry| conditions(entry, family, Toward::Them)),
        );
    }
    output.push(vec![drop()]);
    all.extend(output.into_iter().map(|expr| table.rule("output", expr)));

    all.push(table.chain("filter", "forward", PRIORITY));
    let mut forward = vec![
        vec![matches(meta("iifname"), "==", both()), accept()],
        vec![matches(meta("oifname"), "==", both()), accept()],
    ];
    for (family, list) in lists {
        // Forwarded packets have no socket, and so no user.
        for entry in list.iter().filter(|entry| entry.uids.is_none()) {
            forward.push(conditions(entry, family, Toward::Them));
            forward.push(conditions(entry, family, Toward::Us));
        }
    }
    forward.push(vec![drop()]);
    all.extend(forward.into_iter().map(|expr| table.rule("forward", expr)));
}

/// A client's messages to a DHCP server (RFC 2131 §4.1, RFC 8415 §7.2).
fn dhcp(protocol: &str, from: u16, to: u16) -> Vec<Value> {
    let nfproto = if protocol == "ip" { "ipv4" } else { "ipv6" };
    vec![
        matches(meta("nfproto"), "==", json!(nfproto)),
        matches(field("udp", "sport"), "==", json!(from)),
        matches(field("udp", "dport"), "==", json!(to)),
        accept(),
    ]
}

/// Which way a packet of a forwarded connection goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Toward {
    Them,
    /// Answers only.
    Us,
}

/// An entry of the bypass list as a rule: what it captures and that is here has got around.
fn conditions(entry: &Entry, family: Family, toward: Toward) -> Vec<Value> {
    let (nfproto, protocol) = match family {
        Family::V4 => ("ipv4", "ip"),
        Family::V6 => ("ipv6", "ip6"),
    };
    let (address, port) = match toward {
        Toward::Them => ("daddr", "dport"),
        Toward::Us => ("saddr", "sport"),
    };
    let mut expr = vec![matches(meta("nfproto"), "==", json!(nfproto))];
    if let Some(uids) = &entry.uids {
        let range = json!({"range": [uids.start(), uids.end()]});
        expr.push(matches(meta("skuid"), "==", range));
    }
    if let Some(net) = entry.destination
        && net.prefix_len() > 0
    {
        let prefix = json!({"prefix": {"addr": net.addr().to_string(), "len": net.prefix_len()}});
        expr.push(matches(field(protocol, address), "==", prefix));
    }
    if let Some(number) = entry.protocol {
        expr.push(matches(meta("l4proto"), "==", json!(number.0)));
    }
    if let Some(ports) = &entry.ports {
        let range = json!({"range": [ports.start(), ports.end()]});
        expr.push(matches(field("th", port), "==", range));
    }
    if toward == Toward::Us {
        let direction = json!({"ct": {"key": "direction"}});
        expr.push(matches(direction, "==", json!("reply")));
    }
    expr.push(match entry.way {
        Way::Main => accept(),
        Way::Capture => drop(),
    });
    expr
}
