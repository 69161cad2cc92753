//! What a guard of a tunnel decides: what is shown, what is admitted, what becomes of the rest.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use vpn_core::{DownCause, DropReason, NetworkEvent, Packet, TransportState};

/// What may be sent of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All of it.
    All,
    /// The first so many; the rest waits with the caller until [`Guard::room_at`].
    First(usize),
    /// Nothing: it is dropped, for this reason.
    Drop(DropReason),
}

/// What becomes of packets that were admitted and not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// They stay with the caller.
    Keep,
    /// They are dropped, for this reason.
    Drop(DropReason),
}

/// Decides about one tunnel. Pure: the time is an argument, and what it does not implement changes
/// nothing. [`Guarded`](super::Guarded) asks it, under a lock, a few times per batch of packets.
pub trait Guard: Debug + Send {
    /// The tunnel stands so, now. A cause: that it is down is shown instead. Asked whenever the state
    /// changed, at [`next_timeout`](Self::next_timeout), and before packets are sent.
    fn observe(&mut self, _now: Instant, _state: &TransportState) -> Option<DownCause> {
        None
    }

    /// What may be sent of these.
    fn admit(&mut self, _now: Instant, _packets: &[Packet]) -> Admission {
        Admission::All
    }

    /// Of `offered` packets that were admitted, these were not taken; none of them, if there was
    /// nothing to take.
    fn sent(&mut self, _now: Instant, _offered: usize, _left: &[Packet]) -> Rest {
        Rest::Keep
    }

    /// Somebody wants to send, and there is room below, or there is none.
    fn room(&mut self, _now: Instant, _there_is: bool) {}

    /// The network below is another one, or gone, or the machine slept.
    fn network_changed(&mut self, _event: NetworkEvent) {}

    /// When it wants to be asked again, whatever happens until then.
    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    /// Before this time nothing is admitted: who wants to send waits.
    fn room_at(&self) -> Option<Instant> {
        None
    }

    /// From this time on it takes what is sent, whether there is room below or not.
    fn takes_at(&self) -> Option<Instant> {
        None
    }

    /// How long closing may take; beyond, nobody waits for it.
    fn close_within(&self) -> Option<Duration> {
        None
    }
}
