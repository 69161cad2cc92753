//! `multi-region check`: the plan, without touching anything.

use std::path::Path;

use vpn_core::{Action, TunnelId};
use vpn_routing::alloc::{Allocator, Policy};

use crate::error::Error;
use crate::plan::Loaded;

pub(crate) async fn check(path: &Path) -> Result<(), Error> {
    let loaded = Loaded::read(path).await?;
    let config = &loaded.config;
    println!("interface {}", config.interface.name);
    let mut allocator = Allocator::new(Policy::default());
    for (index, (name, file)) in loaded.tunnels.iter().enumerate() {
        let id = TunnelId::new(index as u16);
        allocator.admit(id, &file.interface.addresses);
        println!("tunnel {name}: {}", config.tunnel[name].wireguard.display());
        for placement in allocator.roles(id) {
            println!(
                "  {}: {}, on the device {}",
                placement.assigned, placement.role, placement.on_device
            );
        }
        println!("  mtu {}  dns {}", file.mtu(), list(&file.interface.dns));
        for warning in &file.warnings {
            println!("  note: {warning}");
        }
    }
    println!("device addresses: {}", list(&allocator.plan_addresses().into_iter().collect::<Vec<_>>()));
    println!("rules ({}):", config.rules.display());
    for rule in &loaded.current {
        println!("  {rule}");
    }
    let default = match &config.default {
        block if block == "block" => Action::Block,
        tunnel => Action::Tunnel(tunnel.clone()),
    };
    println!("default: {default}");
    println!("dns: apply {:?}, virtual resolver {}", config.dns.apply, config.dns.resolver);
    println!("on exit: {:?}", config.on_exit);
    Ok(())
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
