//! Decides who is listened to, of all that want to say who they are: members have places of their own,
//! and nobody keeps a stranger's place who does not speak. Pure.

use std::collections::VecDeque;

use vpn_core::PeerId;

/// Of one peer at the same time: one for each of two connections.
const OF_ONE: usize = 2;

/// Members that are listened to at the same time; further ones say it again later.
const MEMBERS: usize = 64;

/// The same for those who have not proven themselves: the one that takes longest makes room, since
/// what a newcomer says arrives at once.
const STRANGERS: usize = 64;

/// One that is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Place {
    ticket: Ticket,
    peer: PeerId,
    is_member: bool,
}

/// Who is listened to, the longest first.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: VecDeque<Place>,
    next: u64,
}

impl Places {
    /// Somebody wants to speak: its ticket, and who has to stop for it. `None`: not now.
    pub(super) fn enter(
        &mut self,
        peer: PeerId,
        is_member: bool,
    ) -> Option<(Ticket, Option<Ticket>)> {
        let of_one = self.taken.iter().filter(|place| place.peer == peer);
        if of_one.count() >= OF_ONE {
            return None;
        }
        let alike = self.taken.iter().filter(|p| p.is_member == is_member);
        let mut out = None;
        match (alike.count(), is_member) {
            (MEMBERS.., true) => return None,
            (STRANGERS.., false) => {
                let oldest = self.taken.iter().position(|place| !place.is_member)?;
                out = self.taken.remove(oldest).map(|place| place.ticket);
            }
            _ => {}
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.taken.push_back(Place {
            ticket,
            peer,
            is_member,
        });
        Some((ticket, out))
    }

    /// It has spoken, or was stopped.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.taken.retain(|place| place.ticket != ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> PeerId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        PeerId(id)
    }

    #[test]
    fn nobody_has_more_than_two() {
        let mut places = Places::default();
        let (first, _) = places.enter(peer(1), true).unwrap();
        assert!(places.enter(peer(1), true).is_some());
        assert!(places.enter(peer(1), true).is_none());
        places.leave(first);
        assert!(places.enter(peer(1), true).is_some());
    }

    #[test]
    fn strangers_take_no_members_place_and_the_slowest_makes_room() {
        let mut places = Places::default();
        let (slow, _) = places.enter(peer(0), false).unwrap();
        for n in 1..STRANGERS {
            assert_eq!(places.enter(peer(n), false).unwrap().1, None);
        }
        let (_, out) = places.enter(peer(STRANGERS), false).unwrap();
        assert_eq!(out, Some(slow));
        for n in 0..MEMBERS {
            assert_eq!(places.enter(peer(1000 + n), true).unwrap().1, None);
        }
        assert!(places.enter(peer(2000), true).is_none());
        assert_eq!(places.taken.len(), STRANGERS + MEMBERS);
    }
}
