//! What the daemon tells over its control socket, as JSON.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use vpn_core::metrics::{Breaker, Retry, Snapshot};
use vpn_core::{DropCounters, Owner, TransportState, TunnelId};
use vpn_resilience::supervise::TaskStatus;
use vpn_routing::alloc::Role;
use vpn_routing::conn::Origin;
use vpn_routing::engine::{EngineGone, EngineHandle};
use vpn_routing::group::GroupStatus;
use vpn_routing::router::{AppStatus, FlowStatus, Status, TunnelStatus};
use vpn_routing::rules::{FeedStatus, RuleCache};
use vpn_tun::Journal;

use crate::control::Request;
use crate::explain::explain;
use crate::kept::Kept;
use crate::policy::Policy;
use crate::reload::Reload;
use crate::resources;

fn drops(counters: &DropCounters) -> Value {
    counters
        .iter()
        .map(|(reason, n)| (reason.name().to_owned(), n.into()))
        .collect::<Map<_, _>>()
        .into()
}

/// Flows listed in a report; all are counted.
const LISTED_FLOWS: usize = 100;

/// Applications listed in a report, by tunnel: those that moved most bytes.
const LISTED_APPS: usize = 200;

/// Answers questions about a running engine. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) engine: EngineHandle,
    pub(crate) interface: String,
    pub(crate) feed: watch::Receiver<FeedStatus>,
    pub(crate) rules: RuleCache,
    pub(crate) reload: Reload,
    /// What names stand for now.
    pub(crate) policy: Policy,
    /// The database of rules, if the configuration names one.
    pub(crate) database: Option<PathBuf>,
    /// What others changed of what is ours.
    pub(crate) journal: Journal,
    /// What keeps parts alive.
    pub(crate) kept: Kept,
}

impl Reporter {
    pub(crate) async fn answer(&self, request: &Request) -> Value {
        let answer = match request {
            Request::Status => self.status().await,
            Request::Explain(question) => explain(&self.engine, &self.rules, question).await,
            Request::Reload => return self.reload.answer().await,
            Request::Switch(switch) => return self.switch(switch).await,
        };
        answer.unwrap_or_else(|gone| json!({ "error": gone.to_string() }))
    }

    async fn status(&self) -> Result<Value, EngineGone> {
        let flows = self.engine.flows(LISTED_FLOWS).await?;
        let apps = self.engine.apps(LISTED_APPS).await?;
        let report = self.engine.status().await?;
        let rules = self.feed.borrow().clone();
        let mut value = status(&report, &self.interface, &rules);
        for (name, mesh) in self.kept.meshes() {
            // One that was taken away in between is not there.
            if let Some(tunnel) = value["tunnels"].get_mut(&name) {
                tunnel["mesh"] = serde_json::to_value(mesh).unwrap_or_default();
            }
        }
        value["changed_by_others"] = changed_by_others(&self.journal);
        value["flow_list"] = flows.iter().map(|f| flow(f, &report)).collect();
        value["apps"] = apps.iter().map(|a| app(a, &report)).collect();
        value["process"] = resources::own();
        value["rules"]["database"] = self.database.is_some().into();
        let mut snapshot = Snapshot::default();
        self.kept.measure(&mut snapshot);
        value["breakers"] = snapshot.breakers.iter().map(breaker).collect();
        value["retries"] = snapshot.retries.iter().map(retry).collect();
        value["tasks"] = self.kept.tasks().tasks.iter().map(task).collect();
        Ok(value)
    }
}

fn changed_by_others(journal: &Journal) -> Value {
    let changes = journal.foreign_changes();
    let changes = changes.iter().map(|change| {
        json!({
            "kind": change.kind(),
            "change": change.to_string(),
        })
    });
    changes.collect()
}

fn breaker(breaker: &Breaker) -> (String, Value) {
    let value = json!({
        "state": breaker.state,
        "opened": breaker.opened,
        "closed": breaker.closed,
        "given": breaker.admitted,
        "refused": breaker.refused,
    });
    (breaker.name.clone(), value)
}

fn retry(retry: &Retry) -> (String, Value) {
    let value = json!({
        "attempts": retry.attempts,
        "succeeded": retry.succeeded,
        "given_up": retry.given_up,
    });
    (retry.name.clone(), value)
}

fn task(task: &TaskStatus) -> (String, Value) {
    let value = json!({
        "state": task.state.name(),
        "starts": task.counters.starts,
        "failures": task.counters.failures,
        "panics": task.counters.panics,
        "said": task.said,
    });
    (task.name.to_string(), value)
}

