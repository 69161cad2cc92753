//! Makes so many calls at the same time, and no more.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::{Call, CallError, Operation, Policy, lock, now};
use crate::bulkhead::{Bulkhead, BulkheadConfig, BulkheadStatus, Entry, Place, Shed, Ticket};
use crate::time::later;

/// Calls behind a [`Bulkhead`]: so many are made, so many wait, the rest is refused at once.
pub struct WithBulkhead(Mutex<Inner>);

struct Inner {
    bulkhead: Bulkhead,
    /// As many as wait, which is bounded.
    waiting: HashMap<Ticket, oneshot::Sender<Result<Place, Shed>>>,
}

impl WithBulkhead {
    /// Nothing is going on yet.
    pub fn new(config: BulkheadConfig) -> Self {
        Self(Mutex::new(Inner {
            bulkhead: Bulkhead::new(config),
            waiting: HashMap::new(),
        }))
    }

    /// All there is to report of it.
    pub fn status(&self) -> BulkheadStatus {
        lock(&self.0).bulkhead.status()
    }

    async fn enter(&self) -> Result<Inside<'_>, Shed> {
        let begun = now();
        let (mut waits, late) = {
            let mut inner = lock(&self.0);
            let entry = inner.bulkhead.enter(begun);
            inner.tell();
            match entry? {
                Entry::Entered(place) => return Ok(Inside(&self.0, Some(place))),
                Entry::Waits(ticket) => {
                    let (to, turn) = oneshot::channel();
                    inner.waiting.insert(ticket, to);
                    let waits = Waits {
                        inner: &self.0,
                        ticket,
                        turn,
                    };
                    (waits, later(begun, inner.bulkhead.patience()))
                }
            }
        };
        let turn = match timeout_at(late.into(), &mut waits.turn).await {
            Ok(turn) => turn.ok(),
            Err(_) => {
                let mut inner = lock(&self.0);
                inner.bulkhead.handle_timeout(now());
                inner.tell();
                waits.turn.try_recv().ok()
            }
        };
        let place = turn.unwrap_or(Err(Shed::TooLate))?;
        Ok(Inside(&self.0, Some(place)))
    }
}

impl Inner {
    /// Tells those whose turn it is.
    fn tell(&mut self) {
        while let Some((ticket, turn)) = self.bulkhead.poll_turn() {
            let told = self.waiting.remove(&ticket).map(|to| to.send(turn));
            if let Some(Err(Ok(place))) = told {
                // It went away just now; the next one's.
                self.bulkhead.leave(place, now());
            }
        }
    }
}

/// A place in the line, which is given up if nobody waits any more.
struct Waits<'a> {
    inner: &'a Mutex<Inner>,
    ticket: Ticket,
    turn: oneshot::Receiver<Result<Place, Shed>>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut inner = lock(self.inner);
        if inner.waiting.remove(&self.ticket).is_some() {
            inner.bulkhead.give_up(self.ticket, now());
        } else if let Ok(Ok(place)) = self.turn.try_recv() {
            inner.bulkhead.leave(place, now());
        }
        inner.tell();
    }
}

/// Leave to work, which is given back in any case.
struct Inside<'a>(&'a Mutex<Inner>, Option<Place>);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.1.take() {
            let mut inner = lock(self.0);
            inner.bulkhead.leave(place, now());
            inner.tell();
        }
    }
}

impl fmt::Debug for WithBulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WithBulkhead").field(&self.status()).finish()
    }
}

impl<E: Send + 'static> Policy<E> for WithBulkhead {
    fn call<'a, T: Send + 'a>(&'a self, operation: Operation<'a, T, E>) -> Call<'a, T, E> {
        Box::pin(async move {
            let _inside = self.enter().await.map_err(CallError::Shed)?;
            operation().await
        })
    }
}
