//! Decides which addresses of a node are told and remembered, where not all of them fit: those by which it
//! is most likely reached. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::screen::{ip_of, relay_of};

/// The best of these, best first, each once. Circuits come last, of different relays first.
///
/// A host has the same port by QUIC and by TCP: of each of its addresses QUIC is before TCP, and a better
/// one's TCP before a worse one's QUIC, so that a host with many bridges is found by others, and by
/// networks without UDP.
pub(super) fn best(all: impl IntoIterator<Item = Multiaddr>, most: usize) -> Vec<Multiaddr> {
    let (mut circuits, mut direct): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|at| relay_of(at).is_some());
    for some in [&mut direct, &mut circuits] {
        some.sort_by_cached_key(|at| {
            let host = ip_of(at).map(|ip| (rank(ip), ip));
            (host.is_none(), host, !is_quic(at), at.clone())
        });
        some.dedup();
    }
    let mut of_relay = HashMap::new();
    let turn = |at: &Multiaddr| {
        let turn = of_relay.entry(relay_of(at)).or_insert(0_usize);
        *turn += 1;
        *turn
    };
    let turns: Vec<usize> = circuits.iter().map(turn).collect();
    let mut circuits: Vec<_> = turns.into_iter().zip(circuits).collect();
    circuits.sort_by_key(|(turn, _)| *turn);
    let kept = most.saturating_sub(circuits.len().min(CIRCUITS));
    direct.truncate(kept);
    direct.extend(circuits.into_iter().map(|(_, at)| at));
    direct.truncate(most);
    direct
}

/// Circuits that have a place, however many direct addresses there are: two relays, of which one may go.
const CIRCUITS: usize = 2;

/// Lower is more likely to be reached from elsewhere.
fn rank(ip: IpAddr) -> u8 {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_link_local() => 5,
        // As container engines number their bridges: the same on each host.
        IpAddr::V4(ip) if matches!(ip.octets(), [172, 16..=31, _, 1]) => 4,
        IpAddr::V4(ip) if ip.is_private() => 2,
        IpAddr::V4(_) => 0,
        IpAddr::V6(ip) if ip.is_loopback() || ip.is_unicast_link_local() => 5,
        IpAddr::V6(ip) if ip.is_unique_local() => 3,
        IpAddr::V6(_) => 1,
    }
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    fn of(host: &str) -> [Multiaddr; 2] {
        ["udp/4001/quic-v1", "tcp/4001"].map(|rest| format!("/{host}/{rest}").parse().unwrap())
    }

    #[test]
    fn bridges_push_out_neither_what_is_public_nor_tcp() {
        let mut hosts: Vec<String> = (17..24).map(|n| format!("ip4/172.{n}.0.1")).collect();
        hosts.extend(["ip4/192.168.7.9", "ip6/2001:db8::7", "ip4/198.51.100.1"].map(str::to_owned));
        let all = hosts.iter().flat_map(|host| of(host));
        let wanted = ["ip4/198.51.100.1", "ip6/2001:db8::7", "ip4/192.168.7.9"];
        let wanted: Vec<Multiaddr> = wanted.iter().flat_map(|host| of(host)).collect();
        assert_eq!(best(all.clone(), 8)[..6], wanted);
        assert_eq!(best(all.clone().chain(all), 100).len(), 20, "each once");
    }

    #[test]
    fn each_relay_has_a_place_before_another_of_one() {
        let relays = [PeerId::random(), PeerId::random()];
        let by = |relay: PeerId, host: &str| -> Multiaddr {
            format!("/{host}/tcp/4001/p2p/{relay}/p2p-circuit")
                .parse()
                .unwrap()
        };
        let circuits = [
            by(relays[0], "ip4/198.51.100.1"),
            by(relays[0], "ip4/198.51.100.2"),
            by(relays[1], "ip4/198.51.100.3"),
        ];
        let direct = (1..9).flat_map(|n| of(&format!("ip4/203.0.113.{n}")));
        let told = best(circuits.iter().cloned().chain(direct), 8);
        assert_eq!(told.len(), 8);
        assert_eq!(told[6..], [circuits[0].clone(), circuits[2].clone()]);
        assert_eq!(
            best(circuits.clone(), 2),
            [circuits[0].clone(), circuits[2].clone()]
        );
    }
}
