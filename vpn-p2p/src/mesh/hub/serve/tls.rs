//! Touches the TLS streams of a hub: greets them, and serves the clients they belong to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use vpn_core::PacketBatch;

use super::clients::{BATCH, COPIED, Client};
use super::gate::{Place, Placed, Source};
use super::work::Work;
use super::{Shared, udp, unix};
use crate::mesh::hub::Origin;
use crate::mesh::tls::TlsListener;
use crate::wireguard::socket::Run;

/// After an error of the listener, as when there are no more descriptors.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// How often it is looked whether a client is a member.
const LOOK: Duration = Duration::from_secs(1);

/// Takes streams until the hub ends; then nothing of them is left.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, tls: TlsListener) {
    let (mut greeting, mut clients) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            () = shared.state.closing.cancelled() => break,
            Some(greeted) = greeting.join_next() => {
                if let Ok(Some((client, from))) = greeted {
                    clients.spawn(attend(shared.clone(), client, from));
                }
            }
            Some(_) = clients.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    match shared.state.gate.enter(from.ip(), Instant::now()) {
                        Some(place) => {
                            greeting.spawn(greet(shared.clone(), tls.clone(), stream, place));
                        }
                        None => refuse(&shared),
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a listener of the hub");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            },
        }
    }
    greeting.shutdown().await;
    while clients.join_next().await.is_some() {}
}

fn refuse(shared: &Shared) {
    shared.state.refused.fetch_add(1, Ordering::Relaxed);
}

async fn greet(
    shared: Arc<Shared>,
    tls: TlsListener,
    stream: TcpStream,
    mut place: Place,
) -> Option<(Arc<Client>, Source)> {
    let within = shared.state.gate.limits.greeting_time;
    let greeted = tokio::time::timeout(within, tls.accept(stream)).await;
    let Ok(Ok((peer, stream))) = greeted else {
        refuse(&shared);
        return None;
    };
    place.greeted();
    let from = place.source;
    let stream = Box::new(Placed {
        stream,
        _place: place,
    });
    let client = shared.clients.accept(peer, stream).unwrap_or_else(|error| {
        tracing::debug!(%error, "a stream was refused");
        refuse(&shared);
        None
    });
    Some((client?, from))
}

/// Serves one client until the hub ends, or it is no member for a while. `from`: where its first stream
/// came from.
async fn attend(shared: Arc<Shared>, client: Arc<Client>, from: Source) {
    let origin = Origin::Tls(client.connection);
    let (mut work, mut run) = (Work::default(), Run::default());
    let mut batch = PacketBatch::new(BATCH, COPIED);
    let mut member_at = Instant::now();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.state.closing.cancelled() => break,
            _ = look.tick() => {
                let now = Instant::now();
                let (is_member, is_listed) = {
                    let hub = shared.state.hub();
                    (hub.is_member(origin), hub.is_listed(origin))
                };
                if is_listed {
                    shared.state.gate.saw(from, now);
                }
                if is_member {
                    member_at = now;
                } else if now.saturating_duration_since(member_at) >= shared.state.gate.limits.stranger_time {
                    break;
                }
            }
            readable = client.pool.readable() => {
                if readable.and_then(|()| client.pool.try_recv(&mut batch)).is_err() {
                    break;
                }
            }
            // One that has much to say has no budget of its own for handshakes.
            () = tokio::task::yield_now(), if work.waits() => {}
        }
        let (now, unix) = (Instant::now(), unix());
        {
            let mut hub = shared.state.hub();
            for packet in batch.drain() {
                let (mut bytes, start) = packet.into_parts();
                let datagram = bytes.split_off(start);
                let length = datagram.len();
                work.take(&mut hub, origin, length, datagram, now, unix);
            }
            work.finish(&mut hub, now, unix);
        }
        udp::send(&shared, &mut work, &mut run);
    }
    shared.clients.remove(&client);
    client.pool.close().await;
    let said = {
        let mut hub = shared.state.hub();
        hub.closed(client.connection, Instant::now());
        super::poll(&mut hub)
    };
    shared.deliver(said);
}
