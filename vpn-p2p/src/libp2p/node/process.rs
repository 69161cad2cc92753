//! Decides which connections of a peer are those of a process that is gone. Pure.
//!
//! Each process draws a number and says it on each of its connections. Times would not do: clocks drift,
//! machines sleep, and what is said may be under way for long.

use libp2p::swarm::ConnectionId;

/// Length in bytes of what stands for a process.
pub(super) const LENGTH: usize = 8;

/// Stands for one process of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process(pub(super) [u8; LENGTH]);

/// Connections of one peer that are dead, given each one's age in any measure and who is at its other end,
/// where that is known. The youngest of those says who lives: it was made after the others.
pub(super) fn dead<T: Ord>(
    connections: impl Iterator<Item = (ConnectionId, T, Option<Process>)>,
) -> Vec<ConnectionId> {
    let known: Vec<_> = connections
        .filter_map(|(id, since, process)| Some((id, since, process?)))
        .collect();
    let lives = known.iter().max_by_key(|(_, since, _)| since);
    let lives = lives.map(|(_, _, process)| *process);
    let dead = known
        .iter()
        .filter(|(_, _, process)| Some(*process) != lives);
    dead.map(|(id, ..)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_the_former_process_are_dead_and_no_others() {
        let id = ConnectionId::new_unchecked;
        let [one, two] = [1, 2].map(|n| Some(Process([n; LENGTH])));
        for (connections, wanted) in [
            // Of one process all live, however old.
            (vec![(0, one), (1, one), (9, one)], vec![]),
            (vec![(0, one), (1, one), (2, two)], vec![0, 1]),
            // Who is at its other end is not known yet.
            (vec![(0, None), (1, one), (2, two), (3, None)], vec![1]),
            (vec![(0, one), (1, None)], vec![]),
            // What the former process said is heard last.
            (vec![(0, two), (1, one)], vec![0]),
            (vec![], vec![]),
        ] {
            let all = connections
                .iter()
                .map(|(n, process)| (id(*n), *n, *process));
            let wanted: Vec<_> = wanted.into_iter().map(id).collect();
            assert_eq!(dead(all), wanted, "{connections:?}");
        }
    }
}
