//! Touches resolver and sockets: one attempt to reach each peer that is due.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use vpn_core::{DownCause, TransportState};

use super::core::Standing;
use super::driver::Shared;
use crate::wg_quick::Endpoint;

/// How long one resolution may take; a resolver that hangs is a failed attempt.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Approaches peers: resolves, binds, starts a handshake.
pub(super) async fn approach(shared: &Shared, peers: Vec<usize>) {
    for index in peers {
        let begun = {
            let mut core = shared.core();
            let alone = !core.listens();
            core.peer_mut(index).and_then(|peer| {
                let endpoint = peer.configured.clone()?;
                let attempts = peer.health.attempts();
                let permit = peer.health.begin(Instant::now())?;
                Some((endpoint, attempts, permit, alone))
            })
        };
        let Some((endpoint, attempts, permit, alone)) = begun else {
            continue;
        };
        let known = match endpoint {
            Endpoint::Name { .. } => shared.core().last_known(index),
            Endpoint::Address(_) => None,
        };
        // A resolver may take its time, and most peers stay where they are.
        let greeted = known.filter(|at| greet(shared, index, *at).is_ok());
        // A second try from a new port gets past a mapping that went stale on the way, and off a
        // network that is gone. Not where clients know the port.
        if attempts > 0 && alone && shared.listen_port.is_none() && !any_alive(shared) {
            shared.forget_sockets();
        }
        let outcome = reach(shared, &endpoint, attempts, greeted).await;
        let asked = outcome.and_then(|at| match greeted {
            Some(known) if known == at => Ok(()),
            _ => greet(shared, index, at),
        });
        let now = Instant::now();
        if let Some(peer) = shared.core().peer_mut(index) {
            match &asked {
                Ok(()) => peer.health.reached(permit, now),
                Err(_) => peer.health.failed(permit, now),
            }
        }
        let cause = asked.err();
        shared.obstacle().clone_from(&cause);
        if let Some(cause) = cause {
            let core = shared.core();
            if core.standing(now) != Standing::Alive {
                shared.set_state(TransportState::Down(cause));
            }
        }
    }
}

/// Asks a peer at this address for a handshake.
fn greet(shared: &Shared, index: usize, at: SocketAddr) -> Result<(), DownCause> {
    let bound = shared.bind(at.is_ipv4());
    bound.map_err(|error| DownCause::Network(error.to_string()))?;
    let mut messages = Vec::new();
    let mut core = shared.core();
    core.reached(index, at, Instant::now(), &mut messages);
    drop(core);
    shared.measure();
    shared
        .send_all(&mut messages)
        .map_err(|error| DownCause::Network(format!("cannot send to {at}: {error}")))
}

fn any_alive(shared: &Shared) -> bool {
    shared.core().standing(Instant::now()) == Standing::Alive
}

async fn reach(
    shared: &Shared,
    endpoint: &Endpoint,
    attempts: u32,
    greeted: Option<SocketAddr>,
) -> Result<SocketAddr, DownCause> {
    let addresses = match endpoint {
        Endpoint::Address(address) => vec![*address],
        Endpoint::Name { host, port } => {
            let resolving = shared.underlay.resolve(host, *port);
            match tokio::time::timeout(RESOLVE_TIMEOUT, resolving).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => return Err(DownCause::Resolve(error.to_string())),
                Err(_) => {
                    return Err(DownCause::Resolve(format!(
                        "{host}: no answer in {RESOLVE_TIMEOUT:?}"
                    )));
                }
            }
        }
    };
    if addresses.is_empty() {
        return Err(DownCause::Resolve(format!("{endpoint}: no address")));
    }
    if let Some(still) = greeted.filter(|at| addresses.contains(at)) {
        return Ok(still);
    }
    // Each attempt begins with another address: one that swallows everything does not win.
    let first = attempts as usize % addresses.len();
    let mut problem = String::new();
    for at in addresses[first..].iter().chain(&addresses[..first]) {
        match shared.bind(at.is_ipv4()) {
            Ok(()) => return Ok(*at),
            Err(error) => problem = error.to_string(),
        }
    }
    Err(DownCause::Network(problem))
}
