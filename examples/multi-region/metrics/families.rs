//! Which samples there are. Pure, but for what processes occupy.

use vpn_core::DropReason;
use vpn_routing::engine::EngineGone;
use vpn_routing::router::Status;
use vpn_routing::rules::FeedStatus;

use super::text::{Family, Kind, Labels, Text};
use super::tunnels;
use crate::report::{Reporter, name_of};
use crate::resources::Process;

pub(super) const fn counter(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        help,
    }
}

pub(super) const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: Kind::Gauge,
        help,
    }
}

impl Reporter {
    /// Everything, as text.
    pub(super) async fn metrics(&self) -> Result<String, EngineGone> {
        let status = self.engine.status().await?;
        let rules = self.feed.borrow().clone();
        let mut text = Text::default();
        packets(&mut text, &status);
        self::rules(&mut text, &status, &rules);
        dns(&mut text, &status);
        tunnels::carried(&mut text, &status);
        groups(&mut text, &status);
        text.family(
            gauge(
                "vpn_changed_by_others",
                "What others changed of what the daemon made in the system.",
            ),
            single(self.journal.foreign_changes().len() as u64),
        );
        tunnels::occupied(&mut text, &status);
        let (own, tasks) = Process::own();
        process(&mut text, &own, tasks);
        Ok(text.finish())
    }
}

fn single(value: u64) -> [(Labels<'static>, f64); 1] {
    [(Vec::new(), value as f64)]
}

fn packets(text: &mut Text, status: &Status) {
    let accounts = &status.accounts;
    text.family(
        counter(
            "vpn_in_packets_total",
            "Packets that came, by where from; router: it made them itself.",
        ),
        [
            (vec![("from", "device")], accounts.in_device as f64),
            (vec![("from", "tunnels")], accounts.in_tunnels as f64),
            (vec![("from", "router")], accounts.made as f64),
        ],
    );
    text.family(
        counter("vpn_out_packets_total", "Packets that were taken, by whom."),
        [
            (vec![("to", "device")], accounts.out_device as f64),
            (vec![("to", "tunnels")], accounts.out_tunnels as f64),
        ],
    );
    text.family(
        counter(
            "vpn_dropped_packets_total",
            "Packets that were dropped, by reason.",
        ),
        DropReason::ALL.iter().map(|&reason| {
            let dropped = accounts.drops.get(reason);
            (vec![("reason", reason.name())], dropped as f64)
        }),
    );
    text.family(
        gauge(
            "vpn_held_packets",
            "Packets that wait for an owner or a tunnel.",
        ),
        single(accounts.held),
    );
    text.family(
        gauge(
            "vpn_queued_packets",
            "Packets that wait to be taken by a tunnel or the device.",
        ),
        single(accounts.queued),
    );
    text.family(
        gauge("vpn_flows", "Flows in the table."),
        single(status.flows as u64),
    );
}

fn rules(text: &mut Text, status: &Status, rules: &FeedStatus) {
    text.family(
        gauge(
            "vpn_rules_generation",
            "Number of the rules in force; 0 before the first.",
        ),
        single(status.generation.0.into()),
    );
    text.family(
        gauge(
            "vpn_rules_error",
            "1 while rules cannot be loaded and older ones are in force.",
        ),
        single(u64::from(rules.error.is_some())),
    );
    text.family(
        gauge(
            "vpn_rules_problems",
            "Rules that block because they make no sense.",
        ),
        single(rules.problems.len() as u64),
    );
    text.family(
        counter(
            "vpn_rules_decisions_total",
            "New flows, by what decided them.",
        ),
        [
            (vec![("by", "rule")], status.rules.hits as f64),
            (vec![("by", "default")], status.rules.misses as f64),
        ],
    );
}

fn dns(text: &mut Text, status: &Status) {
    let counters = &status.dns.counters;
    let all = [
        (
            counter("vpn_dns_queries_total", "Queries that were sent."),
            counters.queries,
        ),
        (
            counter("vpn_dns_answers_total", "Answers to them."),
            counters.answers,
        ),
        (
            counter(
                "vpn_dns_unexpected_total",
                "Answers that nobody waited for.",
            ),
            counters.unexpected,
        ),
        (
            counter(
                "vpn_dns_refused_total",
                "Queries that were not sent because too many wait.",
            ),
            counters.refused,
        ),
        (
            gauge("vpn_dns_pending", "Queries that wait for their answers."),
            status.dns.pending as u64,
        ),
        (
            gauge("vpn_dns_names", "Names that are known for addresses."),
            status.dns.names as u64,
        ),
    ];
    for (family, value) in all {
        text.family(family, single(value));
    }
}

fn groups(text: &mut Text, status: &Status) {
    let samples = status.groups.iter().flat_map(|group| {
        group.members.iter().map(|member| {
            let labels = vec![
                ("group", group.name.as_str()),
                ("tunnel", name_of(status, member.tunnel)),
            ];
            (labels, f64::from(u8::from(member.in_use)))
        })
    });
    text.family(
        gauge(
            "vpn_group_member_in_use",
            "1 for members that new flows may take.",
        ),
        samples,
    );
}

fn process(text: &mut Text, own: &Process, tasks: usize) {
    if let Some(descriptors) = own.descriptors {
        text.family(
            gauge("process_open_fds", "File descriptors of the daemon."),
            single(descriptors as u64),
        );
    }
    text.family(
        gauge("process_threads", "Threads of the daemon."),
        single(own.threads as u64),
    );
    text.family(
        gauge(
            "process_resident_memory_bytes",
            "Resident memory of the daemon.",
        ),
        single(own.memory),
    );
    text.family(
        gauge("vpn_tasks", "Tasks of the daemon's runtime."),
        single(tasks as u64),
    );
}
