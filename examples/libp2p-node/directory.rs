//! Where members are looked up: with the members themselves, or in etcd, which gives addresses as well.
//! Calls are made again as the configuration says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use vpn_core::PeerDirectory;
use vpn_p2p::directory::kademlia::KademliaDirectory;
use vpn_p2p::libp2p::Node;
use vpn_resilience::call::WithRetry;
use vpn_resilience::decorate::{Decorated, directory_fault};

use crate::config::{Discovery, Ready};
use crate::error::Error;
use crate::report;

/// Before a directory that failed is listened to again.
const PAUSE: Duration = Duration::from_secs(5);

/// How long giving the address back may take.
#[cfg(feature = "etcd")]
const CLOSE: Duration = Duration::from_secs(3);

/// What is there before the node: etcd with our addresses, or nothing.
pub(crate) struct Leased {
    directory: Option<Arc<dyn PeerDirectory>>,
    /// Those of this node, where etcd gives them.
    addresses: Option<watch::Receiver<Vec<IpAddr>>>,
    #[cfg(feature = "etcd")]
    etcd: Option<Arc<vpn_p2p::directory::EtcdDirectory>>,
}

impl Leased {
    /// Asks etcd for the node's addresses, where the configuration says so.
    pub(crate) async fn of(ready: &Ready) -> Result<Self, Error> {
        match ready.config.node.discovery {
            Discovery::Dht => Ok(Self {
                directory: None,
                addresses: None,
                #[cfg(feature = "etcd")]
                etcd: None,
            }),
            Discovery::Etcd => etcd(ready).await,
        }
    }

    /// The addresses of this node; `None` where they are its own affair.
    pub(crate) fn addresses(&self) -> Option<Vec<IpAddr>> {
        Some(self.addresses.as_ref()?.borrow().clone())
    }

