//! Where members are looked up: with the members themselves, or in etcd. Calls are made again as the
//! configuration says.

use std::sync::Arc;

use vpn_core::PeerDirectory;
use vpn_p2p::directory::kademlia::KademliaDirectory;
use vpn_p2p::libp2p::Node;
use vpn_resilience::call::WithRetry;
use vpn_resilience::decorate::{Decorated, directory_fault};

use crate::config::{Discovery, Ready};
use crate::error::Error;

/// The directory of this configuration.
pub(crate) fn of(ready: &Ready, node: &Node) -> Result<Arc<dyn PeerDirectory>, Error> {
    let inner: Arc<dyn PeerDirectory> = match ready.config.node.discovery {
        Discovery::Dht => KademliaDirectory::new(node.clone()),
        Discovery::Etcd => etcd(ready)?,
    };
    // Drawn from the key: members that lost the directory together do not come back together.
    let seed = ready.identity.id().0[..8]
        .try_into()
        .map_or(0, u64::from_ne_bytes);
    let retry = WithRetry::new(ready.retry, seed, directory_fault);
    Ok(Arc::new(Decorated::new(inner, retry)))
}

#[cfg(feature = "etcd")]
fn etcd(ready: &Ready) -> Result<Arc<dyn PeerDirectory>, Error> {
    use vpn_p2p::directory::etcd::{EtcdConfig, EtcdDirectory};
    use vpn_p2p::directory::{Book, UnixClock};
    use vpn_p2p::libp2p::body::TERMS;

    let config = EtcdConfig::new(ready.config.node.etcd.clone());
    let (peer, book) = (ready.identity.id(), Book::new(TERMS));
    let directory = EtcdDirectory::start(config, peer, book, UnixClock::default());
    let directory = directory.map_err(|error| Error::Argument(format!("node.etcd: {error}")))?;
    Ok(Arc::new(directory))
}

#[cfg(not(feature = "etcd"))]
fn etcd(_: &Ready) -> Result<Arc<dyn PeerDirectory>, Error> {
    let problem = "node.discovery: this program was built without the feature etcd";
    Err(Error::Argument(problem.to_owned()))
}
