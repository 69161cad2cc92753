//! Touches clock and tasks: opens streams, greets accepted ones, and calls the pool when it is time.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vpn_core::TransportState;

use super::carry::{Wire, carry};
use super::fault::Fault;
use super::frame::{Control, StreamId};
use super::peer::{Handle, Shared, now};
use super::pool::{Action, Standing};
use super::stream::{Stream, StreamOpener};

type Opened = (StreamId, Handle, Option<std::io::Result<Box<dyn Stream>>>);

/// The task of one peer.
pub(super) struct Driver {
    shared: Arc<Shared>,
    opener: Option<Arc<dyn StreamOpener>>,
    incoming: mpsc::Receiver<Box<dyn Stream>>,
    /// Tasks of streams there may be.
    greeted: usize,
    opening: JoinSet<Opened>,
    carriers: JoinSet<()>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        opener: Option<Arc<dyn StreamOpener>>,
        incoming: mpsc::Receiver<Box<dyn Stream>>,
        greeted: usize,
    ) -> Self {
        Self {
            shared,
            opener,
            incoming,
            greeted,
            opening: JoinSet::new(),
            carriers: JoinSet::new(),
        }
    }

    /// Until the pool is closed; then nothing of it is left.
    pub(super) async fn run(mut self) {
        while !self.shared.closing.is_cancelled() {
            let wake = self.turn();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.closing.cancelled() => break,
                () = self.shared.attention.notified() => {}
                () = sleep => {}
                Some(Ok(opened)) = self.opening.join_next() => self.opened(opened),
                Some(_) = self.carriers.join_next() => {}
                Some(stream) = self.incoming.recv() => self.greet(stream),
            }
        }
        self.end().await;
    }

    /// Does what is due, and says when the next is.
    fn turn(&mut self) -> Option<Instant> {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        let time = now();
        if inner.pool.poll_timeout().is_some_and(|at| at <= time) {
            inner.pool.handle_timeout(time);
        }
        while let Some(action) = inner.pool.take_action() {
            match action {
                Action::Close(id) => inner.stop(id),
                Action::Open(id) => {
                    let handle = inner.enter(id);
                    self.open(id, handle);
                }
            }
        }
        let state = match inner.pool.standing() {
            Standing::Connecting => TransportState::Connecting,
            Standing::Up => TransportState::Up(shared.assigned.clone()),
            Standing::Down(cause) => TransportState::Down(cause.clone()),
        };
        shared.state.set(state);
        let next = inner.pool.poll_timeout();
        shared.finish(inner);
        next
    }

    fn open(&mut self, id: StreamId, handle: Handle) {
        let Some(opener) = self.opener.clone() else {
            return;
        };
        self.opening.spawn(async move {
            let opened = tokio::select! {
                () = handle.stop.cancelled() => None,
                opened = opener.open() => Some(opened),
            };
            (id, handle, opened)
        });
    }

    fn opened(&mut self, (id, handle, opened): Opened) {
        let mut inner = self.shared.lock();
        match opened {
            // The pool closed it.
            None => {}
            Some(Err(error)) => {
                tracing::debug!(%id, %error, "a stream was not opened");
                inner.stop(id);
                let fault = Fault::Io(error.to_string());
                inner.pool.ended(now(), id, &fault);
            }
            Some(Ok(stream)) => {
                inner.pool.opened(id);
                let wire = Wire::new(stream);
                self.carriers
                    .spawn(carry(self.shared.clone(), id, wire, handle));
            }
        }
        self.shared.finish(inner);
    }

    fn greet(&mut self, stream: Box<dyn Stream>) {
        if self.carriers.len() >= self.greeted {
            return;
        }
        let shared = self.shared.clone();
        self.carriers.spawn(async move {
            let mut wire = Wire::new(stream);
            let patience = shared.lock().pool.patience();
            let hello = tokio::select! {
                () = shared.closing.cancelled() => return,
                hello = tokio::time::timeout(patience, wire.hello()) => hello,
            };
            let named = match hello {
                Ok(Ok(Control::Hello {
                    session,
                    number,
                    purpose,
                })) => {
                    let mut inner = shared.lock();
                    let named = inner.pool.accepted(now(), session, number, purpose);
                    let named = named.map(|id| (id, inner.enter_accepted(id)));
                    shared.finish(inner);
                    named
                }
                Ok(Ok(_)) => Err(Fault::Protocol("no greeting first")),
                Ok(Err(fault)) => Err(fault),
                Err(_) => Err(Fault::Timeout),
            };
            match named {
                Ok((id, handle)) => carry(shared, id, wire, handle).await,
                Err(fault) => tracing::debug!(%fault, "a stream was refused"),
            }
        });
    }

    async fn end(mut self) {
        let handles = {
            let mut inner = self.shared.lock();
            inner.pool.close();
            while inner.pool.take_action().is_some() {}
            std::mem::take(&mut inner.handles)
        };
        for (_, handle) in handles {
            handle.stop.cancel();
        }
        self.opening.shutdown().await;
        // The token ends those that wait for a greeting; each says farewell and goes.
        while self.carriers.join_next().await.is_some() {}
        self.shared.readable.notify_waiters();
        self.shared.writable.notify_waiters();
    }
}
