//! The way past the tunnels, where a rule asks for it: a tunnel of the name `direct`.

use std::sync::Arc;

use vpn_core::{Action, OnDown, RuleSnapshot, TunnelTransport};
use vpn_routing::router::TunnelOptions;
use vpn_tun::{DirectConfig, DirectError, DirectTransport};

use crate::error::Error;

/// Its name among the tunnels. No tunnel of a configuration has it.
pub(crate) const NAME: &str = "direct";

/// The first of these rules that may lead past the tunnels, in words.
pub(crate) fn asked_by(rules: &RuleSnapshot) -> Option<String> {
    let direct =
        |action: &Action, on_down: &OnDown| *action == Action::Direct || *on_down == OnDown::Direct;
    let mut rules = rules.rules.iter();
    let rule = rules.find(|rule| direct(&rule.action, &rule.on_down))?;
    Some(rule.to_string())
}

/// What the router is told of it: the system routes its addresses, so they are on its own
/// interface only.
pub(crate) fn options() -> TunnelOptions {
    let mut options = TunnelOptions::default();
    options.off_device = true;
    options
}

/// Opens it, for whoever asked: a rule, or the default.
pub(crate) async fn open(
    config: DirectConfig,
    asked_by: &str,
) -> Result<Arc<dyn TunnelTransport>, Error> {
    let opened = DirectTransport::open(config).await;
    let transport = opened.map_err(|cause: DirectError| Error::Direct {
        asked_by: asked_by.to_owned(),
        cause,
    })?;
    Ok(Arc::new(transport))
}
