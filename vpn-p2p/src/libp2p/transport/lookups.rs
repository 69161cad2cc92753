//! Touches the directory: who has which address is asked beside the packets, and what it tells is learned.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};
use vpn_core::{Authority, DropCounters, PeerId, PeerRecord};

use super::Shared;
use crate::directory::Conflict;
use crate::libp2p::node::unix;
use crate::libp2p::rate::Rate;

/// How long an address is asked about: less than packets wait.
const LOOKUP: Duration = Duration::from_millis(4500);

/// Pause before a node that has just arrived asks again who has an address.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// How long a question may take before it is asked again beside; it lives no longer than [`LOOKUP`], so that
/// at most five are open.
const BESIDE: Duration = Duration::from_secs(1);

/// How long a member may take to say who it is, before the directory is asked.
const SAYS_IT: Duration = Duration::from_secs(1);

/// Pause before a directory that failed is listened to again.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Addresses that are asked about at the same time; the others wait for their turn.
pub(super) const LOOKUPS: usize = 64;

/// Conflicts that were told: many at once, when a network comes together, and then one a second.
pub(super) type Told = Rate<(), 32, 1>;

impl Shared {
    /// Learns what a peer says about itself.
    fn learn(&self, record: PeerRecord) {
        let mut all = self.addresses();
        let learned = all.learn(record, Instant::now(), unix());
        self.settle(&all);
        drop(all);
        for conflict in learned.into_iter().flatten() {
            self.tell(&conflict);
        }
        self.learned.notify_waiters();
    }

    /// Tells that several claim an address, unless somebody makes one conflict after the other: all of them are
    /// in the [status](super::TunnelStatus::conflicts).
    fn tell(&self, conflict: &Conflict) {
        let told = self.conflicts.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        if told.may((), Instant::now()) {
            conflict.report();
        }
    }
}

/// Learns what peers say about themselves.
pub(super) async fn hear(shared: Arc<Shared>, mut heard: broadcast::Receiver<PeerRecord>) {
    loop {
        match heard.recv().await {
            Ok(record) => shared.learn(record),
            // They say it again, or the directory does.
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "more records than could be taken");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Learns what the directory tells, and introduces the node to members it did not know.
pub(super) async fn follow(shared: Arc<Shared>) {
    loop {
        let record = match shared.directory.changed().await {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(%error, "the directory tells nothing new");
                sleep(LISTEN_AGAIN).await;
                continue;
            }
        };
        let peer = record.peer;
        match shared.node.believe(record) {
            Ok((valid, body)) => {
                shared.learn(valid.into_record());
                if !shared.node.is_admitted(peer) {
                    shared.node.met(peer, body.endpoints);
                }
            }
            Err(error) => tracing::debug!(%peer, %error, "a record is not believed"),
        }
    }
}

/// Asks what there is to ask, whoever found that.
pub(super) async fn ask(shared: Arc<Shared>) {
    loop {
        shared.asks.notified().await;
        let questions = shared.addresses().take_questions();
        shared.counted().1 += questions.len() as u64;
        for address in questions {
            shared.spawn(look_up(shared.clone(), address));
        }
    }
}

/// Asks who a member is that opens streams and does not say it itself.
pub(super) async fn who_is(shared: &Shared, peer: PeerId) {
    sleep(SAYS_IT).await;
    if shared.addresses().record(peer, unix()).is_some() {
        return;
    }
    let turn = shared.turns.acquire().await;
    let found = shared.directory.resolve(peer).await;
    drop(turn);
    match found {
        Ok(Some(record)) => match shared.node.believe(record) {
            Ok((valid, _)) => shared.learn(valid.into_record()),
            Err(error) => tracing::debug!(%peer, %error, "a record is not believed"),
        },
        Ok(None) => tracing::debug!(%peer, "nobody says who this is"),
        Err(error) => tracing::debug!(%peer, %error, "nobody says who this is"),
    }
}

/// Who has this address. A node that cannot be reached may hold up an answer for as long as a question lives,
/// while who came meanwhile would be found at once: it is asked again beside the question.
async fn asked(
    shared: &Shared,
    address: IpAddr,
) -> Result<Vec<PeerRecord>, vpn_core::DirectoryError> {
    let ask = async || {
        let _turn = shared.turns.acquire().await;
        shared.directory.resolve_address(address).await
    };
    // Where the directory decides, it knows.
    let decides = shared.directory.authority() == Authority::Directory;
    let mut open = FuturesUnordered::from_iter([ask()]);
    loop {
        tokio::select! {
            Some(found) = open.next() => {
                let is_somebody = found.as_ref().is_ok_and(|found| !found.is_empty());
                if is_somebody || decides {
                    return found;
                }
                // Who has just arrived does not know who to ask yet; and one of the others may know.
                if open.is_empty() {
                    if found.is_err() || !shared.node.is_new() {
                        return found;
                    }
                    sleep(ASK_AGAIN).await;
                    open.push(ask());
                }
            }
            () = sleep(BESIDE), if !decides => open.push(ask()),
        }
    }
}

/// Asks who has this address; what waits for it goes on.
async fn look_up(shared: Arc<Shared>, address: IpAddr) {
    let found = match timeout(LOOKUP, asked(&shared, address)).await {
        Ok(Ok(records)) => {
            let mut peers = Vec::new();
            for record in records {
                let peer = record.peer;
                match shared.node.believe(record) {
                    Ok((valid, _)) => {
                        shared.learn(valid.into_record());
                        peers.push(peer);
                    }
                    Err(error) => tracing::warn!(%address, %error, "a record is not believed"),
                }
            }
            Some(peers)
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "nobody says who has this address");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "the directory took too long");
            None
        }
    };
    let mut all = shared.addresses();
    let answered = all.answered(address, found, Instant::now(), unix());
    if let Some((peer, mut waited)) = answered.waited {
        let mut drops = DropCounters::default();
        shared.send(&mut all, peer, &mut waited, &mut drops);
        all.holding.drops.merge(&drops);
    }
    shared.settle(&all);
    drop(all);
    if let Some(conflict) = answered.conflict {
        shared.tell(&conflict);
    }
    shared.learned.notify_waiters();
}
