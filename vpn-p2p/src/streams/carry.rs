//! Touches one stream: writes what the pool has for it, and hands over what comes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio_util::io::poll_read_buf;
use vpn_core::Packet;

use super::fault::Fault;
use super::frame::{Control, Encoded, Frame, StreamId, decode};
use super::peer::{Handle, Shared, now};
use super::stream::Stream;

/// Bytes taken from the pool at a time. What is here is on its way and can go nowhere else.
const WRITE_BYTES: usize = 128 * 1024;

/// Frames written by one call.
const SLICES: usize = 64;

/// A stream that does not take many parts at once gets frames up to this length joined.
const JOINED: usize = 16 * 1024;

/// Bytes of a buffer to read into. Packets that come are parts of it until they are taken.
const READ_BYTES: usize = 128 * 1024;

/// With less room another buffer is taken.
const READ_LEAST: usize = 16 * 1024;

/// Buffers that are kept to be used again.
const EARLIER: usize = 3;

/// Buffers of packets from this size on are given back to who sends: new memory for each super-packet
/// would cost more than writing it.
const WORTH_KEEPING: usize = 8 * 1024;

/// How long a stream may take to say that it ends: nothing depends on it, and who closes waits for it.
const FAREWELL: Duration = Duration::from_millis(250);

/// A stream, and what is read from it and not yet a frame.
pub(super) struct Wire {
    pub(super) stream: Box<dyn Stream>,
    read: BytesMut,
    /// Buffers of earlier reads, of which packets may still be parts.
    earlier: VecDeque<BytesMut>,
}

/// Frames that are being written.
#[derive(Default)]
struct Outbox {
    frames: VecDeque<Encoded>,
    taken: Vec<Encoded>,
    spent: Vec<Packet>,
    unflushed: bool,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        let (read, earlier) = (BytesMut::with_capacity(READ_BYTES), VecDeque::new());
        Self {
            stream,
            read,
            earlier,
        }
    }

    /// Goes on in another buffer, one of the earlier ones if nothing is left in it.
    fn turn_over(&mut self) {
        let rest = self.read.split();
        // A frame that is there in part has to fit with what is missing.
        let wanted = rest.len() + READ_BYTES;
        self.earlier.push_back(std::mem::take(&mut self.read));
        let free = |buffer: &mut BytesMut| buffer.try_reclaim(wanted);
        let free = self.earlier.iter_mut().position(free);
        self.read = match free.and_then(|at| self.earlier.remove(at)) {
            Some(buffer) => buffer,
            None => BytesMut::with_capacity(2 * READ_BYTES),
        };
        self.earlier.truncate(EARLIER);
        self.read.extend_from_slice(&rest);
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < READ_LEAST {
            self.turn_over();
        }
        poll_read_buf(Pin::new(&mut *self.stream), cx, &mut self.read)
    }

    /// The words of the peer's greeting.
    pub(super) async fn hello(&mut self) -> Result<Control, Fault> {
        loop {
            match decode(&mut self.read)? {
                Some(Frame::Control(hello @ Control::Hello { .. })) => return Ok(hello),
                Some(_) => return Err(Fault::Protocol("no greeting first")),
                None => {}
            }
            if poll_fn(|cx| self.poll_read(cx)).await.map_err(failed)? == 0 {
                return Err(Fault::Ended);
            }
        }
    }
}

impl Outbox {
    /// Takes more to write, if there is none left; says whether the stream may be read. `None`: it was
    /// stopped.
    fn fill(&mut self, shared: &Shared, id: StreamId, handle: &Handle) -> Option<bool> {
        let mut inner = shared.lock_for(handle)?;
        let reads = inner.pool.takes_more();
        if self.frames.is_empty() {
            let pool = &mut inner.pool;
            pool.give_back(&mut self.spent);
            pool.next_write(now(), id, WRITE_BYTES, &mut self.taken);
            shared.finish(inner);
            self.frames.extend(self.taken.drain(..));
        }
        Some(reads)
    }

    fn poll_write(
        &mut self,
        stream: &mut dyn Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = Pin::new(stream);
        let written = if stream.is_write_vectored() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let frames = self.frames.iter().zip(&mut slices);
            let count = frames
                .map(|(f, slice)| *slice = IoSlice::new(f.bytes()))
                .count();
            ready!(stream.poll_write_vectored(cx, &slices[..count]))?
        } else {
            self.join();
            let first = self.frames.front().map_or(&[][..], Encoded::bytes);
            ready!(stream.poll_write(cx, first))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        self.unflushed = true;
        Poll::Ready(Ok(()))
    }

