//! `multi-region explain`: which way a flow takes, and what that rests on.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vpn_core::{DomainName, DropReason, FlowKey, Owner, TunnelId, Verdict};
use vpn_routing::engine::{EngineGone, EngineHandle};
use vpn_routing::router::{Explanation, Status};
use vpn_routing::rules::{Domains, RuleCache};

use crate::report::{executable_of, name_of};
use crate::rule::Proto;

/// A flow, and whose it is: `local` of a socket that is there, or what is said about its owner.
#[derive(Debug, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// User whose flow it is. Without this and --local, nobody's: forwarded traffic, say.
    #[arg(long)]
    uid: Option<u32>,
    /// Executable whose flow it is.
    #[arg(long, requires = "uid")]
    exe: Option<PathBuf>,
    /// Control group whose flow it is.
    #[arg(long, requires = "uid")]
    cgroup: Option<PathBuf>,
    /// Package whose flow it is.
    #[arg(long, requires = "uid")]
    package: Option<String>,
    /// Source address. Default: the one on the interface.
    #[arg(long)]
    src: Option<IpAddr>,
    /// A socket's own ADDRESS:PORT: the system is asked whose it is.
    #[arg(long, conflicts_with_all = ["uid", "src"])]
    local: Option<SocketAddr>,
    /// Destination, ADDRESS:PORT.
    #[arg(long)]
    dst: SocketAddr,
    /// Protocol.
    #[arg(long, default_value = "tcp")]
    proto: Proto,
}

impl Question {
    fn owner(&self) -> Option<Owner> {
        Some(Owner {
            executable: self.exe.as_deref().map(Arc::from),
            cgroup: self.cgroup.as_deref().map(Arc::from),
            package: self.package.as_deref().map(Arc::from),
            ..Owner::user(self.uid?)
        })
    }

    fn flow(&self, status: &Status) -> FlowKey {
        let dst = (self.dst.ip(), self.dst.port());
        let src = match (self.local, self.src) {
            (Some(local), _) => (local.ip(), local.port()),
            (None, Some(src)) => (src, 0),
            (None, None) => (self.usual_source(status), 0),
        };
        FlowKey::new(self.proto.number(self.dst.is_ipv6()), src, dst)
    }

    /// The source the kernel would choose.
    fn usual_source(&self, status: &Status) -> IpAddr {
        let v4 = self.dst.is_ipv4();
        let unspecified = match v4 {
            true => IpAddr::from([0u8; 4]),
            false => IpAddr::from([0u8; 16]),
        };
        let mut on_device = status.plan.addresses.iter().map(|net| net.addr());
        on_device
            .find(|addr| addr.is_ipv4() == v4)
            .unwrap_or(unspecified)
    }
}

/// The names that the destination is known under.
struct Names<'a>(&'a [(TunnelId, DomainName)]);

impl Domains for Names<'_> {
    fn visit(&self, _: IpAddr, found: &mut dyn FnMut(Option<TunnelId>, &DomainName)) {
        for (tunnel, name) in self.0 {
            found(Some(*tunnel), name);
        }
    }
}

/// What has to be known of an owner besides, where rules of a higher rank ask for it.
fn unsaid(owner: &Owner, verdict: Verdict) -> Option<String> {
    if verdict != Verdict::Drop(DropReason::OwnerUnknown) {
        return None;
    }
    let facts = [
        ("--exe", owner.executable.is_none()),
        ("--cgroup", owner.cgroup.is_none()),
        ("--package", owner.package.is_none()),
    ];
    let unsaid = facts.iter().filter(|(_, unsaid)| *unsaid);
    let options: Vec<_> = unsaid.map(|(option, _)| *option).collect();
    Some(format!(
        "a rule asks for more of the owner: say {}",
        options.join(" or ")
    ))
}

/// `explain --json`
pub(crate) async fn explain(
    engine: &EngineHandle,
    rules: &RuleCache,
    question: &Question,
) -> Result<Value, EngineGone> {
    let status = engine.status().await?;
    let flow = question.flow(&status);
    let told = match question.local {
        Some(_) => engine.explain_flow(flow).await?,
        None => engine.explain(question.owner(), flow).await?,
    };
    Ok(answer(&told, rules, &status))
}

fn answer(told: &Explanation, rules: &RuleCache, status: &Status) -> Value {
    let owner = told.owner.as_ref();
    let by_rules = rules
        .current()
        .explain_named(owner, &told.flow, &Names(&told.names));
    let verdict = match told.verdict {
        Verdict::Tunnel(_) => "tunnel".to_owned(),
        Verdict::Device => "device".to_owned(),
        Verdict::Held => "held until the tunnel is up".to_owned(),
        Verdict::Drop(reason) => format!("drop: {reason}"),
        other => format!("{other:?}"),
    };
    let names = told
        .names
        .iter()
        .map(|(tunnel, name)| json!({ "name": name.as_str(), "tunnel": name_of(status, *tunnel) }));
    // Ids of tunnels mean nothing to people.
    let candidate =
        |found: &vpn_routing::rules::Candidate| format!("{}: {}", found.id, found.matches);
    json!({
        "flow": told.flow.to_string(),
        "owner": owner.map(|owner| json!({
            "uid": owner.uid,
            "executable": executable_of(owner),
            "cgroup": owner.cgroup.as_ref().map(|path| path.to_string_lossy()),
            "package": owner.package.as_deref(),
        })),
        "evidence": told.evidence.as_ref().map(ToString::to_string),
        "rule": match told.rule {
            Some(id) => Some(id.to_string()),
            // Nothing decided it, not even the default.
            None if told.verdict == Verdict::Drop(DropReason::OwnerUnknown) => None,
            None => Some("default".to_owned()),
        },
        "rule_says": by_rules.winner.as_ref().map(candidate),
        "beaten": by_rules.beaten.iter().map(candidate).collect::<Vec<_>>(),
        "verdict": verdict,
        "note": owner.and_then(|owner| unsaid(owner, told.verdict)),
        "group": told.group.as_ref().map(|(name, _)| name),
        "group_reason": told.group.as_ref().and_then(|(_, reason)| Some(reason.as_ref()?.to_string())),
        "fell_back": told.fell_back,
        "tunnel": told.tunnel,
        "state": told.state.as_ref().map(ToString::to_string),
        "source": told.source,
        "translated": told.source.is_some_and(|source| source != told.flow.src()),
        "names": names.collect::<Vec<_>>(),
        "resolver": told.resolver,
        "mtu": told.mtu,
    })
}
