//! Touches peers and the directory: tells them who this node is, again and again.
//!
//! What is said is up to [`voice`](super::voice). Each attempt takes the newest record, so that peers are
//! told what lives however long the directory is away.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use libp2p::Multiaddr;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use vpn_core::{DirectoryError, PeerDirectory, PeerRecord};

use super::hello::unix;
use super::voice::{Own, Voice};
use super::{Command, Node, Shared};
use crate::directory::records::RecordError;
use crate::identity::Identity;

/// Changes of endpoints come in numbers: what follows so soon is told together.
const SETTLE: Duration = Duration::from_millis(300);

/// How often it is looked whether the record is old: timers stand still while a machine sleeps.
const LOOK: Duration = Duration::from_secs(15);

/// Pauses between attempts to publish, while the directory cannot be reached.
const AGAIN: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

/// How long the directory may take for one attempt.
const PUBLISH: Duration = Duration::from_secs(45);

/// Attempts in a row without a pause, while the directory has a newer record of this node.
const NEWER: u32 = 3;

impl Node {
    /// Says who this node is, to its peers and in the directory, and goes on until the node is closed.
    /// Said again, it is this that counts: with a new certificate, or other addresses.
    ///
    /// # Errors
    ///
    /// [`RecordError`]: nobody would believe such a record. What was said before goes on.
    pub fn announce(
        &self,
        own: Own,
        identity: Identity,
        directory: Arc<dyn PeerDirectory>,
    ) -> Result<(), RecordError> {
        let shared = self.shared().clone();
        let network = shared.door.membership().network;
        let mut voice = Voice::new(own, identity, network);
        if let Some(before) = shared.own_record() {
            voice.outdated(before.sequence);
        }
        // What makes no sense is said here.
        voice.say(&self.endpoints().borrow(), since_epoch())?;
        let turn = CancellationToken::new();
        {
            let mut speaking = shared.voice();
            if let Some((_, before)) = speaking.replace((voice, turn.clone())) {
                before.cancel();
            }
        }
        let task = announce(shared.clone(), directory, self.endpoints());
        shared.spawn(async move {
            turn.run_until_cancelled(task).await;
        });
        Ok(())
    }
}

/// The time that records are signed with.
pub(super) fn since_epoch() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

impl Shared {
    /// The own record, as it counts now; `None` if nothing was announced.
    pub(super) fn own_record(&self) -> Option<PeerRecord> {
        let mut speaking = self.voice();
        speaking.as_mut()?.0.again(since_epoch())
    }

    fn voice(&self) -> std::sync::MutexGuard<'_, Option<(Voice, CancellationToken)>> {
        self.voice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, endpoints: &[Multiaddr]) -> Option<Result<PeerRecord, RecordError>> {
        let mut speaking = self.voice();
        Some(speaking.as_mut()?.0.say(endpoints, since_epoch()))
    }

    /// Whether there is a larger number than this.
    fn outdated(&self, have: u64) -> bool {
        let mut speaking = self.voice();
        speaking.as_mut().is_some_and(|(v, _)| v.outdated(have))
    }

    fn is_certified(&self) -> bool {
        let speaking = self.voice();
        let until = speaking.as_ref().and_then(|(v, _)| v.certified_until());
        until.is_none_or(|until| until > unix())
    }
}

async fn announce(
    shared: Arc<Shared>,
    directory: Arc<dyn PeerDirectory>,
    mut endpoints: watch::Receiver<Vec<Multiaddr>>,
) {
    // Numbers of the records that peers were told, and that the directory has.
    let (mut told, mut published) = (None, None);
    let (mut tried, mut newer) = (0, 0);
    loop {
        let places = endpoints.borrow_and_update().clone();
        let record = match shared.say(&places) {
            Some(Ok(record)) => record,
            // It made sense before; an endpoint more cannot make it too long.
            other => {
                tracing::error!(?other, "the own record makes no sense");
                return;
            }
        };
        if told != Some(record.sequence) {
            told = Some(record.sequence);
            if !shared.is_certified() {
                tracing::warn!(
                    "the own certificate expired: nobody believes that this is a member"
                );
            }
            // A node that ends tells nobody.
            let _ = shared.commands.send(Command::Tell).await;
        }
        if published != told {
            let publishing = timeout(PUBLISH, directory.publish(record.clone()));
            let outcome = tokio::select! {
                outcome = publishing => outcome,
                changed = endpoints.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    sleep(SETTLE).await;
                    continue;
                }
            };
            match outcome {
                Ok(Ok(())) => {
                    published = told;
                    (tried, newer) = (0, 0);
                }
                Ok(Err(DirectoryError::Stale { have, .. }))
                    if have >= record.sequence && shared.outdated(have) && newer < NEWER =>
                {
                    newer += 1;
                    continue;
                }
                Ok(Err(error)) => tracing::debug!(%error, tried, "could not publish who we are"),
                Err(_) => tracing::debug!(tried, "the directory took too long"),
            }
        }
        let pause = if published == told {
            LOOK
        } else {
            tried += 1;
            AGAIN[(tried - 1).min(AGAIN.len() - 1)]
        };
        tokio::select! {
            changed = endpoints.changed() => {
                if changed.is_err() {
                    return;
                }
                sleep(SETTLE).await;
            }
            () = shared.renew.notified() => (tried, newer) = (0, 0),
            () = sleep(pause) => newer = 0,
        }
    }
}
