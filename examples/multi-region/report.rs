//! What the daemon tells over its control socket, as JSON.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use vpn_core::{DropCounters, FlowKey, Owner, TransportState, Verdict};
use vpn_routing::engine::{EngineGone, EngineHandle};
use vpn_routing::router::{Status, TunnelStatus};
use vpn_routing::rules::FeedStatus;

use crate::rule::Proto;

fn drops(counters: &DropCounters) -> Value {
    counters.iter().map(|(reason, n)| (reason.name().to_owned(), n.into())).collect::<Map<_, _>>().into()
}

/// `status --json`
pub(crate) fn status(status: &Status, interface: &str, rules: &FeedStatus) -> Value {
    let tunnels: Map<String, Value> =
        status.tunnels.iter().map(|t| (t.name.clone(), tunnel(t, status))).collect();
    let accounts = &status.accounts;
    json!({
        "interface": {
            "name": interface,
            "addresses": status.plan.addresses,
            "mtu": status.plan.mtu,
            "dns": status.plan.dns,
        },
        "rules": {
            "generation": status.generation.0,
            "error": rules.error,
            "problems": rules.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "tunnels": tunnels,
        "flows": status.flows,
        "drops": drops(&accounts.drops),
        "packets": {
            "in_device": accounts.in_device,
            "in_tunnels": accounts.in_tunnels,
            "out_device": accounts.out_device,
            "out_tunnels": accounts.out_tunnels,
            "held": accounts.held,
            "queued": accounts.queued,
        },
    })
}

fn tunnel(tunnel: &TunnelStatus, status: &Status) -> Value {
    let name_of = |id| {
        status.tunnels.iter().find(|t| t.id == id).map_or("?", |t| t.name.as_str()).to_owned()
    };
    let role = |role: &vpn_routing::alloc::Role| match role {
        vpn_routing::alloc::Role::Primary { subnet } => format!("primary of {subnet}"),
        vpn_routing::alloc::Role::Secondary { of, primary } => {
            format!("secondary of {of} (primary {})", name_of(*primary))
        }
    };
    let addresses: Vec<Value> = tunnel
        .addresses
        .iter()
        .map(|placement| {
            json!({
                "assigned": placement.assigned,
                "role": role(&placement.role),
                "address_on_device": placement.on_device,
                "translated": placement.needs_translation(),
            })
        })
        .collect();
    let first = |key: &str| addresses.first().map_or(Value::Null, |a| a[key].clone());
    let counters = &tunnel.counters;
    json!({
        "state": tunnel.state.name(),
        "state_text": tunnel.state.to_string(),
        "cause": match &tunnel.state {
            TransportState::Down(cause) => Value::from(cause.to_string()),
            _ => Value::Null,
        },
        "role": first("role"),
        "assigned": tunnel.addresses.iter().map(|p| p.assigned).collect::<Vec<_>>(),
        "address_on_device": first("address_on_device"),
        "addresses": addresses,
        "dns": tunnel.dns,
        "mtu": tunnel.mtu,
        "flows": tunnel.flows,
        "packets": { "tx": counters.tx_packets, "rx": counters.rx_packets },
        "bytes": { "tx": counters.tx_bytes, "rx": counters.rx_bytes },
        "drops": drops(&counters.drops),
    })
}

/// `explain --json`
pub(crate) async fn explain(
    engine: &EngineHandle,
    uid: u32,
    executable: Option<PathBuf>,
    dst: SocketAddr,
    proto: Proto,
) -> Result<Value, EngineGone> {
    let status = engine.status().await?;
    // The source the kernel would choose; rules do not look at it.
    let on_device = status.plan.addresses.iter().map(|net| net.addr());
    let unspecified = SocketAddr::from(match dst {
        SocketAddr::V4(_) => (std::net::IpAddr::from([0u8; 4]), 0),
        SocketAddr::V6(_) => (std::net::IpAddr::from([0u8; 16]), 0),
    });
    let source = on_device
        .into_iter()
        .find(|a| a.is_ipv4() == dst.is_ipv4())
        .unwrap_or_else(|| unspecified.ip());
    let flow = FlowKey::new(proto.number(dst.is_ipv6()), (source, 0), (dst.ip(), dst.port()));
    let owner =
        Owner { uid, executable: executable.map(|p| Arc::from(p.as_path())), socket: 0 };
    let told = engine.explain(Some(owner), flow).await?;
    let verdict = match told.verdict {
        Verdict::Tunnel(_) => "tunnel".to_owned(),
        Verdict::Device => "device".to_owned(),
        Verdict::Held => "held until the tunnel is up".to_owned(),
        Verdict::Drop(reason) => format!("drop: {reason}"),
    };
    Ok(json!({
        "flow": told.flow.to_string(),
        "owner": {
            "uid": uid,
            "executable": told.owner.and_then(|o| o.executable).map(|p| p.to_path_buf()),
        },
        "rule": told.rule.map_or_else(|| "default".to_owned(), |id| id.to_string()),
        "verdict": verdict,
        "tunnel": told.tunnel,
        "state": told.state.map(|s| s.to_string()),
        "source": told.source,
        "translated": told.source.is_some_and(|s| s != source),
        "resolver": told.resolver,
        "mtu": told.mtu,
    }))
}
