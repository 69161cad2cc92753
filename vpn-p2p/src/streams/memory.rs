//! Streams in memory, for tests and benches.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{Mutex, mpsc};

use super::stream::{Stream, StreamOpener};

/// Opened streams that nobody has accepted yet.
const BACKLOG: usize = 16;

/// Opens streams to a [`MemoryListener`].
#[derive(Debug)]
pub struct MemoryOpener {
    to: mpsc::Sender<DuplexStream>,
    capacity: usize,
    refuses: AtomicBool,
}

/// Accepts what a [`MemoryOpener`] opens.
#[derive(Debug)]
pub struct MemoryListener(Mutex<mpsc::Receiver<DuplexStream>>);

/// An opener and its listener. A stream holds up to `capacity` bytes in each direction.
pub fn memory(capacity: usize) -> (MemoryOpener, MemoryListener) {
    let (to, from) = mpsc::channel(BACKLOG);
    let refuses = AtomicBool::new(false);
    let opener = MemoryOpener {
        to,
        capacity,
        refuses,
    };
    (opener, MemoryListener(Mutex::new(from)))
}

impl MemoryOpener {
    /// With `true`, no stream can be opened.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }
}

#[async_trait]
impl StreamOpener for MemoryOpener {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = duplex(self.capacity);
        match self.to.send(theirs).await {
            Ok(()) => Ok(Box::new(ours)),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl MemoryListener {
    /// The next stream; `None` once the opener is gone.
    pub async fn accept(&self) -> Option<DuplexStream> {
        self.0.lock().await.recv().await
    }
}
