//! Touches streams by which peers tell each other who they are: each says which process it is and its
//! signed record, and the other one answers with the same.
//!
//! A node says it on each connection, and whenever its record changes. A record proves membership where
//! the network has a key, and says whose virtual addresses are the sender's. The process says which
//! connections are those of a process that is gone: libp2p would go on using them until they time out.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::StreamProtocol;
use libp2p::swarm::ConnectionId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use vpn_core::PeerId;

use super::announce::since_epoch;
use super::places::{Places, Ticket};
use super::process::{self, Process};
use super::{Command, Shared};
use crate::directory::records::{MAX_RECORD, decode, encode};
use crate::libp2p::admission::{Admission, Certificate};
use crate::libp2p::key::{from_libp2p, to_libp2p};
use crate::libp2p::rate::Rate;
use crate::libp2p::substreams::{Arrived, IncomingStreams};

/// The protocol's name.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/vpn/hello/3");

/// How long hearing may take.
const WITHIN: Duration = Duration::from_secs(10);

/// After how long without its answer a peer did not hear it, and the pause after that. The first ones are
/// short: of two connections one may be dead. With a network key a peer has ten seconds to prove itself.
const AGAIN: [[Duration; 2]; 6] = [
    [Duration::from_millis(500), Duration::from_millis(50)],
    [Duration::from_millis(500), Duration::from_millis(100)],
    [Duration::from_secs(1), Duration::from_millis(300)],
    [Duration::from_secs(2), Duration::from_secs(1)],
    [Duration::from_secs(2), Duration::from_secs(3)],
    [Duration::from_secs(2), Duration::from_secs(10)],
];

/// Seconds since the Unix epoch.
pub(crate) fn unix() -> u64 {
    since_epoch().as_secs()
}

/// How often a member may say who it is: at once on each of a few connections, both ways; and later as often
/// as records change that are signed anew. Each costs two signatures, and is told to all who listen.
const BURST: u32 = 16;
const PER_SECOND: u32 = 1;

/// How often members said who they are.
pub(super) type Said = Rate<PeerId, BURST, PER_SECOND>;

/// Tells one peer who this node is, over this connection or the best one, if it is anybody yet, until that
/// was heard: who has too many to listen to hears nothing of the rest.
pub(super) async fn tell(shared: Arc<Shared>, peer: PeerId, over: Option<ConnectionId>) {
    for [within, pause] in AGAIN {
        if shared.own_record().is_none() {
            return;
        }
        match timeout(within, tell_once(&shared, peer, over)).await {
            Ok(Ok((id, answer))) => {
                // Who does not know us as a member answers without a record.
                if answer.len() > process::LENGTH && may_speak(&shared, peer) {
                    judge(&shared, peer, id, &answer).await;
                }
                return;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "could not say who we are"),
            Err(_) => tracing::debug!(%peer, "nobody listened to who we are"),
        }
        tokio::time::sleep(pause).await;
        let is_there = match over {
            // It was said over the others as well.
            Some(id) => shared.streams.is_there(id),
            None => shared.standing().links.contains_key(&peer),
        };
        if !is_there {
            return;
        }
    }
}