    /// Makes one of small frames at the front.
    fn join(&mut self) {
        let small = |frame: &Encoded| frame.bytes().len() <= JOINED / 8;
        if self.frames.len() < 2 || !self.frames.iter().take(2).all(small) {
            return;
        }
        let mut joined = BytesMut::with_capacity(JOINED);
        while let Some(frame) = self.frames.front()
            && joined.len() + frame.bytes().len() <= JOINED
        {
            joined.extend_from_slice(frame.bytes());
            self.frames.pop_front();
        }
        self.frames.push_front(Encoded::joined(joined));
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.frames.front_mut() {
            let length = first.bytes().len();
            first.advance(written);
            if !first.is_written() {
                return;
            }
            written -= length;
            if let Some(frame) = self.frames.pop_front()
                && frame.capacity() >= WORTH_KEEPING
            {
                self.spent.push(frame.into_buffer());
            }
        }
    }
}

/// Carries until the stream ends, or is to end.
pub(super) async fn carry(shared: Arc<Shared>, id: StreamId, mut wire: Wire, handle: Handle) {
    let carried = Carried(&shared, id, &handle);
    let fault = {
        let mut stopped = pin!(handle.stop.cancelled());
        let mut woken = pin!(handle.wake.notified());
        let mut outbox = Outbox::default();
        // What came with the greeting.
        let mut fault = hand_over(&shared, id, &handle, &mut wire).err();
        while fault.is_none() {
            let Some(reads) = outbox.fill(&shared, id, &handle) else {
                break;
            };
            let moved = poll_fn(|cx| {
                if stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(None));
                }
                let mut moved = Moved::default();
                if !outbox.frames.is_empty() {
                    match outbox.poll_write(&mut *wire.stream, cx) {
                        Poll::Ready(Ok(())) => moved.any = true,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {}
                    }
                } else if outbox.unflushed {
                    match Pin::new(&mut *wire.stream).poll_flush(cx) {
                        Poll::Ready(Ok(())) => outbox.unflushed = false,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {}
                    }
                }
                if reads {
                    match wire.poll_read(cx) {
                        Poll::Ready(Ok(count)) => moved.read = Some(count),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {}
                    }
                }
                if woken.as_mut().poll(cx).is_ready() {
                    woken.set(handle.wake.notified());
                    moved.any = true;
                }
                if moved.any || moved.read.is_some() {
                    return Poll::Ready(Ok(Some(moved)));
                }
                Poll::Pending
            });
            fault = match moved.await {
                Ok(None) => break,
                Ok(Some(Moved { read: Some(0), .. })) => Some(Fault::Ended),
                Ok(Some(Moved { read: Some(_), .. })) => {
                    hand_over(&shared, id, &handle, &mut wire).err()
                }
                Ok(Some(_)) => None,
                Err(error) => Some(failed(error)),
            };
        }
        fault
    };
    if let Some(fault) = &fault {
        tracing::debug!(%id, %fault, "a stream ended");
        carried.end(fault);
    }
    drop(carried);
    // Its peer notices sooner; whether it can be told does not matter.
    let _ = tokio::time::timeout(FAREWELL, wire.stream.shutdown()).await;
}

/// Ends with its task, also where that panics: nobody else would notice until packets were on it.
struct Carried<'a>(&'a Shared, StreamId, &'a Handle);

impl Carried<'_> {
    /// The stream ended by this, if it was not stopped before.
    fn end(&self, fault: &Fault) {
        let Self(shared, id, handle) = *self;
        if let Some(mut inner) = shared.lock_for(handle) {
            inner.pool.ended(now(), id, fault);
            inner.stop(id);
            shared.finish(inner);
        }
    }
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        self.end(&Fault::Io("its task is gone".to_owned()));
    }
}

#[derive(Default)]
struct Moved {
    any: bool,
    read: Option<usize>,
}

/// Makes frames of what was read.
fn hand_over(shared: &Shared, id: StreamId, handle: &Handle, wire: &mut Wire) -> Result<(), Fault> {
    let Some(mut inner) = shared.lock_for(handle) else {
        return Ok(());
    };
    let now = now();
    let mut result = Ok(());
    while result.is_ok() {
        match decode(&mut wire.read) {
            Ok(Some(frame)) => result = inner.pool.received(now, id, frame),
            Ok(None) => break,
            Err(error) => result = Err(error.into()),
        }
    }
    shared.finish(inner);
    result
}

fn failed(error: io::Error) -> Fault {
    Fault::Io(error.to_string())
}
