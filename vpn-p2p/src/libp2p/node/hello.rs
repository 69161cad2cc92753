//! Touches streams by which peers tell each other who they are: one signed record, the end, and one byte
//! back.
//!
//! Each side opens one when it is connected, and whenever its record changes. A record proves
//! membership where the network has a key, and says whose virtual addresses are the sender's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{Stream, StreamProtocol};
use libp2p_stream::IncomingStreams;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use vpn_core::PeerId;

use super::{Command, Shared};
use crate::directory::records::{MAX_RECORD, decode};
use crate::libp2p::body::believe;
use crate::libp2p::key::{from_libp2p, to_libp2p};

/// The protocol's name.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/vpn/hello/1");

/// How long hearing may take.
const WITHIN: Duration = Duration::from_secs(10);

/// After how long without its answer a peer did not hear it.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// Pauses after that; with a network key a peer has ten seconds to prove itself.
const AGAIN: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// The answer: heard, whatever is made of it.
const HEARD: [u8; 1] = [1];

/// Records that are being heard at the same time; what comes meanwhile is told again later.
const HEARING: usize = 64;

/// Seconds since the Unix epoch.
pub(crate) fn unix() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Tells one peer who this node is, if it is anybody yet, until that was heard. libp2p drops streams that
/// come faster than they are accepted, and whoever opened them is not told.
pub(super) async fn tell(shared: Arc<Shared>, peer: PeerId) {
    for pause in AGAIN {
        let Some(record) = shared.own_record() else {
            return;
        };
        match timeout(HEARD_WITHIN, tell_once(&shared, peer, &record)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "could not say who we are"),
            Err(_) => tracing::debug!(%peer, "nobody listened to who we are"),
        }
        tokio::time::sleep(pause).await;
        if !shared.standing().links.contains_key(&peer) {
            return;
        }
    }
}

async fn tell_once(shared: &Shared, peer: PeerId, record: &[u8]) -> io::Result<()> {
    let name = to_libp2p(peer).ok_or(io::ErrorKind::InvalidInput)?;
    let opened = shared.streams().open_stream(name, PROTOCOL).await;
    let mut stream = opened.map_err(io::Error::other)?;
    stream.write_all(record).await?;
    stream.close().await?;
    stream.read_exact(&mut [0]).await
}

/// Hears what peers say.
pub(super) async fn listen(shared: Arc<Shared>, mut streams: IncomingStreams) {
    let room = Arc::new(Semaphore::new(HEARING));
    while let Some((name, stream)) = streams.next().await {
        let (Some(peer), Ok(permit)) = (from_libp2p(&name), room.clone().try_acquire_owned())
        else {
            continue;
        };
        let hearing = shared.clone();
        shared.spawn(async move {
            hear(hearing, peer, stream).await;
            drop(permit);
        });
    }
}

async fn hear(shared: Arc<Shared>, peer: PeerId, stream: Stream) {
    let mut bytes = Vec::new();
    let mut limited = stream.take(MAX_RECORD as u64 + 1);
    let read = timeout(WITHIN, limited.read_to_end(&mut bytes)).await;
    if !matches!(read, Ok(Ok(_))) {
        return;
    }
    let mut stream = limited.into_inner();
    let answering = async {
        stream.write_all(&HEARD).await?;
        stream.close().await
    };
    // Who does not hear it says it again.
    let _ = timeout(HEARD_WITHIN, answering).await;
    let believed = decode(&bytes)
        .map_err(Into::into)
        .and_then(|record| believe(record, shared.door.admission(), unix()));
    let command = match believed {
        Ok((valid, body)) if valid.record().peer == peer => {
            // Nobody may listen.
            let _ = shared.heard.send(valid.into_record());
            Command::Admit(peer, body.endpoints)
        }
        other => {
            let error = other.err();
            tracing::warn!(%peer, ?error, "what a peer says about itself is not believed");
            shared.not_believed.fetch_add(1, Ordering::Relaxed);
            Command::Refuse(peer)
        }
    };
    // A node that ends has no use for it.
    let _ = shared.commands.send(command).await;
}
