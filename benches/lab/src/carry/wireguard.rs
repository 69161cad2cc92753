//! One end of a WireGuard tunnel of ours: TUN, engine with connections and translation on,
//! transport. The application's end sends everything into the tunnel; the far end admits what
//! comes out of it.

use std::sync::Arc;

use vpn_core::rule::RuleProtocol;
use vpn_core::{Action, DropReason, InboundRule, Rule, RuleId, RuleMatch, RuleSnapshot};
use vpn_p2p::{WgQuick, WireGuardOptions, WireGuardTransport};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::owner::MemoryOwners;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};
use vpn_tun::MarkedUnderlay;

use super::{DEVICE, Words, ready, tun};
use crate::Error;

/// Any mark: nothing is captured in these namespaces.
const MARK: u32 = 1;

/// `profile=FILE` is a wg-quick file; it starts in the namespace of its end.
pub(super) async fn run(words: &Words) -> Result<(), Error> {
    let config = WgQuick::read(words.get("profile")?)?;
    let device = tun(DEVICE, words.offload())?;
    let transport = WireGuardTransport::new(
        config,
        Arc::new(MarkedUnderlay::new(MARK)),
        WireGuardOptions::default(),
    )?;
    let rules = RuleCache::new();
    let owners = Arc::new(MemoryOwners::new());
    let config = RouterConfig::default();
    let mut engine = Engine::new(Arc::new(device), owners, rules.clone(), config);
    let tunnel = engine.add_tunnel("peer", Arc::new(transport))?;
    let into_it = Action::Tunnel("peer".to_owned());
    let admitted = [RuleProtocol::Tcp, RuleProtocol::Udp, RuleProtocol::Icmp];
    let snapshot = RuleSnapshot {
        rules: vec![Rule::new(RuleId(1), RuleMatch::default(), into_it)],
        inbound: (2..)
            .zip(admitted)
            .map(|(id, protocol)| InboundRule {
                id: RuleId(id),
                tunnel: "peer".to_owned(),
                protocol,
                ports: None,
                to_port: None,
                remote: None,
                behind: None,
            })
            .collect(),
        ..RuleSnapshot::default()
    };
    rules.swap(CompiledRules::compile(
        &snapshot,
        &|name: &str| (name == "peer").then_some(tunnel),
        Target::Block(DropReason::BlockedByDefault),
    )?);
    ready()?;
    Ok(engine.run().await.map(drop)?)
}
