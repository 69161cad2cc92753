//! Decides over which of a peer's connections a stream is opened. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;

/// One connection.
#[derive(Debug)]
struct Line<T> {
    peer: PeerId,
    is_relayed: bool,
    /// It ends soon.
    is_leaving: bool,
    /// An earlier one leads to the same process.
    is_second: bool,
    number: u64,
    way: T,
}

/// All connections, each with how streams are opened on it.
#[derive(Debug)]
pub(super) struct Lines<T> {
    all: HashMap<ConnectionId, Line<T>>,
    next: u64,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            next: 0,
        }
    }
}

impl<T> Lines<T> {
    /// There is a connection.
    pub(super) fn enter(&mut self, id: ConnectionId, peer: PeerId, is_relayed: bool, way: T) {
        let line = Line {
            peer,
            is_relayed,
            is_leaving: false,
            is_second: false,
            number: self.next,
            way,
        };
        self.next += 1;
        self.all.insert(id, line);
    }

    /// A connection ends soon: streams are opened on others.
    pub(super) fn avoid(&mut self, id: ConnectionId) {
        if let Some(line) = self.all.get_mut(&id) {
            line.is_leaving = true;
        }
    }

    /// It does not end after all.
    pub(super) fn stay(&mut self, id: ConnectionId) {
        if let Some(line) = self.all.get_mut(&id) {
            line.is_leaving = false;
        }
    }

    /// An earlier connection leads to the same process.
    pub(super) fn second(&mut self, id: ConnectionId) {
        if let Some(line) = self.all.get_mut(&id) {
            line.is_second = true;
        }
    }

    /// A connection ended, or did not come about.
    pub(super) fn leave(&mut self, id: ConnectionId) {
        self.all.remove(&id);
    }

    /// This connection.
    pub(super) fn on(&self, id: ConnectionId) -> Option<&T> {
        self.all.get(&id).map(|line| &line.way)
    }

    /// The best connection to a peer: one that stays, a direct one, the first that leads to its process, the
    /// newest: of a peer that was started again the former ones are dead.
    pub(super) fn to(&self, peer: &PeerId) -> Option<(ConnectionId, &T)> {
        let of_peer = self.all.iter().filter(|(_, line)| line.peer == *peer);
        let best = of_peer.min_by_key(|(_, line)| {
            let last = Reverse(line.number);
            (line.is_leaving, line.is_relayed, line.is_second, last)
        });
        best.map(|(id, line)| (*id, &line.way))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    #[test]
    fn a_stream_goes_the_direct_way_that_stays_and_is_newest() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let mut lines = Lines::default();
        let to = |lines: &Lines<()>| lines.to(&peer).map(|(id, ())| id);
        assert_eq!(to(&lines), None);
        lines.enter(id(9), other, false, ());
        assert_eq!(to(&lines), None);
        lines.enter(id(1), peer, true, ());
        assert_eq!(to(&lines), Some(id(1)));
        lines.enter(id(3), peer, false, ());
        lines.enter(id(4), peer, false, ());
        lines.enter(id(2), peer, true, ());
        assert_eq!(to(&lines), Some(id(4)));
        lines.avoid(id(4));
        assert_eq!(to(&lines), Some(id(3)));
        lines.stay(id(4));
        assert_eq!(to(&lines), Some(id(4)));
        // To the same process: it may have been made for something else, and end soon.
        lines.second(id(4));
        assert_eq!(to(&lines), Some(id(3)));
        lines.leave(id(3));
        assert_eq!(to(&lines), Some(id(4)), "rather than by a relay");
        lines.enter(id(3), peer, false, ());
        lines.avoid(id(4));
        lines.leave(id(3));
        assert_eq!(to(&lines), Some(id(2)));
    }

    /// The defect: libp2p-stream keeps something of each connection that ever was.
    #[test]
    fn nothing_is_left_of_connections_that_ended() {
        let mut lines = Lines::default();
        for n in 0..1000 {
            lines.enter(id(n), PeerId::random(), false, ());
            assert!(lines.on(id(n)).is_some());
            lines.avoid(id(n));
            lines.leave(id(n));
            lines.avoid(id(n));
        }
        assert!(lines.all.is_empty());
    }
}
