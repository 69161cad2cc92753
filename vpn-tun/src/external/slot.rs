//! Where a transport keeps an interface that comes and goes: its state, and its packets.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use vpn_core::packet::PacketBatch;
use vpn_core::{
    Assigned, DropCounters, DropReason, Resources, StateSender, StateWatch, TransportCapabilities,
    TransportError, TransportState,
};

use super::Attached;
use crate::InterfaceName;
use crate::journal::Journal;

/// MTU before anything is known, in bytes.
const USUAL_MTU: u16 = 1500;

/// A transport's state, and its interface while there is one. Shared by the transport and by the
/// task that watches over it.
#[derive(Debug)]
pub(crate) struct Slot {
    state: StateSender,
    attached: RwLock<Option<Arc<Attached>>>,
    /// Counts how often `attached` changed.
    changed: watch::Sender<u64>,
    closing: watch::Sender<bool>,
    /// Watches over it.
    task: Mutex<Option<JoinHandle<()>>>,
    mtu: AtomicU16,
}

impl Slot {
    pub(crate) fn new() -> Self {
        Self {
            state: StateSender::new(),
            attached: RwLock::new(None),
            changed: watch::Sender::new(0),
            closing: watch::Sender::new(false),
            task: Mutex::new(None),
            mtu: AtomicU16::new(USUAL_MTU),
        }
    }

    /// Says where the tunnel stands.
    pub(crate) fn set(&self, state: TransportState) {
        self.state.set(state);
    }

    pub(crate) fn get(&self) -> TransportState {
        self.state.get()
    }

    pub(crate) fn watch(&self) -> StateWatch {
        self.state.watch()
    }

    /// It is up, with this.
    pub(crate) fn up(&self, assigned: Assigned) {
        self.mtu.store(assigned.mtu, Ordering::Relaxed);
        self.state.set(TransportState::Up(Arc::new(assigned)));
    }

    /// Puts an interface in, or takes it out: answers the former one.
    pub(crate) fn attach(&self, new: Option<Arc<Attached>>) -> Option<Arc<Attached>> {
        let old = {
            let mut attached = self
                .attached
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *attached, new)
        };
        self.changed.send_modify(|count| *count += 1);
        old
    }

    pub(crate) fn attached(&self) -> Option<Arc<Attached>> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        attached.clone()
    }

    /// Tells what somebody else changed of what keeps the kernel's stack away. It stays so.
    pub(crate) async fn look_at_others(&self, journal: Option<&Journal>, name: &InterfaceName) {
        let Some(journal) = journal else {
            return;
        };
        let found = match self.attached() {
            Some(attached) => attached.look().await,
            None => Vec::new(),
        };
        journal.noticed(name.as_str(), found);
    }

    /// Has a task watch over it, from now on.
    pub(crate) fn watch_over(&self, task: JoinHandle<()>) {
        let mut current = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(task);
    }

    /// Has the task end, and waits until it has.
    pub(crate) async fn end(&self) {
        self.close();
        let task = {
            let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.take()
        };
        if let Some(task) = task {
            // A panic in it ended it as well.
            let _ = task.await;
        }
        self.set(TransportState::Closed);
    }

    /// Asks the task to end.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Whether, and when, the task is asked to end.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub(crate) fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(self.mtu.load(Ordering::Relaxed))
    }

    /// What the interface takes while there is one, and the task that watches over it.
    pub(crate) fn resources(&self) -> Resources {
        let mut resources = Resources::default();
        if let Some(attached) = self.attached() {
            resources.descriptors = 1;
            resources.bytes = attached.bytes();
        }
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        resources.tasks = task.iter().filter(|task| !task.is_finished()).count();
        resources
    }

    fn open(&self) -> Result<Option<Arc<Attached>>, TransportError> {
        match *self.closing.borrow() || self.state.get() == TransportState::Closed {
            true => Err(TransportError::Closed),
            false => Ok(self.attached()),
        }
    }

    pub(crate) fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        match self.open()? {
            // An interface that is gone comes again, or the task says that it is down.
            Some(attached) => Ok(attached.try_recv(batch, drops).unwrap_or(0)),
            None => Ok(0),
        }
    }

    pub(crate) fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        let sent = match self.open()? {
            Some(attached) => attached.try_send(batch, drops).ok(),
            None => None,
        };
        Ok(sent.unwrap_or_else(|| {
            let all = batch.len();
            drops.add(DropReason::TunnelDown, all as u64);
            batch.recycle_front(all);
            0
        }))
    }

    pub(crate) async fn readable(&self) -> Result<(), TransportError> {
        // Before the look: what changes after it is seen.
        let (mut changed, mut closing) = (self.changed.subscribe(), self.closing());
        let attached = self.open()?;
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => Err(TransportError::Closed),
            _ = changed.changed() => Ok(()),
            ready = wait_for(attached.as_deref()) => ready.map_err(TransportError::Io),
        }
    }

    pub(crate) async fn writable(&self) -> Result<(), TransportError> {
        // As in `readable`: an interface that is replaced may never take anything again.
        let (mut changed, mut closing) = (self.changed.subscribe(), self.closing());
        let Some(attached) = self.open()? else {
            return Ok(());
        };
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => Err(TransportError::Closed),
            _ = changed.changed() => Ok(()),
            ready = attached.writable() => ready.map_err(TransportError::Io),
        }
    }
}

async fn wait_for(attached: Option<&Attached>) -> std::io::Result<()> {
    match attached {
        Some(attached) => attached.readable().await,
        None => std::future::pending().await,
    }
}
