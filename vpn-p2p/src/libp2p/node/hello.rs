//! Touches streams by which peers tell each other who they are: one signed record, and the end.
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

/// How long telling or hearing may take.
pub(super) const WITHIN: Duration = Duration::from_secs(10);

/// Records that are being heard at the same time; what comes meanwhile is told again later.
const HEARING: usize = 64;

/// Seconds since the Unix epoch.
pub(crate) fn unix() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Tells one peer who this node is, if it is anybody yet.
pub(super) async fn tell(shared: Arc<Shared>, peer: PeerId) {
    let (Some(record), Some(name)) = (shared.own_record(), to_libp2p(peer)) else {
        return;
    };
    let telling = async {
        let mut stream = shared
            .streams()
            .open_stream(name, PROTOCOL)
            .await
            .map_err(io::Error::other)?;
        stream.write_all(&record).await?;
        stream.close().await
    };
    match timeout(WITHIN, telling).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "could not say who we are"),
        Err(_) => tracing::debug!(%peer, "nobody listened to who we are"),
    }
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
