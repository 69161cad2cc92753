//! `multi-region check`: the plan, without touching anything.

use std::fmt::Write as _;
use std::path::Path;

use vpn_core::{Action, TunnelId};
use vpn_routing::alloc::{Allocator, Policy};

use crate::config::ApplyDns;
use crate::control::{self, State};
use crate::error::Error;
use crate::plan::Loaded;
use crate::{report, view};

/// The local stub of systemd-resolved.
const RESOLVED_STUB: &str = "127.0.0.53";

pub(crate) async fn check(path: &Path) -> Result<(), Error> {
    let loaded = Loaded::read(path)?;
    let rules = loaded.current_rules()?;
    let config = &loaded.config;
    let running = control::state_of(&config.control.socket)
        .await
        .map_err(|cause| Error::Control {
            path: config.control.socket.clone(),
            cause,
        })?;
    let name = config.interface.name.as_str();
    // A running daemon has its interface, and is no reason to complain.
    if running != State::Alive && nix::net::if_::if_nametoindex(name).is_ok() {
        return Err(Error::InUse {
            name: name.to_owned(),
        });
    }
    let mut out = String::new();
    let _ = writeln!(out, "interface {name}");
    write_tunnels(&mut out, &loaded);
    let _ = writeln!(out, "rules ({}):", config.rules.display());
    for rule in &rules {
        let _ = writeln!(out, "  {rule}");
    }
    let default = match &config.default {
        block if block == "block" => Action::Block,
        tunnel => Action::Tunnel(tunnel.clone()),
    };
    let dns = &config.dns;
    let _ = writeln!(out, "default: {default}");
    let _ = writeln!(
        out,
        "dns: apply {:?}, virtual resolver {}",
        dns.apply, dns.resolver
    );
    let system = std::fs::read_to_string(&dns.path).unwrap_or_default();
    if dns.apply != ApplyDns::ResolvConf && system.contains(RESOLVED_STUB) {
        let _ = writeln!(
            out,
            "  note: {} names systemd-resolved, which asks on behalf of every app: no DNS per app \
             through it",
            dns.path.display()
        );
    }
    let _ = writeln!(out, "on exit: {:?}", config.on_exit);
    if running == State::Alive {
        let _ = writeln!(
            out,
            "a daemon answers at {}",
            config.control.socket.display()
        );
    }
    view::print(&out);
    Ok(())
}

fn write_tunnels(out: &mut String, loaded: &Loaded) {
    let mut allocator = Allocator::new(Policy::default());
    let name_of = |id: TunnelId| {
        loaded
            .tunnels
            .keys()
            .nth(id.index())
            .cloned()
            .unwrap_or_else(|| id.to_string())
    };
    for (name, file) in &loaded.tunnels {
        let Some(id) = loaded.id_of(name) else {
            continue;
        };
        allocator.admit(id, &file.interface.addresses);
        let path = loaded.config.tunnel[name].wireguard.display();
        let _ = writeln!(out, "tunnel {name}: {path}");
        for placement in allocator.roles(id) {
            let role = report::role(&placement.role, name_of);
            let (assigned, on_device) = (placement.assigned, placement.on_device);
            let _ = writeln!(out, "  {assigned}: {role}, on the device {on_device}");
        }
        let _ = writeln!(
            out,
            "  mtu {}  dns {}",
            file.mtu(),
            list(&file.interface.dns)
        );
        for warning in &file.warnings {
            let _ = writeln!(out, "  note: {warning}");
        }
    }
    let addresses: Vec<_> = allocator.plan_addresses().into_iter().collect();
    let _ = writeln!(out, "device addresses: {}", list(&addresses));
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        items => items
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}
