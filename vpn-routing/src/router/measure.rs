//! A router's report as samples.

use vpn_core::metrics;

use super::status::{Status, TunnelStatus};

impl Status {
    /// Puts what it says into a snapshot: packets, DNS, tunnels and groups, and the rules that decided.
    /// How their source fares is added by its feed, the processes that tunnels have besides by who
    /// may look at them.
    pub fn measure(&self, into: &mut metrics::Snapshot) {
        let accounts = &self.accounts;
        into.router = Some(metrics::Router {
            in_device: accounts.in_device,
            in_tunnels: accounts.in_tunnels,
            made: accounts.made,
            out_device: accounts.out_device,
            out_tunnels: accounts.out_tunnels,
            drops: accounts.drops.clone(),
            held: accounts.held,
            queued: accounts.queued,
            flows: self.flows as u64,
        });
        let rules = into.rules.get_or_insert_default();
        rules.generation = self.generation.0.into();
        rules.by_rule = self.rules.hits;
        rules.by_default = self.rules.misses;
        let dns = &self.dns;
        into.dns = Some(metrics::Dns {
            queries: dns.counters.queries,
            answers: dns.counters.answers,
            unexpected: dns.counters.unexpected,
            refused: dns.counters.refused,
            pending: dns.pending as u64,
            names: dns.names as u64,
        });
        into.tunnels.extend(self.tunnels.iter().map(tunnel));
        for group in &self.groups {
            let members = group.members.iter().map(|member| metrics::GroupMember {
                group: group.name.clone(),
                tunnel: self.name_of(member.tunnel).to_owned(),
                in_use: member.in_use,
            });
            into.groups.extend(members);
        }
    }

    fn name_of(&self, id: vpn_core::TunnelId) -> &str {
        let found = self.tunnels.iter().find(|tunnel| tunnel.id == id);
        found.map_or("-", |tunnel| &tunnel.name)
    }
}

fn tunnel(status: &TunnelStatus) -> metrics::Tunnel {
    let counters = &status.counters;
    metrics::Tunnel {
        name: status.name.clone(),
        state: status.state.clone(),
        tx: [counters.tx_packets, counters.tx_bytes],
        rx: [counters.rx_packets, counters.rx_bytes],
        drops: counters.drops.clone(),
        flows: status.flows as u64,
        names: status.names as u64,
        mtu: status.mtu,
        round_trip: status.round_trip,
        resources: status.resources,
        beside: None,
    }
}
