//! What a member says of itself: made by the daemon, read by `status`, `top` and `ping`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use vpn_core::{DropCounters, DropReason, PeerId};
use vpn_p2p::mesh::identity::peer_to_base64;
use vpn_p2p::mesh::member::{Conflict, HubStanding, PeerStanding};
use vpn_p2p::mesh::{Carrier, MemberStatus, Stage, Way};

use crate::config::Place;

/// The answer to `status`. Names of fields are an interface: scripts read them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    pub(crate) name: String,
    /// The public key.
    pub(crate) key: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) hubs: Vec<HubReport>,
    pub(crate) peers: Vec<PeerReport>,
    /// Addresses that two claim: for people.
    pub(crate) conflicts: Vec<String>,
    /// Packets that were dropped, wherever, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HubReport {
    pub(crate) key: String,
    /// Where it answers; before that as it is configured.
    pub(crate) endpoint: String,
    /// `up`, `greeting`, `joining`, `waiting`, `idle` or `stopped`.
    pub(crate) state: String,
    /// `udp` or `tls`, once it answered.
    pub(crate) carrier: Option<String>,
    pub(crate) rtt_ms: Option<f64>,
    /// How the hub sees our socket.
    pub(crate) observed: Option<SocketAddr>,
    /// Whether it lets members reach only those that it allows.
    #[serde(default)]
    pub(crate) isolated: bool,
    /// Unix time of the last change.
    pub(crate) since: Option<u64>,
    pub(crate) why: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PeerReport {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// `registered`, `announced`, `connecting`, `relayed`, `direct` or `lost`.
    pub(crate) stage: String,
    /// `direct`, `relay`, `relay-tcp` or `none`.
    pub(crate) path: String,
    /// The peer's address, or the hub's where it is relayed.
    pub(crate) endpoint: Option<String>,
    pub(crate) rtt_ms: Option<f64>,
    /// The part of the last challenges that was not answered, 0 to 1.
    pub(crate) loss: f64,
    /// Unix time of the last change of the path.
    pub(crate) since: Option<u64>,
    pub(crate) why: String,
    pub(crate) tx_packets: u64,
    pub(crate) rx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) attempts: u64,
    pub(crate) fallbacks: u64,
}

