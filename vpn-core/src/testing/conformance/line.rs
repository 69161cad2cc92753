//! What devices and transports have in common: batches, readiness, close.

use std::pin::pin;

use async_trait::async_trait;

use super::clause::{Checked, Clause, Suite};
use super::drive::{poll_once, within, yields};
use super::far_end::FarEnd;
use crate::packet::{Packet, PacketBatch};
use crate::verdict::DropCounters;

/// How many packets an implementation may take that nobody takes from it.
const MOST_TAKEN: u16 = 8192;

/// Packets of a test: more than fit into its batch.
const SOME: u16 = 7;

/// An error of a device or a transport.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("closed")]
    Closed,
    #[error("{0}")]
    Other(String),
}

/// A device or a transport.
#[async_trait]
pub(super) trait Pipe: Send + Sync {
    fn try_recv(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> Result<usize, Fault>;
    fn try_send(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> Result<usize, Fault>;
    async fn readable(&self) -> Result<(), Fault>;
    async fn writable(&self) -> Result<(), Fault>;
    async fn close(&self);
}

/// A pipe between its user, who checks it, and its other side.
pub(super) struct Line<'a> {
    pub(super) suite: Suite,
    pub(super) pipe: Box<dyn Pipe + 'a>,
    pub(super) far: &'a dyn FarEnd,
    /// Largest packet it takes, in bytes.
    pub(super) largest: usize,
}

impl Line<'_> {
    fn batch(&self, capacity: usize) -> PacketBatch {
        PacketBatch::new(capacity, self.largest.max(64))
    }

    fn fill(&self, numbers: impl IntoIterator<Item = u16>) -> PacketBatch {
        let numbers: Vec<u16> = numbers.into_iter().collect();
        let mut batch = self.batch(numbers.len().max(1));
        for number in numbers {
            // There is room for all.
            let _ = batch.push(self.far.packet(number));
        }
        batch
    }

    /// A packet that the batch has before anything is received.
    fn marker() -> Packet {
        Packet::from_slice(b"the user's own")
    }

    fn works<T>(&self, clause: Clause, result: Result<T, Fault>) -> Checked<T> {
        match result {
            Ok(value) => Ok(value),
            Err(fault) => self.suite.broken(clause, format!("a call failed: {fault}")),
        }
    }

    fn closed<T: std::fmt::Debug>(
        &self,
        clause: Clause,
        what: &str,
        result: Result<T, Fault>,
    ) -> Checked {
        match result {
            Err(Fault::Closed) => Ok(()),
            other => self
                .suite
                .broken(clause, format!("{what} returned {other:?}")),
        }
    }

    /// Receives until `wanted` packets with numbers are there.
    pub(super) async fn receive(&self, wanted: usize) -> Checked<Vec<u16>> {
        const CAPACITY: usize = 3;
        let (mut batch, mut drops) = (self.batch(CAPACITY), DropCounters::default());
        let mut numbers = Vec::new();
        while numbers.len() < wanted {
            // There is room for it.
            let _ = batch.push(Self::marker());
            let woken = within(self.far.patience(), self.pipe.readable()).await;
            let Some(woken) = woken else {
                let seen = format!("after {numbers:?} of {wanted} packets it never woke");
                return self.suite.broken(Clause::ReadableWakes, seen);
            };
            self.works(Clause::ReadableWakes, woken)?;
            let received = self.pipe.try_recv(&mut batch, &mut drops);
            let received = self.works(Clause::ReceiveInOrder, received)?;
            let mut packets = batch.drain();
            let first = packets.next();
            let kept = first.is_some_and(|packet| packet.bytes() == Self::marker().bytes());
            self.suite.check(kept, Clause::ReceiveAppends, || {
                "the packet that was in the batch before is not its first any more".to_owned()
            })?;
            let appended = packets.len();
            numbers.extend(packets.filter_map(|packet| self.far.number(packet.bytes())));
            self.suite
                .check(appended == received, Clause::ReceiveCounts, || {
                    format!("it returned {received} and appended {appended}")
                })?;
        }
        Ok(numbers)
    }

