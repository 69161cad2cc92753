//! What a link is told once: which hub, by which carriers, and its times.

use std::time::Duration;

use vpn_core::PeerId;
use vpn_resilience::{BackoffConfig, Jitter};

use crate::mesh::way::HubId;
use crate::mesh::wire::Token;

/// Endpoints of one hub that are asked at the same time. More than a few names and families have,
/// and few enough that a wrong configuration is no storm.
pub const MAX_ENDPOINTS: usize = 8;

/// How long after the last thing sent to a hub it gets an empty message, by default.
pub(in crate::mesh) const KEEPALIVE: Duration = Duration::from_secs(34);

/// Pause between questions that are not answered, by default.
pub(in crate::mesh) const UNANSWERED: Duration = Duration::from_secs(1);

/// Questions without an answer until the hub is gone.
pub(in crate::mesh) const TRIES: u32 = 3;

/// What a link is told once.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The hub's key. Whoever answers must have it, over every carrier.
    pub hub: PeerId,
    /// Its name in this node.
    pub id: HubId,
    /// What admits, where the hub does not know our key.
    pub token: Option<Token>,
    /// Whether datagrams are tried. Default: yes.
    pub udp: bool,
    /// Whether TLS over TCP is tried where datagrams are not answered. Default: yes.
    pub tls: bool,
    /// When what is done.
    pub times: LinkTimes,
}

impl LinkConfig {
    /// A hub with this key, by all carriers.
    pub fn new(hub: PeerId, id: HubId) -> Self {
        Self {
            hub,
            id,
            token: None,
            udp: true,
            tls: true,
            times: LinkTimes::default(),
        }
    }
}

/// When a link does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTimes {
    /// How long after the last thing sent to the hub it gets an empty message, which it answers with
    /// one: mappings of NATs stay open, and each direction has one packet in that time. Default 34 s, so
    /// that with one handshake in 120 s there are four packets in 100 s at most.
    pub keepalive: Duration,
    /// Pause between questions that are not answered; after the third the hub is gone. Default 1 s.
    pub unanswered: Duration,
    /// How long we relay without hearing anything from the hub until it is asked. Default 1 s.
    pub silent: Duration,
    /// How often it is asked at least while something flows. Default 60 s.
    pub measure: Duration,
    /// How long one round of Hellos waits for its answer by UDP. Default 2 s.
    pub round: Duration,
    /// How long a round waits if TLS is being tried. Default 8 s.
    pub tls_round: Duration,
    /// How long UDP is tried alone. Default 1 s: three Hellos.
    pub tls_after: Duration,
    /// How long a hub that answered has for handshake and registration. Default 5 s.
    pub join: Duration,
    /// Pause between rounds. Default 2, 4, 8, 16, 32 s, then every 32 s, each between half and all of
    /// it; after five seconds of success at once, and from the start again.
    pub retry: BackoffConfig,
    /// How often UDP is tried while TLS is used. Default 60 s.
    pub udp_retry: Duration,
    /// How long after the change to UDP the TLS connection is kept, for what is under way on it.
    /// Default 1 s.
    pub linger: Duration,
    /// How long somebody is looked for. Default 5 s.
    pub find: Duration,
    /// Age at which a session is renewed though nothing flows: in place of the third keepalive.
    /// Default 101 s; at 120 s WireGuard would (whitepaper §6.1, REKEY-AFTER-TIME), at 180 s it would
    /// be gone.
    pub renew: Duration,
}

impl Default for LinkTimes {
    fn default() -> Self {
        Self {
            keepalive: KEEPALIVE,
            unanswered: UNANSWERED,
            silent: Duration::from_secs(1),
            measure: Duration::from_secs(60),
            round: Duration::from_secs(2),
            tls_round: Duration::from_secs(8),
            tls_after: Duration::from_secs(1),
            join: Duration::from_secs(5),
            retry: BackoffConfig {
                base: Duration::from_secs(2),
                factor: 2,
                cap: Duration::from_secs(32),
                jitter: Jitter::Equal,
                max_attempts: None,
                max_elapsed: None,
                stable_after: Duration::from_secs(5),
            },
            udp_retry: Duration::from_secs(60),
            linger: Duration::from_secs(1),
            find: Duration::from_secs(5),
            renew: Duration::from_secs(101),
        }
    }
}
