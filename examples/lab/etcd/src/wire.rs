//! A way to etcd that can be cut, led to another etcd, or broken off in the middle of an answer.

use std::io::{Read, copy};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};

use crate::{LOOPBACK, Server};

/// A port of loopback that leads to a [`Server`] until it is cut. The port is its own all the time: while it
/// is cut, connections end as soon as they begin.
#[derive(Debug)]
pub struct Wire {
    near: SocketAddr,
    /// Where it leads when it is mended, and how many bytes of answers each connection carries then.
    next: (u16, u64),
    state: Arc<Mutex<State>>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` while it is cut.
    to: Option<(u16, u64)>,
    carried: usize,
    ends: Vec<TcpStream>,
    is_over: bool,
}

impl Wire {
    /// One that leads there.
    pub fn to(server: &Server) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).expect("a port");
        let near = listener.local_addr().expect("its address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let accepting = spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let mut state = lock(&shared);
                if state.is_over {
                    return;
                }
                state.carry(near);
            }
        });
        let mut wire = Self {
            near,
            next: (server.port(), u64::MAX),
            state,
            accepting: Some(accepting),
        };
        wire.mend();
        wire
    }

    /// Where clients ask.
    pub fn endpoint(&self) -> String {
        self.near.to_string()
    }

    /// It leads to this one when it is mended, and breaks each connection off after so many bytes.
    pub fn lead_to(&mut self, server: &Server, most: u64) {
        self.next = (server.port(), most);
    }

    /// Connections since it was mended.
    pub fn carried(&self) -> usize {
        lock(&self.state).carried
    }

    /// It carries again.
    pub fn mend(&mut self) {
        let mut state = lock(&self.state);
        (state.to, state.carried) = (Some(self.next), 0);
    }

    /// It carries nothing, and what was under way is lost.
    pub fn cut(&mut self) {
        let mut state = lock(&self.state);
        state.to = None;
        for end in state.ends.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
        lock(&self.state).is_over = true;
        // Whoever accepts has to wake up.
        let _ = TcpStream::connect(self.near);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// To where it leads now; while it is cut, or nobody is there, the connection ends with this.
    fn carry(&mut self, near: TcpStream) {
        let Some((to, most)) = self.to else {
            return;
        };
        let Ok(far) = TcpStream::connect((LOOPBACK, to)) else {
            return;
        };
        self.carried += 1;
        let another = |end: &TcpStream| end.try_clone().expect("a descriptor");
        self.ends.extend([another(&near), another(&far)]);
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