    /// Until they are others than this node lives with: somebody took them while we were cut off, now or
    /// since it began.
    pub(crate) async fn lost(&mut self, ready: &Ready) {
        if let Some(addresses) = &mut self.addresses {
            // Fails if the directory has ended, and with it what could be lost.
            let lost = addresses.wait_for(|now| !ready.lives_with(now)).await;
            if lost.is_ok() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Gives back what etcd leases, so that others can have it at once: for who ends, and means it.
    #[cfg_attr(
        not(feature = "etcd"),
        allow(
            clippy::unused_async,
            clippy::unused_self,
            reason = "there is nothing to give back"
        )
    )]
    pub(crate) async fn close(&self) {
        #[cfg(feature = "etcd")]
        if let Some(etcd) = &self.etcd {
            match tokio::time::timeout(CLOSE, etcd.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = vpn_examples::chain(&error);
                    tracing::warn!(error, "the address is free when its lease is over");
                }
                Err(_) => {
                    tracing::warn!("etcd is away: the address is free when its lease is over")
                }
            }
        }
    }

    /// How etcd fares, now and later.
    #[cfg(feature = "etcd")]
    pub(crate) fn etcd(&self) -> impl Fn() -> Option<report::Etcd> + Clone + use<> {
        let etcd = self.etcd.clone();
        move || {
            let status = etcd.as_ref()?.status();
            Some(report::Etcd {
                following: status.following,
                revision: status.revision,
                records: status.records,
                refused: status.refused,
                trouble: status.trouble,
            })
        }
    }

    /// There is none.
    #[cfg(not(feature = "etcd"))]
    #[allow(clippy::unused_self, reason = "as with the feature")]
    pub(crate) fn etcd(&self) -> impl Fn() -> Option<report::Etcd> + Clone + use<> {
        || None
    }

    /// Tells the node of members that etcd knows: nobody else introduces it to any.
    pub(crate) fn meet(&self, node: &Node) -> Option<JoinHandle<()>> {
        let (directory, node) = (self.directory.clone()?, node.clone());
        Some(tokio::spawn(async move {
            loop {
                match directory.changed().await {
                    Ok(record) => {
                        let peer = record.peer;
                        if let Err(error) = node.meet(record) {
                            tracing::debug!(%peer, %error, "a record is not believed");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "etcd tells nothing new");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }))
    }

    /// The directory of this configuration.
    pub(crate) fn directory(&self, ready: &Ready, node: &Node) -> Arc<dyn PeerDirectory> {
        let inner = self.directory.clone();
        let inner = inner.unwrap_or_else(|| KademliaDirectory::new(node.clone()));
        let retry = WithRetry::new(ready.retry, seed(ready), directory_fault);
        Arc::new(Decorated::new(inner, retry))
    }
}

/// Drawn from the key: members that lost the directory together do not come back together.
fn seed(ready: &Ready) -> u64 {
    let key = ready.identity.id().0[..8].try_into();
    key.map_or(0, u64::from_ne_bytes)
}

#[cfg(feature = "etcd")]
async fn etcd(ready: &Ready) -> Result<Leased, Error> {
    use vpn_p2p::directory::etcd::{EtcdConfig, EtcdDirectory, EtcdError, EtcdTls, EtcdUser};
    use vpn_p2p::directory::{Book, Pool, UnixClock};
    use vpn_p2p::libp2p::Admission;
    use vpn_p2p::libp2p::body::TERMS;
    use vpn_resilience::Fault;
    use vpn_resilience::call::Policy as _;

    use crate::error::system;

    let table = &ready.config.node;
    let mut config = EtcdConfig::new(table.etcd.clone());
    config.prefix.clone_from(&table.etcd_prefix);
    config.lease = Duration::from_secs(table.etcd_lease);
    let access = ready.etcd.clone();
    config.tls = access.tls.map(|tls| EtcdTls {
        ca: tls.ca,
        client: tls.client,
        server_name: tls.server_name,
    });
    let user = access.user.as_ref();
    config.user = user.map(|(name, password)| EtcdUser::new(name, password.as_str()));
    // Whoever can write to etcd could fill the book with strangers otherwise.
    let book = match &ready.node.admission {
        Admission::Listed(members) => Book::new(TERMS).members(members.keys().copied()),
        // Their certificates are in their records, and the node looks at them.
        Admission::Network(_) => Book::new(TERMS),
    };
    let peer = ready.identity.id();
    let directory = EtcdDirectory::start(config, peer, book, UnixClock::default());
    let directory = directory.map_err(|error| Error::Argument(format!("node.etcd: {error}")))?;
    let directory = Arc::new(directory);
    let mut addresses = None;
    if let Some(net) = ready.config.vpn.leased_from() {
        let fault = |error: &EtcdError| match error {
            EtcdError::Config(_) | EtcdError::Exhausted { .. } => Fault::Answered,
            _ => Fault::Transient,
        };
        let pools = [Pool::new(net)];
        let retry = WithRetry::new(ready.retry, seed(ready), fault);
        let leased = retry.run(|| directory.lease(&pools, &[])).await;
        leased.map_err(system("an address from etcd"))?;
        addresses = Some(directory.addresses());
    }
    Ok(Leased {
        directory: Some(directory.clone()),
        addresses,
        etcd: Some(directory),
    })
}

#[cfg(not(feature = "etcd"))]
async fn etcd(_: &Ready) -> Result<Leased, Error> {
    let problem = "node.discovery: this program was built without the feature etcd";
    Err(Error::Argument(problem.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Nothing is waited for.
    const BRIEF: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn an_address_that_was_lost_before_anybody_looked_is_lost() {
        let mut ready = crate::config::tests::of("", "discovery = \"etcd\"").unwrap();
        let [had, now] = [7, 8].map(|host| IpAddr::from([10, 0, 0, host]));
        ready.has(&[had]);
        let (tell, addresses) = watch::channel(vec![had]);
        let mut leased = Leased {
            directory: None,
            addresses: Some(addresses),
            #[cfg(feature = "etcd")]
            etcd: None,
        };
        let lost = tokio::time::timeout(BRIEF, leased.lost(&ready));
        assert!(lost.await.is_err(), "it is still there");
        tell.send_replace(vec![now]);
        let lost = tokio::time::timeout(PAUSE * 6, leased.lost(&ready));
        assert!(lost.await.is_ok());
        ready.has(&[now]);
        let lost = tokio::time::timeout(BRIEF, leased.lost(&ready));
        assert!(lost.await.is_err(), "it lives with that one now");
    }
}
