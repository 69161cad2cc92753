//! A way to etcd that can be cut, led to another etcd, or broken off in the middle of an answer.

use std::io::{Read, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, spawn};

use crate::{LOOPBACK, Server, free_port};

/// A port of loopback that leads to a [`Server`] until it is cut.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    to: u16,
    /// Most bytes of answers that each connection carries.
    most: u64,
    live: Arc<Live>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Live {
    is_cut: AtomicBool,
    carried: AtomicUsize,
    ends: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// One that leads there.
    pub fn to(server: &Server) -> Self {
        let mut wire = Self {
            port: free_port(),
            to: server.port(),
            most: u64::MAX,
            live: Arc::default(),
            accepting: None,
        };
        wire.mend();
        wire
    }

    /// Where clients ask.
    pub fn endpoint(&self) -> String {
        format!("{LOOPBACK}:{}", self.port)
    }

    /// It leads to this one when it is mended, and breaks each connection off after so many bytes.
    pub fn lead_to(&mut self, server: &Server, most: u64) {
        (self.to, self.most) = (server.port(), most);
    }

    /// Connections since it was mended.
    pub fn carried(&self) -> usize {
        self.live.carried.load(SeqCst)
    }

    /// It carries again.
    pub fn mend(&mut self) {
        let listener = TcpListener::bind((LOOPBACK, self.port)).expect("the same port");
        let (to, most) = (self.to, self.most);
        self.live = Arc::default();
        let live = Arc::clone(&self.live);
        self.accepting = Some(spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if live.is_cut.load(SeqCst) {
                    return;
                }
                if let Ok(far) = TcpStream::connect((LOOPBACK, to)) {
                    live.carry(near, far, most);
                }
            }
        }));
    }

    /// It carries nothing, and what was under way is lost.
    pub fn cut(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.live.is_cut.store(true, SeqCst);
        // Whoever accepts has to wake up.
        let _ = TcpStream::connect((LOOPBACK, self.port));
        let _ = accepting.join();
        let ends = self.live.ends.lock();
        for end in ends.unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Live {
    fn carry(&self, near: TcpStream, far: TcpStream, most: u64) {
        self.carried.fetch_add(1, SeqCst);
        let another = |end: &TcpStream| end.try_clone().expect("a descriptor");
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.extend([another(&near), another(&far)]);
        drop(ends);
        for (from, to, most) in [(another(&near), another(&far), u64::MAX), (far, near, most)] {
            spawn(move || {
                let (mut from, mut to) = (from.take(most), to);
                // However it ends, both ends hear of it.
                let _ = copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.into_inner().shutdown(Shutdown::Both);
            });
        }
    }
}
