//! What a member says of itself: made by its daemon, read by `status`, `top` and `ping`. Pure, but for a
//! look at the clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use vpn_core::{DropCounters, DropReason, PeerId};
use vpn_p2p::mesh::identity::peer_to_base64;
use vpn_p2p::mesh::member::{Conflict, HubStanding, PeerStanding};
use vpn_p2p::mesh::{Carrier, MemberStatus, Stage, Way};

use super::{Member, Place};

/// The answer to `status`. Names of fields are an interface: scripts read them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What it calls itself.
    pub name: String,
    /// The public key.
    pub key: String,
    /// Its own addresses in the mesh.
    pub addresses: Vec<IpAddr>,
    /// As they are configured.
    pub hubs: Vec<HubReport>,
    /// Who is known, by name and key.
    pub peers: Vec<PeerReport>,
    /// Addresses that two claim: for people.
    pub conflicts: Vec<String>,
    /// Packets that were dropped, wherever, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// One hub.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HubReport {
    /// The public key.
    pub key: String,
    /// Where it answers; before that as it is configured.
    pub endpoint: String,
    /// `up`, `greeting`, `joining`, `waiting`, `idle` or `stopped`.
    pub state: String,
    /// `udp` or `tls`, once it answered.
    pub carrier: Option<String>,
    /// There and back, once measured.
    pub rtt_ms: Option<f64>,
    /// How the hub sees our socket.
    pub observed: Option<SocketAddr>,
    /// Whether it lets members reach only those that it allows.
    #[serde(default)]
    pub isolated: bool,
    /// Unix time of the last change.
    pub since: Option<u64>,
    /// Why it stands so; may be empty.
    pub why: String,
}

/// One peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerReport {
    /// What it is called here, or else calls itself; may be empty.
    pub name: String,
    /// The public key.
    pub key: String,
    /// What it says its addresses are.
    pub addresses: Vec<IpAddr>,
    /// `registered`, `announced`, `connecting`, `relayed`, `direct` or `lost`.
    pub stage: String,
    /// `direct`, `relay`, `relay-tcp` or `none`.
    pub path: String,
    /// The peer's address, or the hub's where it is relayed.
    pub endpoint: Option<String>,
    /// There and back, once measured.
    pub rtt_ms: Option<f64>,
    /// The part of the last challenges that was not answered, 0 to 1.
    pub loss: f64,
    /// Unix time of the last change of the path.
    pub since: Option<u64>,
    /// Why it has this path.
    pub why: String,
    /// Packets of users that went to it.
    pub tx_packets: u64,
    /// Datagrams that came from it.
    pub rx_packets: u64,
    /// Bytes of what went.
    pub tx_bytes: u64,
    /// Bytes of what came, with what was around it.
    pub rx_bytes: u64,
    /// How often it was approached.
    pub attempts: u64,
    /// How often a direct way was given up for a relay.
    pub fallbacks: u64,
}

/// Characters of a key by which one without a name is told from others.
const SHORT_KEY: usize = 12;

impl PeerReport {
    /// Its name, or how its key begins.
    pub fn label(&self) -> &str {
        match self.name.as_str() {
            "" => self.key.get(..SHORT_KEY).unwrap_or(&self.key),
            name => name,
        }
    }
}

/// What a member's file says of hubs and peers that its node does not know.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    hubs: Vec<Place>,
    /// What peers are called here.
    names: Vec<(PeerId, String)>,
}

impl From<&Member> for Configured {
    fn from(member: &Member) -> Self {
        let named = member.peers.iter().filter(|peer| !peer.name.is_empty());
        Self {
            hubs: member
                .hubs
                .iter()
                .map(|hub| hub.endpoint().clone())
                .collect(),
            names: named.map(|peer| (peer.key(), peer.name.clone())).collect(),
        }
    }
}

impl Report {
    /// What is told of this. `routed`: drops of a router that has no other tunnel, or none.
    pub fn new(status: &MemberStatus, routed: &DropCounters, configured: &Configured) -> Self {
        let conflicts = status.conflicts.iter();
        let conflicts = conflicts.map(|(conflict, times)| claim(conflict, *times));
        let mut peers: Vec<PeerReport> = status
            .peers
            .iter()
            .map(|peer| peer_report(peer, status, &configured.names))
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
                .map(|(at, hub)| hub_report(hub, configured.hubs.get(at)))
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