impl Report {
    /// What is told of this. `routed`: drops of the router and of the mesh's tunnel; `hubs`: as they
    /// are configured; `names`: what peers are called here.
    pub(crate) fn new(
        status: &MemberStatus,
        routed: &DropCounters,
        hubs: &[Place],
        names: &[(PeerId, String)],
    ) -> Self {
        let conflicts = status.conflicts.iter();
        let conflicts = conflicts.map(|(conflict, times)| claim(conflict, *times));
        let mut peers: Vec<PeerReport> = status
            .peers
            .iter()
            .map(|peer| peer_report(peer, status, names))
            .collect();
        peers.sort_by(|one, other| (&one.name, &one.key).cmp(&(&other.name, &other.key)));
        let drops = DropReason::ALL.iter().map(|reason| {
            let count = status.drops.get(*reason) + routed.get(*reason);
            (reason.name().to_owned(), count)
        });
        Self {
            name: status.own.name.clone(),
            key: peer_to_base64(status.own.peer),
            addresses: status.own.addresses.clone(),
            hubs: status
                .hubs
                .iter()
                .enumerate()
                .map(|(at, hub)| hub_report(hub, hubs.get(at)))
                .collect(),
            peers,
            conflicts: conflicts.collect(),
            drops: drops.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// Who has what somebody else claims.
fn claim(conflict: &Conflict, times: u64) -> String {
    let holder = match conflict.holder {
        Some(peer) => format!("{}'s", peer_to_base64(peer)),
        None => "this node's own".to_owned(),
    };
    let claimant = peer_to_base64(conflict.claimant);
    let network = conflict.network;
    format!("{network} is {holder}; {claimant} claims it too ({times} times)")
}

fn hub_report(standing: &HubStanding, place: Option<&Place>) -> HubReport {
    let link = &standing.link;
    let configured = || place.map_or_else(String::new, ToString::to_string);
    HubReport {
        key: peer_to_base64(standing.hub),
        endpoint: link
            .endpoint
            .map_or_else(configured, |endpoint| endpoint.to_string()),
        state: link.state.name().to_owned(),
        carrier: link.carrier.map(|carrier| {
            let name = match carrier {
                Carrier::Udp => "udp",
                Carrier::Tls => "tls",
            };
            name.to_owned()
        }),
        rtt_ms: link.rtt.map(milliseconds),
        observed: link.observed,
        isolated: link.isolated,
        since: Some(unix_of(link.since)),
        why: link.why.clone(),
    }
}

fn peer_report(
    peer: &PeerStanding,
    status: &MemberStatus,
    names: &[(PeerId, String)],
) -> PeerReport {
    let path = &peer.path;
    let (kind, endpoint) = match path.way {
        None => ("none", None),
        Some(Way::Direct(to)) => ("direct", Some(to.to_string())),
        Some(Way::Relay(hub)) => {
            let kind = match path.carrier {
                Some(Carrier::Tls) => "relay-tcp",
                _ => "relay",
            };
            let link = status.hubs.get(usize::from(hub.0));
            let at = link.and_then(|hub| hub.link.endpoint);
            (kind, at.map(|at| at.to_string()))
        }
    };
    let given = names.iter().find(|(key, _)| *key == peer.peer);
    let says = peer.record.as_ref();
    let name = given.map(|(_, name)| name.clone());
    let name = name.or_else(|| says.map(|record| record.name.clone()));
    let why = match peer.stage {
        // What the path says is about a session that is not there.
        Stage::Registered => "its record is not known yet".to_owned(),
        Stage::Announced => "nobody wants it now".to_owned(),
        Stage::Connecting if path.way.is_none() => "no answer yet".to_owned(),
        _ => path.why.to_string(),
    };
    let counters = peer.counters;
    let [tx_direct, tx_relayed] = [counters.tx_direct, counters.tx_relayed];
    let [rx_direct, rx_relayed] = [counters.rx_direct, counters.rx_relayed];
    PeerReport {
        name: name.unwrap_or_default(),
        key: peer_to_base64(peer.peer),
        addresses: says
            .map(|record| record.addresses.clone())
            .unwrap_or_default(),
        stage: peer.stage.name().to_owned(),
        path: kind.to_owned(),
        endpoint,
        rtt_ms: path.rtt.map(milliseconds),
        loss: (f64::from(path.loss) * 1000.0).round() / 1000.0,
        since: path.since.map(unix_of),
        why,
        tx_packets: tx_direct[0] + tx_relayed[0],
        rx_packets: rx_direct[0] + rx_relayed[0],
        tx_bytes: tx_direct[1] + tx_relayed[1],
        rx_bytes: rx_direct[1] + rx_relayed[1],
        attempts: counters.attempts,
        fallbacks: counters.fallbacks,
    }
}

/// With three digits behind the point.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// A time of this process as others can read it.
fn unix_of(at: Instant) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = now.unwrap_or_default().saturating_sub(at.elapsed());
    since.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_says_whose_it_is() {
        let mut conflict = Conflict {
            network: "10.77.0.2/32".parse().unwrap(),
            holder: None,
            claimant: PeerId([2; 32]),
        };
        let said = claim(&conflict, 3);
        assert!(
            said.starts_with("10.77.0.2/32 is this node's own; "),
            "{said}"
        );
        assert!(said.ends_with("(3 times)"), "{said}");
        conflict.holder = Some(PeerId([1; 32]));
        let holder = peer_to_base64(PeerId([1; 32]));
        assert!(claim(&conflict, 1).contains(&format!("is {holder}'s; ")));
    }
}
