//! What happens when, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;

use super::At;

/// The number of a stream between a member and a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Stream(pub(super) u64);

#[derive(Debug)]
pub(super) enum Event {
    /// A timer of a member is due.
    Member(At),
    /// A timer of a hub is due.
    Hub(usize),
    /// A datagram arrives outside.
    Datagram {
        /// Which member sent it; none: a hub.
        sender: Option<At>,
        from: SocketAddr,
        to: SocketAddr,
        bytes: BytesMut,
    },
    /// A datagram arrives from within the same site.
    Inside {
        from: SocketAddr,
        to: At,
        bytes: BytesMut,
    },
    ToHub {
        stream: Stream,
        bytes: BytesMut,
    },
    ToMember {
        stream: Stream,
        bytes: BytesMut,
    },
    Opened {
        stream: Stream,
    },
    /// The next packet of a flow.
    Packet {
        from: At,
        to: At,
    },
}

struct Entry {
    at: Instant,
    /// What was planned first happens first.
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    count: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.heap.push(Reverse(Entry {
            at,
            number: self.count,
            event,
        }));
    }

    /// The next event, if it is before this time.
    pub(super) fn pop(&mut self, before: Instant) -> Option<(Instant, Event)> {
        if self.heap.peek()?.0.at >= before {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        Some((entry.at, entry.event))
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("events", &self.heap.len())
            .finish()
    }
}