    /// What the other side received, in order, is this.
    async fn arrives(&self, clause: Clause, wanted: &[u16]) -> Checked {
        let mut arrived = Vec::new();
        while arrived.len() < wanted.len() {
            match within(self.far.patience(), self.far.receive()).await {
                Some(number) => arrived.push(number),
                None => break,
            }
        }
        self.suite.check(arrived == wanted, clause, || {
            format!("sent {wanted:?}, arrived {arrived:?}")
        })
    }

    pub(super) async fn receives_in_order(&self) -> Checked {
        let wanted: Vec<u16> = (0..SOME).collect();
        for &number in &wanted {
            self.far.send(number).await;
        }
        let numbers = self.receive(wanted.len()).await?;
        self.suite
            .check(numbers == wanted, Clause::ReceiveInOrder, || {
                format!("sent {wanted:?}, received {numbers:?}")
            })
    }

    pub(super) async fn wakes_who_waits_for_packets(&self) -> Checked {
        let mut waiting = self.pipe.readable();
        // May wake spuriously.
        if poll_once(&mut waiting).await.is_none() {
            self.far.send(1).await;
            let woken = within(self.far.patience(), waiting).await;
            let seen = || "it was called before the packet came, and never woke".to_owned();
            self.suite
                .check(woken.is_some(), Clause::ReadableWakes, seen)?;
        } else {
            drop(waiting);
            self.far.send(1).await;
        }
        self.receive(1).await.map(drop)
    }

    pub(super) async fn readable_is_cancel_safe(&self) -> Checked {
        let mut waiting = self.pipe.readable();
        let _ = poll_once(&mut waiting).await;
        self.far.send(1).await;
        // Woken or not: it is dropped before anybody looks.
        drop(waiting);
        let mut waiting = self.pipe.readable();
        let _ = poll_once(&mut waiting).await;
        drop(waiting);
        let numbers = match within(self.far.patience(), self.receive(1)).await {
            Some(numbers) => numbers,
            None => Ok(Vec::new()),
        };
        match numbers {
            Ok(numbers) if numbers == [1] => Ok(()),
            other => self.suite.broken(
                Clause::ReadableCancelSafe,
                format!("sent [1] while it was dropped, then received {other:?}"),
            ),
        }
    }

    pub(super) async fn sends_and_counts(&self) -> Checked {
        let mut drops = DropCounters::default();
        let mut batch = self.fill([1]);
        let refused = self.far.refused(self.largest);
        let bad = u64::from(refused.is_some());
        batch = self.with_more(batch, refused.into_iter().chain([self.far.packet(2)]));
        let woken = within(self.far.patience(), self.pipe.writable()).await;
        let never = || "it never woke, with nothing sent yet".to_owned();
        self.suite
            .check(woken.is_some(), Clause::WritableWakes, never)?;
        let sent = self.pipe.try_send(&mut batch, &mut drops);
        let sent = self.works(Clause::SendInOrder, sent)?;
        self.suite
            .check(drops.total() == bad, Clause::SendCountsRefused, || {
                format!("{bad} of 3 packets are to be refused, {drops:?} were counted")
            })?;
        self.suite
            .check(batch.is_empty(), Clause::SendSparesOthers, || {
                format!("{} packets stayed in the batch", batch.len())
            })?;
        self.suite.check(sent == 2, Clause::SendCounts, || {
            format!("it sent 2 packets and returned {sent}")
        })?;
        self.arrives(Clause::SendInOrder, &[1, 2]).await
    }

    fn with_more(
        &self,
        mut from: PacketBatch,
        more: impl IntoIterator<Item = Packet>,
    ) -> PacketBatch {
        let more: Vec<Packet> = more.into_iter().collect();
        let mut batch = self.batch(from.len() + more.len());
        for packet in from.drain().chain(more) {
            // There is room for all.
            let _ = batch.push(packet);
        }
        batch
    }