async fn tell_once(
    shared: &Shared,
    peer: PeerId,
    over: Option<ConnectionId>,
) -> io::Result<(ConnectionId, Vec<u8>)> {
    let name = to_libp2p(peer).ok_or(io::ErrorKind::InvalidInput)?;
    let opened = match over {
        Some(id) => {
            let opened = shared.streams.open_on(id, PROTOCOL).await;
            opened.map(|stream| (id, stream))
        }
        None => shared.streams.open(name, PROTOCOL).await,
    };
    let (id, mut stream) = opened.map_err(io::Error::other)?;
    stream.write_all(&words(shared, true)).await?;
    stream.close().await?;
    let answer = read(&mut stream).await?;
    if answer.len() < process::LENGTH {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((id, answer))
}

/// What this node says, with its record or without.
fn words(shared: &Shared, with_record: bool) -> Vec<u8> {
    let record = shared.own_record().filter(|_| with_record);
    let record = record.as_ref().map(encode).unwrap_or_default();
    [&shared.process.0[..], &record].concat()
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut limited = stream.take((process::LENGTH + MAX_RECORD) as u64 + 1);
    limited.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Who is listened to, and how to stop it.
#[derive(Default)]
struct Listening {
    places: Places,
    stops: HashMap<Ticket, CancellationToken>,
}

/// Hears what peers say.
pub(super) async fn listen(shared: Arc<Shared>, mut streams: IncomingStreams) {
    let room = Arc::new(Mutex::new(Listening::default()));
    while let Some(arrived) = streams.arrived().await {
        let Some(peer) = from_libp2p(&arrived.peer) else {
            continue;
        };
        let is_member = shared.standing().admitted.contains(&peer);
        if !may_speak(&shared, peer) {
            tracing::debug!(%peer, "says too often who it is");
            continue;
        }
        let Some((ticket, stop)) = enter(&room, peer, is_member) else {
            continue;
        };
        let (hearing, room) = (shared.clone(), room.clone());
        shared.spawn(async move {
            let heard = timeout(WITHIN, hear(&hearing, peer, arrived));
            // Who is not heard says it again.
            let _ = stop.run_until_cancelled(heard).await;
            leave(&room, ticket);
        });
    }
}

/// Whether a member has not spoken too often. Who is none speaks once: after that it is one, or is refused.
fn may_speak(shared: &Shared, peer: PeerId) -> bool {
    let mut standing = shared.standing();
    let is_member = standing.admitted.contains(&peer);
    !is_member || standing.said.may(peer, Instant::now())
}

fn lock(room: &Mutex<Listening>) -> MutexGuard<'_, Listening> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter(
    room: &Mutex<Listening>,
    peer: PeerId,
    is_member: bool,
) -> Option<(Ticket, CancellationToken)> {
    let mut room = lock(room);
    let (ticket, out) = room.places.enter(peer, is_member)?;
    if let Some(slow) = out.and_then(|out| room.stops.remove(&out)) {
        slow.cancel();
    }
    let stop = CancellationToken::new();
    room.stops.insert(ticket, stop.clone());
    Some((ticket, stop))
}

fn leave(room: &Mutex<Listening>, ticket: Ticket) {
    let mut room = lock(room);
    room.places.leave(ticket);
    room.stops.remove(&ticket);
}

async fn hear(shared: &Shared, peer: PeerId, arrived: Arrived) -> io::Result<()> {
    let mut stream = arrived.stream;
    let bytes = read(&mut stream).await?;
    let is_believed = judge(shared, peer, arrived.connection, &bytes).await;
    // Strangers are not told who we are.
    let is_member = is_believed || shared.standing().admitted.contains(&peer);
    stream.write_all(&words(shared, is_member)).await?;
    stream.close().await
}

/// What follows from what a peer says about itself over this connection; whether that is believed.
async fn judge(shared: &Shared, peer: PeerId, over: ConnectionId, bytes: &[u8]) -> bool {
    let Some((process, record)) = bytes.split_first_chunk() else {
        return false;
    };
    let membership = shared.door.membership();
    let believed = decode(record)
        .map_err(Into::into)
        .and_then(|record| membership.believe(record, unix()));
    let command = match believed {
        Ok((valid, body)) if valid.record().peer == peer => {
            let record = valid.into_record();
            // Nobody may listen.
            let _ = shared.heard.send(record.clone());
            Command::Admit {
                peer,
                endpoints: body.endpoints,
                record: Box::new(record),
                // On a list nobody needs one.
                until: match membership.admission {
                    Admission::Listed(_) => None,
                    Admission::Network(_) => body.certificate.as_ref().map(Certificate::expires),
                },
                at: (over, Process(*process)),
            }
        }
        other => {
            let error = other.err();
            let told = shared.standing().strangers.tell(Instant::now());
            if let Some(others) = told {
                tracing::warn!(%peer, ?error, others, "what a peer says about itself is not believed");
            }
            shared.not_believed.fetch_add(1, Ordering::Relaxed);
            Command::Refuse(peer)
        }
    };
    let is_believed = matches!(command, Command::Admit { .. });
    // A node that ends has no use for it.
    let _ = shared.commands.send(command).await;
    is_believed
}
