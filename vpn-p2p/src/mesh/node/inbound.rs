//! A batch's way in: sockets and streams, member, joined, router.

use std::sync::Arc;
use std::time::Instant;

use vpn_core::DropCounters;
use vpn_core::packet::{Joiner, Packet, PacketBatch};

use super::shared::{Core, Shared, unix};
use crate::mesh::member::Arrived;
use crate::mesh::way::HubId;

impl Shared {
    /// Appends what came through the mesh; answers everything else on the way.
    pub(super) fn receive_batch(
        self: &Arc<Self>,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> usize {
        let Some(sockets) = self.sockets() else {
            return 0;
        };
        let (now, unix) = (Instant::now(), unix());
        let before = batch.len();
        let mut joiner = Joiner::default();
        let mut guard = self.core();
        let core = &mut *guard;
        // Streams first, and at most half of the room: neither may hold up the other.
        let room = (batch.capacity() - batch.len()).div_ceil(2);
        self.receive_streams(core, batch, &mut joiner, drops, room, now);
        let Core {
            member, arrived, ..
        } = core;
        sockets.receive(arrived, batch, |from, datagram, batch| {
            accept(
                member.udp(from, datagram, now, unix),
                batch,
                &mut joiner,
                drops,
            );
        });
        if batch.len() > before {
            core.cut_off = false;
        }
        self.finish(guard, now);
        batch.len() - before
    }

    fn receive_streams(
        &self,
        core: &mut Core,
        batch: &mut PacketBatch,
        joiner: &mut Joiner,
        drops: &mut DropCounters,
        most: usize,
        now: Instant,
    ) {
        let unix = unix();
        self.streams.receive(most, |hub: HubId, frame: Packet| {
            let (mut buffer, start) = frame.into_parts();
            let arrived = core.member.stream(hub, buffer.split_off(start), now, unix);
            accept(arrived, batch, joiner, drops);
        });
    }
}

/// What the member makes of a datagram goes to the router, or is counted.
fn accept(
    arrived: Arrived,
    batch: &mut PacketBatch,
    joiner: &mut Joiner,
    drops: &mut DropCounters,
) {
    match arrived {
        // Copied, so that the packet has room in front and a pooled buffer.
        Arrived::Packet(_, packet) => {
            if !joiner.append(&packet, batch) {
                drops.count(vpn_core::DropReason::QueueFull);
            }
        }
        Arrived::Super(_, packet, start, offload) => {
            let packet = Packet::new(packet, start).with_offload(offload);
            if batch.push(packet).is_err() {
                drops.count(vpn_core::DropReason::QueueFull);
            }
        }
        Arrived::Handled => {}
        Arrived::Dropped(reason) => drops.count(reason),
    }
}