    pub(super) async fn leaves_the_rest(&self) -> Checked {
        if !self.far.fills_up() {
            return Ok(());
        }
        let mut drops = DropCounters::default();
        let mut taken = 0;
        let mut batch = loop {
            let mut batch = self.fill(taken..taken + 32);
            let sent = self.pipe.try_send(&mut batch, &mut drops);
            let sent = self.works(Clause::SendLeavesRest, sent)?;
            let removed = 32 - batch.len();
            self.suite.check(
                drops.total() == 0 && sent == removed,
                Clause::SendLeavesRest,
                || {
                    let left = batch.len();
                    format!("of 32 it sent {sent}, left {left} and dropped {drops:?}")
                },
            )?;
            taken += removed as u16;
            if !batch.is_empty() {
                break batch;
            }
            self.suite
                .check(taken < MOST_TAKEN, Clause::SendLeavesRest, || {
                    format!("it took {taken} packets that nobody took from it")
                })?;
        };
        let left: Vec<_> = batch
            .packets()
            .iter()
            .map(|p| self.far.number(p.bytes()))
            .collect();
        let wanted: Vec<_> = (taken..).take(left.len()).map(Some).collect();
        self.suite
            .check(left == wanted, Clause::SendLeavesRest, || {
                format!("after {taken} were taken, {left:?} are left")
            })?;
        let mut waiting = self.pipe.writable();
        if poll_once(&mut waiting).await.is_some() {
            // Spuriously; whoever waits again has to be woken all the same.
            waiting = self.pipe.writable();
        }
        let all: Vec<u16> = (0..taken).collect();
        self.arrives(Clause::SendInOrder, &all).await?;
        let woken = within(self.far.patience(), waiting).await;
        let never = || "it never woke, though everything was taken".to_owned();
        self.suite
            .check(woken.is_some(), Clause::WritableWakes, never)?;
        let sent = self.pipe.try_send(&mut batch, &mut drops);
        let sent = self.works(Clause::SendLeavesRest, sent)?;
        self.suite.check(sent > 0, Clause::WritableWakes, || {
            "it woke, and then no packet was taken".to_owned()
        })?;
        let rest: Vec<u16> = (taken..).take(sent).collect();
        self.arrives(Clause::SendInOrder, &rest).await
    }

    pub(super) async fn closes(&self) -> Checked {
        {
            let mut waiting = pin!(self.pipe.readable());
            // Spurious wake-ups are allowed; then nobody waits.
            let waits = poll_once(&mut waiting).await.is_none();
            self.pipe.close().await;
            if waits {
                match within(self.far.patience(), waiting).await {
                    Some(result) => self.closed(Clause::CloseWakes, "readable", result)?,
                    None => {
                        let seen = "readable, called before, never returned";
                        return self.suite.broken(Clause::CloseWakes, seen);
                    }
                }
            }
        }
        let again = within(self.far.patience(), self.pipe.close()).await;
        let never = || "the second close never returned".to_owned();
        self.suite
            .check(again.is_some(), Clause::CloseIdempotent, never)?;
        yields(1).await;
        let clause = Clause::ClosedStaysClosed;
        let mut drops = DropCounters::default();
        let mut batch = self.batch(2);
        let received = self.pipe.try_recv(&mut batch, &mut drops);
        self.closed(clause, "try_recv", received)?;
        let mut batch = self.fill([1]);
        let sent = self.pipe.try_send(&mut batch, &mut drops);
        self.closed(clause, "try_send", sent)?;
        self.suite.check(batch.len() == 1, clause, || {
            "try_send took a packet".to_owned()
        })?;
        for (what, ready) in [
            ("readable", self.pipe.readable()),
            ("writable", self.pipe.writable()),
        ] {
            match within(self.far.patience(), ready).await {
                Some(result) => self.closed(clause, what, result)?,
                None => return self.suite.broken(clause, format!("{what} never returned")),
            }
        }
        Ok(())
    }
}
