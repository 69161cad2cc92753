//! A host that must build its interface anew for every change: what tunnels with addresses of a
//! subnet that is there, and with resolvers of their own, cost it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use vpn_core::rebuild::{Abilities, Outcome, Rebuild, Step};
use vpn_core::{Assigned, DownCause, InterfacePlan, TransportState};
use vpn_routing::router::{Event, Update};
use vpn_routing::{Router, RouterConfig};

struct Host {
    router: Router,
    rebuild: Rebuild,
    now: Instant,
    interfaces: Vec<InterfacePlan>,
}

impl Host {
    fn pass(&mut self, time: Duration) {
        while let Some(event) = self.router.next_event() {
            if let Event::Plan(plan) = event {
                self.rebuild.want(self.now, plan);
            }
        }
        let end = self.now + time;
        while let Some(at) = self.rebuild.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            match self.rebuild.poll(self.now) {
                Some(Step::Rebuild(plan)) => self.interfaces.push(plan),
                Some(other) => panic!("{other:?}"),
                None => continue,
            }
            self.rebuild.done(self.now, Outcome::Applied);
        }
        self.now = end;
    }
}

fn assigned(address: &str, dns: &str, mtu: u16) -> TransportState {
    TransportState::Up(Arc::new(Assigned {
        addresses: vec![address.parse().unwrap()],
        dns: vec![dns.parse().unwrap()],
        mtu,
        ..Assigned::default()
    }))
}

#[test]
fn fifty_secondary_addresses_and_resolvers_cost_no_interface() {
    let now = Instant::now();
    let config = RouterConfig {
        resolvers: vec!["100.127.255.53".parse().unwrap()],
        ..RouterConfig::default()
    };
    let mut host = Host {
        router: Router::new(config, now),
        rebuild: Rebuild::new(Abilities::NONE),
        now,
        interfaces: Vec::new(),
    };
    let first = host.router.add_tunnel("first").unwrap();
    let up = assigned("10.5.0.2/16", "10.5.0.1", 1420);
    host.router
        .handle_update(host.now, Update::Tunnel(first, up));
    host.pass(Duration::from_secs(2));
    assert_eq!(host.interfaces.len(), 1);
    let stands = host.interfaces[0].clone();
    assert_eq!(stands.addresses.len(), 1);

    for n in 0..50u8 {
        let tunnel = host.router.add_tunnel(&format!("t{n}")).unwrap();
        for turn in 0..3 {
            let up = assigned(
                &format!("10.5.{turn}.{}/16", n + 3),
                &format!("10.5.0.{}", n + 3),
                1380,
            );
            host.router
                .handle_update(host.now, Update::Tunnel(tunnel, up));
            host.pass(Duration::from_secs(1));
        }
        if n % 2 == 0 {
            let down = TransportState::Down(DownCause::NoAnswer);
            host.router
                .handle_update(host.now, Update::Tunnel(tunnel, down));
            host.pass(Duration::from_secs(1));
        }
    }
    // The primary goes too: another one inherits the address.
    host.router.remove_tunnel(host.now, first);
    host.pass(Duration::from_secs(2));
    assert_eq!(host.interfaces.len(), 1, "{:?}", host.interfaces);

    // Another subnet is worth an interface, and one for several at once.
    for n in 0..3 {
        let tunnel = host.router.add_tunnel(&format!("other{n}")).unwrap();
        let up = assigned(&format!("10.{}.0.2/16", 100 + n), "10.100.0.1", 1420);
        host.router
            .handle_update(host.now, Update::Tunnel(tunnel, up));
        host.pass(Duration::from_millis(20));
    }
    host.pass(Duration::from_secs(2));
    assert_eq!(host.interfaces.len(), 2);
    assert!(host.interfaces[1].addresses.is_superset(&stands.addresses));
}
