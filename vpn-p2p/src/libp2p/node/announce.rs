//! Decides when a node says anew who it is: when it can be reached elsewhere, and before its record
//! expires. Tells its peers and the directory.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use libp2p::Multiaddr;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use vpn_core::{DirectoryError, PeerDirectory, PeerRecord};

use super::hello::unix;
use super::{Command, Node, Shared};
use crate::directory::records::{Draft, RecordError, encode};
use crate::identity::Identity;
use crate::libp2p::admission::Certificate;
use crate::libp2p::body::{Body, TERMS};

/// For how long a record is valid: a node that is gone for good is forgotten after that.
const VALIDITY: Duration = Duration::from_secs(60 * 60);

/// How often it is published anew: twice before the one before expires, and nodes that joined the
/// directory since then get their share.
const RENEW: Duration = Duration::from_secs(20 * 60);

/// Changes of endpoints come in numbers: what follows so soon is told together.
const SETTLE: Duration = Duration::from_millis(300);

/// Pauses between attempts to publish, while the directory cannot be reached.
const AGAIN: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

/// How long the directory may take for one attempt.
const PUBLISH: Duration = Duration::from_secs(15);

/// What a node says about itself.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// What people call it.
    pub name: String,
    /// Its virtual addresses, each with its network.
    pub addresses: Vec<IpNet>,
    /// That it is a member, where the network has a key.
    pub certificate: Option<Certificate>,
}

impl Own {
    fn record(
        &self,
        identity: &Identity,
        endpoints: &[Multiaddr],
        sequence: u64,
    ) -> Result<PeerRecord, RecordError> {
        let body = Body {
            name: self.name.clone(),
            endpoints: endpoints.to_vec(),
            certificate: self.certificate.clone(),
        };
        let draft = Draft {
            addresses: self.addresses.iter().map(IpNet::addr).collect(),
            sequence,
            expires: unix() + VALIDITY.as_secs(),
            body: body.encode().into(),
        };
        draft.sign(identity, &TERMS)
    }
}

impl Node {
    /// Says who this node is, to its peers and in the directory, and goes on until the node is closed.
    ///
    /// # Errors
    ///
    /// [`RecordError`]: nobody would believe such a record.
    pub fn announce(
        &self,
        own: Own,
        identity: Identity,
        directory: Arc<dyn PeerDirectory>,
    ) -> Result<(), RecordError> {
        // Once for nothing: what makes no sense is said here.
        own.record(&identity, &[], 0)?;
        let shared = self.shared().clone();
        let endpoints = self.endpoints();
        let task = announce(shared.clone(), own, identity, directory, endpoints);
        shared.spawn(task);
        Ok(())
    }
}

/// Milliseconds of the Unix time: larger than in any record of this node before, unless the clock went
/// back; who has a larger one says so.
fn sequence() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

async fn announce(
    shared: Arc<Shared>,
    own: Own,
    identity: Identity,
    directory: Arc<dyn PeerDirectory>,
    mut endpoints: watch::Receiver<Vec<Multiaddr>>,
) {
    let mut last = 0;
    loop {
        let now = endpoints.borrow_and_update().clone();
        last = sequence().max(last + 1);
        match own.record(&identity, &now, last) {
            Ok(record) => {
                tell(&shared, &record).await;
                let renew = Instant::now() + RENEW;
                last = publish(&*directory, &own, &identity, record, &mut endpoints).await;
                tokio::select! {
                    changed = endpoints.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep_until(renew) => {}
                }
            }
            // It was asked before; an endpoint more cannot make it too long.
            Err(error) => {
                tracing::error!(%error, "the own record makes no sense");
                sleep(RENEW).await;
            }
        }
        sleep(SETTLE).await;
    }
}

async fn tell(shared: &Shared, record: &PeerRecord) {
    let bytes = encode(record);
    *shared.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    // A node that ends tells nobody.
    let _ = shared.commands.send(Command::Tell).await;
}

/// Publishes until it succeeds, or the endpoints are others. Returns the largest number used.
async fn publish(
    directory: &dyn PeerDirectory,
    own: &Own,
    identity: &Identity,
    mut record: PeerRecord,
    endpoints: &mut watch::Receiver<Vec<Multiaddr>>,
) -> u64 {
    let mut tried = 0;
    loop {
        let published = timeout(PUBLISH, directory.publish(record.clone())).await;
        match published {
            Ok(Ok(())) => return record.sequence,
            Ok(Err(DirectoryError::Stale { have, .. })) if have >= record.sequence => {
                let again = endpoints.borrow().clone();
                match own.record(identity, &again, have.saturating_add(1)) {
                    Ok(newer) => record = newer,
                    Err(_) => return have,
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, tried, "could not publish who we are"),
            Err(_) => tracing::debug!(tried, "the directory took too long"),
        }
        let pause = AGAIN[tried.min(AGAIN.len() - 1)];
        tried += 1;
        tokio::select! {
            changed = endpoints.changed() => {
                // Others are published next; a closed node publishes nothing.
                if changed.is_ok() {
                    endpoints.mark_changed();
                }
                return record.sequence;
            }
            () = sleep(pause) => {}
        }
    }
}
