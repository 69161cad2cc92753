//! Touches etcd: renews the lease, and gets everything back where it was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use super::error::EtcdError;

/// After a failure, the next attempt is made after this: a lease that would be lost soon is kept if
/// etcd is back in time.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the lease until the task is aborted.
pub(super) async fn keep(shared: Arc<Shared>) {
    let every = shared.connection.config().lease / 3;
    let mut next = every;
    loop {
        tokio::select! {
            () = sleep(next) => {}
            // Something failed that a lost lease would explain.
            () = shared.doubt.notified() => {}
        }
        next = match renew(&shared).await {
            Ok(()) => every,
            Err(error) => {
                tracing::warn!(%error, "the lease is not renewed");
                PAUSE.min(every)
            }
        };
    }
}

async fn renew(shared: &Shared) -> Result<(), EtcdError> {
    let mut holding = shared.holding.lock().await;
    let desk = shared.desk();
    match holding.lease {
        Some(lease) if desk.keep(lease).await? => return Ok(()),
        Some(_) => {
            tracing::warn!("etcd lost the lease; a new one is asked for");
            holding.lease = None;
        }
        None if holding.addresses.is_empty() && holding.record.is_none() => return Ok(()),
        None => {}
    }
    let lease = desk.grant().await?;
    let before = std::mem::take(&mut holding.addresses);
    let mut claimed = Vec::new();
    for (pool, address) in &before {
        match desk.claim(pool, Some(*address), lease).await {
            Ok(now) => {
                if now != *address {
                    tracing::warn!(lost = %address, %now, "somebody took the address meanwhile");
                }
                claimed.push((pool.clone(), now));
            }
            Err(error @ EtcdError::Exhausted { .. }) => {
                tracing::error!(lost = %address, %error, "the address is somebody else's now");
            }
            Err(error) => {
                // Tried again, with another lease: this one goes by itself if it cannot be given back.
                holding.addresses = before;
                let _ = desk.revoke(lease).await;
                return Err(error);
            }
        }
    }
    holding.addresses = claimed;
    holding.lease = Some(lease);
    shared.tell_addresses(&holding);
    let Some(record) = holding.record.as_ref() else {
        return Ok(());
    };
    if let Err(error) = desk.write(record, lease, true).await {
        // Expired, or a newer one is there: its owner publishes the next one.
        tracing::debug!(%error, "the record is not put back");
    }
    Ok(())
}
