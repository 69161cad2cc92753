//! Which samples a member and a hub tell of themselves: those of the SDK that they have parts for.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vpn_core::metrics::prometheus::Text;
use vpn_core::metrics::{Family, Snapshot, families};
use vpn_p2p::mesh::MeshTransport;
use vpn_p2p::mesh::hub::HubServer;
use vpn_routing::engine::EngineHandle;

use crate::error::{Error, system};

/// Of the SDK's families, those of the parts that a member has.
const MEMBER: [&[&Family]; 4] = [
    families::ROUTER,
    families::RULES,
    families::TUNNELS,
    families::MESH,
];

/// What a member tells. The mesh has its tunnel's name.
pub(crate) async fn member(
    engine: &EngineHandle,
    transport: &MeshTransport,
    name: &str,
) -> Result<String, String> {
    let mut snapshot = Snapshot::default();
    let status = engine.status().await.map_err(|gone| gone.to_string())?;
    status.measure(&mut snapshot);
    snapshot.meshes.push(transport.status().metrics(name));
    Ok(text(&MEMBER, &snapshot))
}

/// What a hub tells.
pub(crate) fn hub(server: &HubServer, name: &str) -> String {
    let mut snapshot = Snapshot::default();
    snapshot.hubs.push(server.status().hub.metrics(name));
    text(&[families::HUB], &snapshot)
}

fn text(sections: &[&'static [&'static Family]], snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    sections.iter().for_each(|section| text.declare(section));
    text.add(snapshot);
    text.finish()
}

/// Tells it at this address until `shutdown`, if one is configured.
pub(crate) async fn serve<T, F>(
    address: Option<SocketAddr>,
    tell: Arc<T>,
    shutdown: CancellationToken,
) -> Result<(), Error>
where
    T: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<String, String>> + Send + 'static,
{
    let Some(address) = address else {
        return Ok(());
    };
    let listener = vpn_examples::metrics::Listener::bind(address).await;
    let listener = listener.map_err(system(format!("metrics = \"{address}\"")))?;
    tokio::spawn(async move {
        let tell = move || tell();
        listener.serve(tell, shutdown).await;
    });
    Ok(())
}
