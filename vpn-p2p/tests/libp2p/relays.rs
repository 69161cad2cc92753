//! Places at relays.

use tokio::time::timeout;
use vpn_p2p::libp2p::{Multiaddr, RelayLimits};

use super::world::{Member, PATIENCE, address, config, everybody, own};

/// The defect: a relay behind a NAT told its members an address of its inside, and by that nobody came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_tells_where_it_says_it_is() {
    let outside: Multiaddr = "/ip4/192.0.2.7/udp/4001/quic-v1".parse().unwrap();
    for announced in [vec![outside.clone()], Vec::new()] {
        let mut relaying = config(everybody(), &[]);
        relaying.relay = Some(RelayLimits::default());
        relaying.announce.clone_from(&announced);
        let relay = Member::with(1, relaying, own(&[address(1)])).await;
        let mut listening = relay.node.addresses();
        // It cannot be dialled there from here.
        listening.retain(|address| !address.to_string().starts_with("/ip4/192.0.2.7/"));
        let mut relayed = config(everybody(), &listening);
        relayed.use_relays = true;
        let member = Member::with(2, relayed, own(&[address(2)])).await;
        let is_circuit = |address: &Multiaddr| address.to_string().contains("p2p-circuit");
        let mut endpoints = member.node.endpoints();
        let place = endpoints.wait_for(|all| all.iter().any(is_circuit));
        let place = timeout(PATIENCE, place).await.expect("no place").unwrap();
        let circuits = place.iter().filter(|address| is_circuit(address));
        for circuit in circuits {
            let is_outside = circuit.to_string().starts_with(&outside.to_string());
            assert_eq!(is_outside, !announced.is_empty(), "{circuit}");
        }
    }
}
