//! Touches the file of known peers, beside the node's task: a disk may take seconds, and one that hangs
//! would stop all of libp2p. Only what changed is written, or a node that stands wears out its flash.

use std::io;
use std::time::Duration;

use futures_util::FutureExt as _;
use libp2p::{Multiaddr, PeerId};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::driver::Driver;
use crate::libp2p::known;

/// Addresses of one peer that are written down.
const OF_ONE: usize = 4;

/// How long a node that ends waits for the disk.
const END: Duration = Duration::from_secs(5);

type Lines = Vec<(PeerId, Multiaddr)>;

/// What the file has, and what becomes of it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    written: Lines,
    writing: Option<JoinHandle<Option<Lines>>>,
}

impl Memory {
    /// Writes this, unless it is in the file already. False: what came before is being written still.
    fn write(
        &mut self,
        all: Lines,
        write: impl FnOnce(&Lines) -> io::Result<()> + Send + 'static,
    ) -> bool {
        if let Some(mut writing) = self.writing.take() {
            match (&mut writing).now_or_never() {
                None => {
                    self.writing = Some(writing);
                    return false;
                }
                Some(written) => self.is_written(written.ok().flatten()),
            }
        }
        if !all.is_empty() && all != self.written {
            self.writing = Some(spawn_blocking(move || match write(&all) {
                Ok(()) => Some(all),
                Err(error) => {
                    tracing::warn!(%error, "the known peers are not written down");
                    None
                }
            }));
        }
        true
    }

    fn is_written(&mut self, lines: Option<Lines>) {
        // What could not be written is tried again.
        if let Some(lines) = lines {
            self.written = lines;
        }
    }

    /// Until nothing is being written.
    async fn settle(&mut self) {
        if let Some(writing) = self.writing.take() {
            let written = writing.await.ok().flatten();
            self.is_written(written);
        }
    }
}

impl Driver {
    /// Writes down who is known. False: it has to be tried again.
    pub(super) fn remember(&mut self) -> bool {
        let Some(path) = self.shared.config.known_peers.clone() else {
            return true;
        };
        // Those who are connected first: they are there.
        let (here, gone): (Vec<_>, Vec<_>) = self
            .known
            .iter()
            .partition(|(peer, _)| self.swarm.is_connected(peer));
        let all = here.into_iter().chain(gone);
        let all = all.flat_map(|(peer, addresses)| {
            let addresses = addresses.iter().take(OF_ONE);
            addresses.map(|address| (*peer, address.clone()))
        });
        let all = all.take(known::MAX_KNOWN).collect();
        let write = move |all: &Lines| known::write(&path, all);
        self.memory.write(all, write)
    }

    /// The same, and waits for it, but not for a disk that hangs.
    pub(super) async fn remember_at_the_end(&mut self) {
        let end = async {
            self.memory.settle().await;
            self.remember();
            self.memory.settle().await;
        };
        if timeout(END, end).await.is_err() {
            tracing::warn!("the known peers are not written down in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    fn lines(port: u16) -> Lines {
        let address = format!("/ip4/192.0.2.1/tcp/{port}");
        vec![(PeerId::random(), address.parse().unwrap())]
    }

    #[tokio::test]
    async fn what_is_in_the_file_is_not_written_again_and_what_failed_is() {
        let mut memory = Memory::default();
        let (one, two) = (lines(1), lines(2));
        let times = Arc::new(AtomicUsize::new(0));
        for (what, fails, total) in [
            (&one, false, 1),
            (&one, false, 1),
            (&two, true, 2),
            (&two, false, 3),
            (&two, false, 3),
            (&Lines::new(), false, 3),
        ] {
            let counted = times.clone();
            let entered = memory.write(what.clone(), move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                match fails {
                    true => Err(io::ErrorKind::StorageFull.into()),
                    false => Ok(()),
                }
            });
            assert!(entered);
            memory.settle().await;
            assert_eq!(times.load(Ordering::Relaxed), total);
        }
    }

    /// The defect: the node's task waited for the disk, and all of libp2p with it.
    #[tokio::test]
    async fn nobody_waits_for_a_disk_that_hangs() {
        let mut memory = Memory::default();
        let (done, hangs) = mpsc::channel::<()>();
        let hanging = move |_: &Lines| match hangs.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => Ok(()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        assert!(memory.write(lines(1), hanging));
        assert!(!memory.write(lines(2), |_| Ok(())));
        done.send(()).unwrap();
        memory.settle().await;
        assert_eq!(memory.written.len(), 1);
        assert!(memory.write(lines(2), |_| Ok(())));
        memory.settle().await;
    }
}
