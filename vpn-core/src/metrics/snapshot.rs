//! Everything at one moment.

use super::{
    Breaker, Directory, Dns, GroupMember, Hub, Life, Limit, Measured, Mesh, Node, Path, Pool,
    Retry, Router, Rules, Task, Tunnel, Visit,
};

/// What a program counts at one moment: the parts it has, filled by their owners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The router's packets.
    pub router: Option<Router>,
    /// Its rules.
    pub rules: Option<Rules>,
    /// Queries and answers.
    pub dns: Option<Dns>,
    /// Its tunnels.
    pub tunnels: Vec<Tunnel>,
    /// Members of its groups.
    pub groups: Vec<GroupMember>,
    /// Streams, by peer.
    pub pools: Vec<Pool>,
    /// Circuit breakers.
    pub breakers: Vec<Breaker>,
    /// What is tried again.
    pub retries: Vec<Retry>,
    /// What is limited.
    pub limits: Vec<Limit>,
    /// Peers that are watched.
    pub lives: Vec<Life>,
    /// Supervised tasks.
    pub tasks: Vec<Task>,
    /// Ways to peers.
    pub paths: Vec<Path>,
    /// Meshes this node is a member of.
    pub meshes: Vec<Mesh>,
    /// Hubs this process is.
    pub hubs: Vec<Hub>,
    /// Nodes of networks without a hub.
    pub nodes: Vec<Node>,
    /// The directory of peers.
    pub directory: Option<Directory>,
}

impl Snapshot {
    /// Shows every sample once.
    pub fn visit(&self, visit: &mut Visit<'_>) {
        fn each<'a>(
            parts: impl IntoIterator<Item = &'a (impl Measured + 'a)>,
            visit: &mut Visit<'_>,
        ) {
            for part in parts {
                part.visit(visit);
            }
        }
        each(&self.router, visit);
        each(&self.rules, visit);
        each(&self.dns, visit);
        each(&self.tunnels, visit);
        each(&self.groups, visit);
        each(&self.pools, visit);
        each(&self.breakers, visit);
        each(&self.retries, visit);
        each(&self.limits, visit);
        each(&self.lives, visit);
        each(&self.tasks, visit);
        each(&self.paths, visit);
        each(&self.meshes, visit);
        each(&self.hubs, visit);
        each(&self.nodes, visit);
        each(&self.directory, visit);
    }
}

impl Measured for Snapshot {
    fn visit(&self, visit: &mut Visit<'_>) {
        Snapshot::visit(self, visit);
    }
}
