//! What there is to tell of a mesh besides what its tunnel tells: its hubs and peers.

use std::sync::{Arc, Weak};

use vpn_core::DropCounters;
use vpn_core::metrics::Snapshot;
use vpn_examples::mesh::{Configured, Report};
use vpn_p2p::mesh::MeshTransport;

use super::{Kept, lock};

/// A mesh, until the engine lets go of its tunnel.
#[derive(Debug)]
pub(super) struct Meshed {
    /// Its tunnel's.
    name: String,
    transport: Weak<MeshTransport>,
    configured: Configured,
}

impl Kept {
    /// A mesh, which is told of under its tunnel's name from now on, in place of a former one.
    pub(crate) fn mesh(&self, name: &str, transport: &Arc<MeshTransport>, configured: Configured) {
        let mut meshes = lock(&self.0.meshes);
        meshes.retain(|mesh| mesh.name != name && mesh.transport.strong_count() > 0);
        meshes.push(Meshed {
            name: name.to_owned(),
            transport: Arc::downgrade(transport),
            configured,
        });
    }

    /// Hubs and peers, by tunnel. Drops are those of the mesh: the router is not its alone.
    pub(crate) fn meshes(&self) -> Vec<(String, Report)> {
        let meshes = lock(&self.0.meshes);
        let told = meshes.iter().filter_map(|mesh| {
            let status = mesh.transport.upgrade()?.status();
            let report = Report::new(&status, &DropCounters::default(), &mesh.configured);
            Some((mesh.name.clone(), report))
        });
        told.collect()
    }

    /// Puts what they count into a snapshot.
    pub(crate) fn measure_meshes(&self, into: &mut Snapshot) {
        for mesh in &*lock(&self.0.meshes) {
            if let Some(transport) = mesh.transport.upgrade() {
                into.meshes.push(transport.status().metrics(&mesh.name));
            }
        }
    }
}
