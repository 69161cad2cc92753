//! What a report says as samples: enough to account for every packet. Asked after every step of the
//! router's tests.

use vpn_core::metrics::Snapshot;

/// `in + made = out + Σ drops + held + queued`, from the samples alone.
pub(super) fn balances(snapshot: &Snapshot) -> bool {
    let (mut came, mut went) = (0.0, 0.0);
    snapshot.visit(&mut |metric| match metric.family.name {
        "vpn_in_packets_total" => came += metric.value,
        "vpn_out_packets_total"
        | "vpn_dropped_packets_total"
        | "vpn_held_packets"
        | "vpn_queued_packets" => went += metric.value,
        _ => {}
    });
    came == went
}
