//! Touches streams by which peers tell each other who they are: each says for how long it runs and its
//! signed record, and the other one answers with the same.
//!
//! A node says it on each connection, and whenever its record changes. A record proves membership where
//! the network has a key, and says whose virtual addresses are the sender's. The time says which
//! connections are those of a process that is gone: libp2p would go on using them until they time out.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{Stream, StreamProtocol};
use libp2p_stream::IncomingStreams;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use vpn_core::PeerId;

use super::announce::since_epoch;
use super::places::{Places, Ticket};
use super::{Command, Shared};
use crate::directory::records::{MAX_RECORD, decode, encode};
use crate::libp2p::admission::{Admission, Certificate};
use crate::libp2p::key::{from_libp2p, to_libp2p};

/// The protocol's name.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/vpn/hello/2");

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

/// What a peer says without being asked was under way for so long, at most.
const ON_THE_WAY: Duration = Duration::from_millis(300);

/// Bytes in front of the record: for how many milliseconds the sender runs.
const RUNS: usize = 8;

/// Seconds since the Unix epoch.
pub(crate) fn unix() -> u64 {
    since_epoch().as_secs()
}

/// Tells one peer who this node is, if it is anybody yet, until that was heard. libp2p drops streams that
/// come faster than they are accepted, and whoever opened them is not told.
pub(super) async fn tell(shared: Arc<Shared>, peer: PeerId) {
    for [within, pause] in AGAIN {
        if shared.own_record().is_none() {
            return;
        }
        let asked = Instant::now();
        match timeout(within, tell_once(&shared, peer)).await {
            Ok(Ok(answer)) => {
                // Who does not know us as a member answers without a record.
                if answer.len() > RUNS {
                    judge(&shared, peer, &answer, asked).await;
                }
                return;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "could not say who we are"),
            Err(_) => tracing::debug!(%peer, "nobody listened to who we are"),
        }
        tokio::time::sleep(pause).await;
        if !shared.standing().links.contains_key(&peer) {
            return;
        }
    }
}

async fn tell_once(shared: &Shared, peer: PeerId) -> io::Result<Vec<u8>> {
    let name = to_libp2p(peer).ok_or(io::ErrorKind::InvalidInput)?;
    let opened = shared.streams().open_stream(name, PROTOCOL).await;
    let mut stream = opened.map_err(io::Error::other)?;
    stream.write_all(&words(shared, true)).await?;
    stream.close().await?;
    let answer = read(&mut stream).await?;
    if answer.len() < RUNS {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

/// What this node says, with its record or without.
fn words(shared: &Shared, with_record: bool) -> Vec<u8> {
    let record = shared.own_record().filter(|_| with_record);
    let runs = u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let record = record.as_ref().map(encode).unwrap_or_default();
    [&runs.to_be_bytes()[..], &record].concat()
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut limited = stream.take((RUNS + MAX_RECORD) as u64 + 1);
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
    while let Some((name, stream)) = streams.next().await {
        let Some(peer) = from_libp2p(&name) else {
            continue;
        };
        let is_member = shared.standing().admitted.contains(&peer);
        let Some((ticket, stop)) = enter(&room, peer, is_member) else {
            continue;
        };
        let (hearing, room) = (shared.clone(), room.clone());
        shared.spawn(async move {
            let heard = timeout(WITHIN, hear(&hearing, peer, stream));
            // Who is not heard says it again.
            let _ = stop.run_until_cancelled(heard).await;
            leave(&room, ticket);
        });
    }
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

async fn hear(shared: &Shared, peer: PeerId, mut stream: Stream) -> io::Result<()> {
    let bytes = read(&mut stream).await?;
    let said = Instant::now();
    let said = said.checked_sub(ON_THE_WAY).unwrap_or(said);
    let is_believed = judge(shared, peer, &bytes, said).await;
    // Strangers are not told who we are.
    let is_member = is_believed || shared.standing().admitted.contains(&peer);
    stream.write_all(&words(shared, is_member)).await?;
    stream.close().await
}

/// What follows from what a peer says about itself, not before `said`; whether that is believed.
async fn judge(shared: &Shared, peer: PeerId, bytes: &[u8], said: Instant) -> bool {
    let Some((runs, record)) = bytes.split_first_chunk::<RUNS>() else {
        return false;
    };
    let runs = Duration::from_millis(u64::from_be_bytes(*runs));
    let membership = shared.door.membership();
    let believed = decode(record)
        .map_err(Into::into)
        .and_then(|record| membership.believe(record, unix()));
    let command = match believed {
        Ok((valid, body)) if valid.record().peer == peer => {
            // Nobody may listen.
            let _ = shared.heard.send(valid.into_record());
            Command::Admit {
                peer,
                endpoints: body.endpoints,
                // On a list nobody needs one.
                until: match membership.admission {
                    Admission::Listed(_) => None,
                    Admission::Network(_) => body.certificate.as_ref().map(Certificate::expires),
                },
                since: said.checked_sub(runs),
            }
        }
        other => {
            let error = other.err();
            tracing::warn!(%peer, ?error, "what a peer says about itself is not believed");
            shared.not_believed.fetch_add(1, Ordering::Relaxed);
            Command::Refuse(peer)
        }
    };
    let is_believed = matches!(command, Command::Admit { .. });
    // A node that ends has no use for it.
    let _ = shared.commands.send(command).await;
    is_believed
}
