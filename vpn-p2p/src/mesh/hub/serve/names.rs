//! Touches the resolver for a hub: where its neighbours are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vpn_core::PeerId;

use super::Shared;
use crate::mesh::hub::Neighbour;

/// How often a name is resolved anew: an endpoint that moved is found within a minute.
const AGAIN: Duration = Duration::from_secs(60);

/// After a failure, or when there was no answer within this time.
const SOON: Duration = Duration::from_secs(5);

/// Finds the addresses of neighbours again and again, until the hub ends.
pub(super) async fn serve(shared: Arc<Shared>, neighbours: Vec<Neighbour>) {
    let named = neighbours
        .into_iter()
        .filter_map(|neighbour| Some((neighbour.key, neighbour.host?)));
    let named: Vec<(PeerId, (String, u16))> = named.collect();
    if named.is_empty() {
        return;
    }
    let closing = shared.state.closing.clone();
    let _ = closing.run_until_cancelled(resolve(&shared, &named)).await;
}

async fn resolve(shared: &Shared, named: &[(PeerId, (String, u16))]) {
    loop {
        let mut all_found = true;
        for (key, (host, port)) in named {
            let found = tokio::net::lookup_host((host.as_str(), *port));
            match tokio::time::timeout(SOON, found).await {
                Ok(Ok(found)) => tell(shared, *key, found.collect()),
                Ok(Err(error)) => {
                    all_found = false;
                    tracing::debug!(%error, %host, "a neighbour's name was not resolved");
                }
                Err(_) => all_found = false,
            }
        }
        tokio::time::sleep(if all_found { AGAIN } else { SOON }).await;
    }
}

fn tell(shared: &Shared, key: PeerId, mut found: Vec<SocketAddr>) {
    found.retain(|to| shared.socket(*to).is_some());
    let said = {
        let mut hub = shared.state.hub();
        hub.set_neighbour_endpoints(key, found, Instant::now());
        super::poll(&mut hub)
    };
    shared.deliver(said);
}