fn flow(flow: &FlowStatus, status: &Status) -> Value {
    json!({
        "flow": flow.device.to_string(),
        "in_tunnel": flow.wire.to_string(),
        "tunnel": name_of(status, flow.tunnel),
        "uid": flow.owner.as_ref().map(|owner| owner.uid),
        "executable": flow.owner.as_ref().and_then(executable_of),
        "rule": flow.rule.map_or_else(|| "default".to_owned(), |id| id.to_string()),
    })
}

/// What one application does through one tunnel.
fn app(app: &AppStatus, status: &Status) -> Value {
    let owner = app.owner.as_ref();
    let path = |path: &Arc<Path>| path.to_string_lossy().into_owned();
    json!({
        "uid": owner.map(|owner| owner.uid),
        "executable": owner.and_then(executable_of),
        "cgroup": owner.and_then(|owner| owner.cgroup.as_ref().map(path)),
        "package": owner.and_then(|owner| owner.package.as_deref()),
        "inbound": app.origin == Origin::Tunnel,
        "tunnel": name_of(status, app.tunnel),
        "flows": app.flows,
        "bytes": { "tx": app.tx_bytes, "rx": app.rx_bytes },
    })
}

/// As text: JSON has no other paths.
pub(crate) fn executable_of(owner: &Owner) -> Option<String> {
    owner
        .executable
        .as_ref()
        .map(|path| path.to_string_lossy().into_owned())
}

pub(crate) fn name_of(status: &Status, id: TunnelId) -> &str {
    status
        .tunnels
        .iter()
        .find(|tunnel| tunnel.id == id)
        .map_or("-", |tunnel| &tunnel.name)
}

/// A role in words, with the name of the primary.
pub(crate) fn role(role: &Role, name: impl Fn(TunnelId) -> String) -> String {
    match role {
        Role::Secondary { of, primary } => {
            format!("secondary of {of} (primary {})", name(*primary))
        }
        primary @ Role::Primary { .. } => primary.to_string(),
    }
}

/// `status --json`
fn status(status: &Status, interface: &str, rules: &FeedStatus) -> Value {
    let tunnels: Map<String, Value> = status
        .tunnels
        .iter()
        .map(|t| (t.name.clone(), tunnel(t, status)))
        .collect();
    let groups: Map<String, Value> = status
        .groups
        .iter()
        .map(|g| (g.name.clone(), group(g, status)))
        .collect();
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
            "hits": status.rules.hits,
            "misses": status.rules.misses,
            "error": rules.error,
            "problems": rules.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "tunnels": tunnels,
        "groups": groups,
        "flows": status.flows,
        "dns": {
            "queries": status.dns.counters.queries,
            "answers": status.dns.counters.answers,
            "unexpected": status.dns.counters.unexpected,
            "refused": status.dns.counters.refused,
            "pending": status.dns.pending,
            "names": status.dns.names,
        },
        "drops": drops(&accounts.drops),
        "packets": {
            "in_device": accounts.in_device,
            "in_tunnels": accounts.in_tunnels,
            "made": accounts.made,
            "out_device": accounts.out_device,
            "out_tunnels": accounts.out_tunnels,
            "held": accounts.held,
            "queued": accounts.queued,
            "handed_over": accounts.handed_out,
        },
    })
}

fn group(group: &GroupStatus, status: &Status) -> Value {
    let members = group.members.iter().map(|member| {
        json!({
            "tunnel": name_of(status, member.tunnel),
            "standing": format!("{:?}", member.standing).to_lowercase(),
            "in_use": member.in_use,
            "round_trip_ms": member.round_trip.map(|time| time.as_secs_f64() * 1e3),
            "weight": member.weight,
        })
    });
    json!({
        "policy": group.policy,
        "chosen": group.chosen.map(|id| name_of(status, id)),
        "members": members.collect::<Vec<_>>(),
    })
}

fn tunnel(tunnel: &TunnelStatus, status: &Status) -> Value {
    let addresses: Vec<Value> = tunnel
        .addresses
        .iter()
        .map(|placement| {
            // Direct has none there.
            let on_device = status.plan.addresses.get(&placement.on_device);
            json!({
                "assigned": placement.assigned,
                "role": role(&placement.role, |id| name_of(status, id).to_owned()),
                "address_on_device": on_device,
                "translated": on_device.is_none() || placement.needs_translation(),
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
        "names": tunnel.names,
        "round_trip_ms": tunnel.round_trip.map(|time| time.as_secs_f64() * 1e3),
        "resources": resources::tunnel(&tunnel.resources),
        "packets": { "tx": counters.tx_packets, "rx": counters.rx_packets },
        "bytes": { "tx": counters.tx_bytes, "rx": counters.rx_bytes },
        "drops": drops(&counters.drops),
    })
}
