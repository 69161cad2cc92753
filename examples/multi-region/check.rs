//! `multi-region check`: the plan, without touching anything.

use std::fmt::Write as _;
use std::path::Path;

use vpn_core::{RuleSnapshot, TunnelId};
use vpn_routing::alloc::{Allocator, Policy};
use vpn_tun::dns::Lookup;

use crate::config::ApplyDns;
use crate::control::{self, State};
use crate::error::Error;
use crate::plan::Loaded;
use crate::{host, report, view};

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
    for (name, group) in &config.group {
        let _ = writeln!(out, "group {name}: {}", list(&group.members));
    }
    for (path, rules) in &rules {
        write_rules(&mut out, path, rules);
    }
    for problem in rules
        .iter()
        .flat_map(|(_, rules)| loaded.known().problems(rules))
    {
        let _ = writeln!(out, "  note: {problem}");
    }
    if let Some(who) = loaded.direct_asked_by(rules.iter().map(|(_, rules)| rules)) {
        let _ = writeln!(out, "direct: asked for by {who}");
    }
    if config.lockdown {
        let _ = writeln!(out, "lockdown: what the capture cannot stop is dropped");
    }
    let dns = &config.dns;
    let _ = writeln!(out, "default: {}", config.default);
    let _ = writeln!(
        out,
        "dns: apply {:?}, virtual resolver {}",
        dns.apply, dns.resolver
    );
    let own: Vec<_> = host::interfaces().into_values().flatten().collect();
    let own: Vec<_> = own.iter().map(ipnet::IpNet::addr).collect();
    for asker in Lookup::of_system(&dns.path).hidden_askers(&own) {
        // What writing resolv.conf mends is no finding where it is written.
        if dns.apply != ApplyDns::ResolvConf || asker.survives_resolv_conf() {
            let _ = writeln!(out, "  note: no DNS per app: {asker}");
        }
    }
    let _ = writeln!(out, "on exit: {:?}", config.on_exit);
    let _ = writeln!(out, "settings:");
    for (key, value) in config.keys() {
        let _ = writeln!(out, "  {key} = {value}");
    }
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

fn write_rules(out: &mut String, path: &Path, rules: &RuleSnapshot) {
    let _ = writeln!(out, "rules ({}):", path.display());
    for rule in &rules.rules {
        let _ = writeln!(out, "  {rule}");
    }
    for rule in &rules.inbound {
        let _ = writeln!(out, "  inbound {rule}");
    }
    for rule in &rules.filters {
        let _ = writeln!(out, "  filter {rule}");
    }
}

fn write_tunnels(out: &mut String, loaded: &Loaded) {
    let known = loaded.known();
    let mut allocator = Allocator::new(Policy::default());
    let name_of = |id: TunnelId| {
        loaded
            .tunnels
            .keys()
            .nth(id.index())
            .cloned()
            .unwrap_or_else(|| id.to_string())
    };
    for (name, provider) in &loaded.tunnels {
        let Some(&id) = known.tunnels.get(name) else {
            continue;
        };
        allocator.admit(id, provider.addresses());
        let files = loaded.config.tunnel[name].files();
        let files: Vec<_> = files.map(|(_, path)| path.display()).collect();
        let _ = writeln!(out, "tunnel {name}: {}", list(&files));
        for placement in allocator.roles(id) {
            let role = report::role(&placement.role, name_of);
            let (assigned, on_device) = (placement.assigned, placement.on_device);
            let _ = writeln!(out, "  {assigned}: {role}, on the device {on_device}");
        }
        let mtu = provider.mtu().map(|mtu| mtu.to_string());
        let _ = match provider.dns() {
            Some(dns) => {
                let mtu = mtu.as_deref().unwrap_or("what the path leaves");
                writeln!(out, "  mtu {mtu}  dns {}", list(dns))
            }
            None => {
                let mtu = mtu.as_deref().unwrap_or("what the server pushes");
                writeln!(
                    out,
                    "  mtu {mtu}  addresses and dns: what the server pushes"
                )
            }
        };
        for warning in provider.warnings() {
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
