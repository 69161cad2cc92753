//! What a worker knows of the others: their rings, its own, and what the first decided about groups.

use tokio::sync::{mpsc, watch};
use vpn_core::TunnelId;

use crate::router::{GroupView, Handed, WorkerId};

/// Packets that may wait to be taken over by one worker: as many as wait for a tunnel. Only what
/// arrived at a wrong queue is there, and a worker takes all of it with each step.
pub const RING: usize = 256;

/// The others of several workers.
pub(super) struct Peers {
    pub(super) me: WorkerId,
    /// By worker, this one included.
    pub(super) rings: Vec<mpsc::Sender<Handed>>,
    pub(super) ring: mpsc::Receiver<Handed>,
    /// Where groups stand; the first worker writes, the others read.
    pub(super) views: watch::Sender<Option<GroupView>>,
    pub(super) view: watch::Receiver<Option<GroupView>>,
    pub(super) failures: mpsc::Sender<TunnelId>,
}

impl Peers {
    /// Gives a packet to the worker it is for. Returns it if that one has no room.
    pub(super) fn give(&self, handed: Handed) -> Option<Handed> {
        match self.rings.get(handed.to().index()) {
            Some(ring) => Some(ring.try_send(handed).err()?.into_inner()),
            None => Some(handed),
        }
    }

    /// Tells that a transport of this worker ended.
    pub(super) fn failed(&self, tunnel: TunnelId) {
        // There is room for each tunnel once. Without a front the engine is ending.
        let _ = self.failures.try_send(tunnel);
    }

    /// Where groups stand, if that is news to a worker that does not decide it.
    pub(super) fn new_view(&mut self) -> Option<GroupView> {
        let news = self.me != WorkerId::LEAD && self.view.has_changed().unwrap_or(false);
        news.then(|| self.view.borrow_and_update().clone())
            .flatten()
    }
}

/// What comes from other workers: a packet, or `None` if groups stand elsewhere. Waits for ever
/// without other workers.
pub(super) async fn from_others(peers: &mut Option<Peers>) -> Option<Handed> {
    let Some(Peers { me, ring, view, .. }) = peers else {
        return std::future::pending().await;
    };
    tokio::select! {
        Some(handed) = ring.recv() => Some(handed),
        Ok(()) = view.changed(), if *me != WorkerId::LEAD => {
            // `new_view` takes it.
            view.mark_changed();
            None
        }
        else => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use vpn_core::packet::{Packet, PacketBatch};
    use vpn_core::testing::build;
    use vpn_core::{DropReason, RuleSnapshot, TunnelId};

    use super::*;
    use crate::router::{Router, RouterConfig, Update};
    use crate::rules::{CompiledRules, RuleCache, Target};

    /// Packets of one batch after the other, and nobody who takes them.
    #[test]
    fn a_ring_holds_so_much_and_what_is_beyond_is_counted() {
        let now = Instant::now();
        let mut router = Router::several(&RouterConfig::default(), now, 2).remove(0);
        router.add_tunnel_of(WorkerId::new(1), "fr");
        let (rules, to) = (RuleCache::new(), Target::Tunnel(TunnelId::new(0)));
        let none = |_: &str| None;
        let compiled = CompiledRules::compile(&RuleSnapshot::default(), &none, to);
        rules.swap(compiled.unwrap());
        router.handle_update(now, Update::Rules(rules.current()));
        let (views, view) = watch::channel(None);
        let (own, ring) = mpsc::channel(RING);
        let (other, mut others) = mpsc::channel(RING);
        let peers = Peers {
            me: WorkerId::LEAD,
            rings: vec![own, other],
            ring,
            views,
            view,
            failures: mpsc::channel(1).0,
        };
        let sent = RING + 44;
        for n in 0..sent {
            let mut batch = PacketBatch::new(1, 1600);
            let bytes = build::udp("10.5.0.2:1", "203.0.113.10:7", &n.to_be_bytes());
            batch.push(Packet::from_slice(&bytes)).unwrap();
            router.handle_device(now, &mut batch);
            router.hand_over(|handed| peers.give(handed));
        }
        let accounts = router.accounts();
        assert!(accounts.balance(), "{accounts:?}");
        assert_eq!(accounts.handed_out, RING as u64);
        assert_eq!(accounts.drops.get(DropReason::QueueFull), 44);
        assert_eq!(accounts.drops.total(), 44);
        // There is room again.
        others.try_recv().unwrap();
        assert_eq!(others.len(), RING - 1);
    }
}
