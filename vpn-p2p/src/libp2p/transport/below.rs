//! Touches the tunnel's state: up while a member is connected, and what follows when the network below
//! changes.
//!
//! A connection may outlive the network it went over by as long as nobody looks. So after a change each
//! member is asked for an answer: who gives none is disconnected, and dialled anew. After a loss the tunnel
//! is down until somebody answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};
use vpn_core::{DownCause, NetworkEvent, PeerId, TransportState};

use super::Shared;

/// How long nobody may be connected before the tunnel is down.
const ALONE: Duration = Duration::from_secs(15);

/// How long a member may take to answer: a few round trips by the slowest of ways.
const ANSWER: Duration = Duration::from_secs(3);

/// Pause before members are asked (again) while the network is lost and none has answered.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Members that are asked at the same time.
const ASKED: usize = 64;

/// What is believed of the network below.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Below {
    /// It was lost, and nobody has answered since.
    is_cut_off: bool,
    /// It was lost, and it was not said that there is one again: connections are left alone.
    is_lost: bool,
}

/// Something happened to the network below.
pub(super) fn changed(shared: &Shared, event: NetworkEvent) {
    shared.node.network_changed();
    for (_, pool) in shared.dispatcher.peers() {
        pool.network_changed(event);
    }
    let is_lost = event == NetworkEvent::Lost;
    if !is_lost && !event.calls_for_reconnect() {
        return;
    }
    shared.below.send_modify(|below| {
        below.is_lost = is_lost;
        below.is_cut_off |= is_lost;
        if is_lost {
            let down = TransportState::Down(DownCause::NoAnswer);
            shared.state.set(down);
        }
    });
    shared.doubts.notify_one();
}

/// Lets streams take the direct way, where there is one now: those by the relay end with it.
pub(super) async fn follow_moves(shared: Arc<Shared>, mut moved: broadcast::Receiver<PeerId>) {
    loop {
        let who = match moved.recv().await {
            Ok(peer) => Some(peer),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        for (peer, pool) in shared.dispatcher.peers() {
            if who.is_none_or(|who| who == peer) {
                pool.renew();
            }
        }
    }
}

/// Says where the tunnel stands.
pub(super) async fn stand(shared: Arc<Shared>) {
    let node = shared.node.shared();
    let mut below = shared.below.subscribe();
    loop {
        // Enabled before it is looked, so that nobody who comes in between is missed.
        let changed = node.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let is_alone = || node.standing().admitted.is_empty();
        let waits = {
            // Held meanwhile: a loss comes before or after.
            let below = below.borrow_and_update();
            let is_up = !below.is_cut_off && !is_alone();
            if is_up {
                let up = TransportState::Up(shared.assigned.clone());
                shared.state.set(up);
            }
            !is_up && !below.is_cut_off
        };
        tokio::select! {
            () = changed => {}
            // It lives as long as this does.
            _ = below.changed() => {}
            () = sleep(ALONE), if waits => if is_alone() {
                shared.state.set(TransportState::Down(DownCause::NoAnswer));
            }
        }
    }
}

/// Asks members for an answer when the network below is another one, until there is one.
pub(super) async fn probe(shared: Arc<Shared>) {
    loop {
        shared.doubts.notified().await;
        loop {
            if shared.below.borrow().is_lost {
                // Who would answer at once answers then as well; and that it is down has been seen.
                tokio::select! {
                    () = shared.doubts.notified() => continue,
                    () = sleep(ASK_AGAIN) => {}
                }
            }
            tokio::select! {
                // Another one again: what is under way says nothing about it.
                () = shared.doubts.notified() => continue,
                () = ask_all(&shared) => {}
            }
            if !shared.below.borrow().is_cut_off {
                break;
            }
            tokio::select! {
                () = shared.doubts.notified() => {}
                () = shared.node.shared().changed.notified() => {}
                () = sleep(ASK_AGAIN) => {}
            }
        }
    }
}

/// Every member that is connected, once.
async fn ask_all(shared: &Shared) {
    let members = shared.node.shared().admitted();
    let asked = stream::iter(members).for_each_concurrent(ASKED, |peer| ask(shared, peer));
    asked.await;
}

async fn ask(shared: &Shared, peer: PeerId) {
    if let Ok(true) = timeout(ANSWER, shared.node.answers(peer)).await {
        shared
            .below
            .send_if_modified(|below| std::mem::take(&mut below.is_cut_off));
    } else if !shared.below.borrow().is_lost {
        tracing::debug!(%peer, "does not answer since the network below changed");
        shared.node.disconnect(peer).await;
    }
}
