//! Touches the parts of libp2p that a node is made of, each with its bounds.

use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, connection_limits, dcutr, identify, kad, ping, relay};

use super::config::{NodeConfig, RelayLimits};
use super::gate::{Door, Gate};
use super::held::Held;
use super::substreams::Substreams;
use crate::directory::kademlia::slot::MAX_VALUE;

/// The protocol's name of the directory: a network of its own, not that of libp2p's public nodes.
pub(super) const KADEMLIA: StreamProtocol = StreamProtocol::new("/vpn/kad/1");

/// What nodes of this program call themselves.
const PROTOCOL: &str = "/vpn/1";

/// Connections to one peer: each side dials once by each of relay and direct way, and holes are punched.
const PER_PEER: u32 = 6;

/// Connections that are being made by us.
const PENDING: u32 = 128;

/// Longest message of the directory, in bytes: a record, and 20 peers with as many addresses as count.
const MAX_PACKET: usize = 64 << 10;

/// How long a question to the directory may take: those who wait for it hold packets for 5 s.
const QUERY: Duration = Duration::from_secs(10);

/// How often the directory's routing table is filled up.
const REFRESH: Duration = Duration::from_secs(5 * 60);

/// Addresses by which peers were seen that are remembered.
const IDENTIFIED: usize = 256;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // First: who is not let in costs nothing else.
    gate: Gate,
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) kad: Held<kad::Behaviour<MemoryStore>>,
    circuits: relay::client::Behaviour,
    relay: Toggle<relay::Behaviour>,
    punch: dcutr::Behaviour,
    pub(super) streams: Substreams,
}

impl Behaviour {
    pub(super) fn new(
        config: &NodeConfig,
        keys: &Keypair,
        door: Arc<Door>,
        circuits: relay::client::Behaviour,
    ) -> Self {
        let own = keys.public().to_peer_id();
        let limits = connection_limits::ConnectionLimits::default()
            // Others' are counted in `super::crowd`, by where they come from and by what.
            .with_max_pending_outgoing(Some(PENDING))
            .with_max_established(Some(config.max_connections))
            .with_max_established_per_peer(Some(PER_PEER));
        let identify = identify::Config::new(PROTOCOL.to_owned(), keys.public())
            .with_agent_version(concat!("vpn-p2p/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_cache_size(IDENTIFIED)
            .with_push_listen_addr_updates(true);
        let relay = config.relay.as_ref().map(|limits| relaying(own, limits));
        Self {
            gate: Gate::new(door.clone()),
            limits: connection_limits::Behaviour::new(limits),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::default(),
            kad: Held::new(directory(own, config.max_records), door),
            circuits,
            relay: relay.into(),
            punch: dcutr::Behaviour::new(own),
            streams: Substreams::default(),
        }
    }
}

fn directory(own: PeerId, max_records: usize) -> kad::Behaviour<MemoryStore> {
    let store = MemoryStoreConfig {
        max_records,
        // The store wants fewer than this.
        max_value_bytes: MAX_VALUE + 1,
        // Nobody provides anything.
        max_provided_keys: 0,
        max_providers_per_key: 0,
    };
    let mut config = kad::Config::new(KADEMLIA);
    config
        .set_max_packet_size(MAX_PACKET)
        .set_query_timeout(QUERY)
        // By several ways that share nobody: who lies about who is near leads one of them astray.
        .disjoint_query_paths(true)
        // What others store here is looked at first.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        // Members only, and they are known later than connected.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // Records have owners who renew them; copies of copies would only bring old ones back.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(REFRESH));
    let store = MemoryStore::with_config(own, store);
    let mut kad = kad::Behaviour::with_config(own, store, config);
    // Each node keeps its share, also behind a NAT: the relay leads to it.
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

fn relaying(own: PeerId, limits: &RelayLimits) -> relay::Behaviour {
    let config = relay::Config {
        max_reservations: limits.max_reservations,
        max_circuits: limits.max_circuits,
        max_circuits_per_peer: limits.max_circuits_per_peer,
        max_circuit_duration: limits.max_circuit_duration,
        max_circuit_bytes: limits.max_circuit_bytes,
        ..relay::Config::default()
    };
    relay::Behaviour::new(own, config)
}
