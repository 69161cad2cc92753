//! Touches one UDP socket of a hub: a batch in, runs out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::asked::is_own;
use super::work::{Forward, Work};
use super::{Shared, unix};
use crate::mesh::hub::{Hub, Origin};
use crate::wireguard::socket::{Flushed, Received, Run, Udp};

/// After an error of the socket itself: long enough not to spin, short enough not to matter.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// Serves the socket of one family until the hub ends.
pub(super) async fn serve(shared: Arc<Shared>, v6: bool) {
    let socket = if v6 { &shared.v6 } else { &shared.v4 };
    let Some(socket) = socket else { return };
    let (mut work, mut received, mut run) = (Work::default(), Vec::new(), Run::default());
    loop {
        let ready = async {
            // With handshakes left, whoever else has work comes first.
            if work.waits() {
                tokio::task::yield_now().await;
                return Ok(());
            }
            socket.readable().await
        };
        let Some(ready) = shared.state.closing.run_until_cancelled(ready).await else {
            return;
        };
        let came = ready.and_then(|()| socket.receive(&mut received));
        if let Err(error) = came
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            tracing::debug!(%error, "a socket of the hub");
            tokio::time::sleep(AFTER_ERROR).await;
        }
        batch(&shared, &mut work, &mut received);
        send(&shared, &mut work, &mut run);
    }
}

fn batch(shared: &Shared, work: &mut Work, received: &mut Vec<Received>) {
    if received.is_empty() && !work.waits() {
        return;
    }
    let (now, unix) = (Instant::now(), unix());
    let mut hub = shared.state.hub();
    note(shared, &hub, received);
    for received in received.drain(..) {
        let (from, stride, bytes) = received.into_parts();
        work.take(&mut hub, Origin::Udp(from), stride, bytes, now, unix);
    }
    work.finish(&mut hub, now, unix);
}

/// Remembers at which of our addresses who asked.
fn note(shared: &Shared, hub: &Hub, received: &[Received]) {
    for received in received {
        let (from, at) = (received.from, received.at);
        if let (Some(at), Some(mut asked)) = (at, shared.asked(from)) {
            asked.note(from, at, is_own, |from| is_lasting(hub, Origin::Udp(from)));
        }
    }
}

/// Whether somebody is there who stays: a member, or another hub, whoever of the two joined the other.
pub(super) fn is_lasting(hub: &Hub, origin: Origin) -> bool {
    hub.is_known(origin) || hub.is_neighbour(origin)
}

/// Sends what was gathered. Single datagrams to one receiver are joined to a run.
pub(super) fn send(shared: &Shared, work: &mut Work, run: &mut Run) {
    for forward in work.forwards.drain(..) {
        let Some(socket) = shared.socket(forward.to) else {
            continue;
        };
        let Forward { to, segment, bytes } = forward;
        if bytes.len() > segment {
            flush(shared, run);
            shared.lost(socket.forward(shared.answers(to), to, &bytes, segment));
            continue;
        }
        if !run.takes(to, bytes.len(), socket.max_segments()) {
            flush(shared, run);
        }
        if run.to().is_none() {
            run.from = shared.answers(to);
        }
        run.bytes.extend_from_slice(&bytes);
        run.appended(to, bytes.len(), 0);
    }
    flush(shared, run);
    let mut streams = work.streams.drain(..).peekable();
    while let Some((connection, first)) = streams.next() {
        let mut datagrams = vec![first];
        while let Some((_, next)) = streams.next_if(|(to, _)| *to == connection) {
            datagrams.push(next);
        }
        shared.lost(shared.clients.send(connection, datagrams));
    }
    drop(streams);
    shared.deliver(std::mem::take(&mut work.said));
    let crowded = std::mem::take(&mut work.crowded);
    shared.state.crowded.fetch_add(crowded, Ordering::Relaxed);
}

fn flush(shared: &Shared, run: &mut Run) {
    let socket: Option<&Udp> = run.to().and_then(|to| shared.socket(to));
    if let Some(socket) = socket {
        match socket.flush(run) {
            Flushed::Sent => {}
            Flushed::Blocked => shared.lost(run.count()),
            Flushed::Refused(which, _) => shared.lost(which.len()),
        }
    }
    run.clear();
}
