//! Touches etcd: follows what is below the prefix, from the revision that was reached last.
//!
//! Where etcd forgot that revision (it was compacted), or is another one than before, everything is
//! loaded anew; until then the mirror says what it said.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Event, EventType, GetOptions, WatchOptions};
use tokio::time::{Instant, sleep};

use super::Shared;
use super::connection::is_too_long;
use super::error::EtcdError;
use super::load::load;
use super::wall::Wall;

/// Longest message, in bytes: what changed while etcd was not followed may come in one. If it is longer,
/// everything is loaded anew, page by page.
const MAX_MESSAGE: usize = 64 << 20;

/// After a failure, the next attempt is made after this; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest pause: so long after etcd is back, its news are here.
const LONGEST: Duration = Duration::from_secs(5);

/// How often what expired is taken out.
const EXPIRE: Duration = Duration::from_secs(60);

/// How often it is seen whether the clock was set: so long after it is right again, everybody is known.
const LOOK: Duration = Duration::from_secs(5);

/// Follows etcd until the task is aborted.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut pause = PAUSE;
    let mut wall = Wall::new(shared.clock.now(), Instant::now());
    loop {
        let began = Instant::now();
        let ended = follow_once(&shared, &mut wall).await;
        shared.following(Err(&ended));
        tracing::debug!(error = %ended, "etcd is not followed");
        pause = match began.elapsed() > LONGEST {
            true => PAUSE,
            false => (pause * 2).min(LONGEST),
        };
        sleep(pause).await;
    }
}

/// Until something fails.
async fn follow_once(shared: &Shared, wall: &mut Wall) -> EtcdError {
    match try_follow(shared, wall).await {
        Err(error) => {
            // It would come again.
            if is_too_long(&error) {
                shared.mirror().lost();
            }
            error
        }
        Ok(()) => shared.ended("the watch ended"),
    }
}

async fn try_follow(shared: &Shared, wall: &mut Wall) -> Result<(), EtcdError> {
    let connection = &shared.connection;
    let mut client = connection.client().await?;
    let prefix = shared.keys.prefix().to_owned();
    if wall.was_set(shared.clock.now(), Instant::now()) {
        shared.mirror().lost();
    }
    let from = resume(shared, &mut client, &prefix).await?;
    let mut watcher = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(from + 1)
        .with_progress_notify();
    let mut stream = connection
        .within(watcher.watch(prefix, Some(options)))
        .await?;
    let (mut look, mut expire) = (Instant::now() + LOOK, Instant::now() + EXPIRE);
    let mut created = false;
    loop {
        // That the watch is there is told at once; its events come when they come.
        let message = match created {
            false => connection.within(stream.message()).await?,
            true => tokio::select! {
                message = stream.message() => message.map_err(|cause| shared.unavailable(cause))?,
                () = tokio::time::sleep_until(look) => {
                    let now = Instant::now();
                    look = now + LOOK;
                    if wall.was_set(shared.clock.now(), now) {
                        // What was refused by the old clock may be right by the new one.
                        shared.mirror().lost();
                        return Err(shared.ended("the clock was set"));
                    }
                    if now >= expire {
                        shared.mirror().expire(shared.clock.now());
                        expire = now + EXPIRE;
                    }
                    continue;
                }
            },
        };
        let Some(message) = message else {
            return Ok(());
        };
        created = true;
        if message.canceled() {
            // Compacted, or refused: in both cases what was missed is not known.
            shared.mirror().lost();
            return Err(shared.ended(match message.compact_revision() {
                0 => "the watch was cancelled",
                _ => "the revision was compacted",
            }));
        }
        shared.following(Ok(()));
        apply(shared, message.events());
        // The header's revision may be ahead of the events, if more of them follow. That of an answer
        // without events says that there were none, so that what others write does not make us fall
        // behind a compaction; unless it only says that the watch was made.
        let last = message.events().last().and_then(Event::kv);
        let reached = match (last, message.header()) {
            (Some(entry), _) => Some(entry.mod_revision()),
            (None, Some(header)) if !message.created() => Some(header.revision()),
            _ => None,
        };
        if let Some(reached) = reached {
            shared.mirror().reached(reached);
        }
    }
}

/// The revision from which to watch: where we were, or where everything was loaded.
async fn resume(shared: &Shared, client: &mut Client, prefix: &str) -> Result<i64, EtcdError> {
    let count = GetOptions::new().with_prefix().with_count_only();
    let there = client.get(prefix, Some(count));
    let there = shared.connection.within(there).await?;
    let header = there.header();
    let (cluster, revision) = header.map_or((0, 0), |h| (h.cluster_id(), h.revision()));
    if !shared.cluster(cluster) {
        // For good: if loading fails now, the next attempt must not take the other's revision for ours.
        shared.mirror().lost();
    }
    let (reached, past) = {
        let mirror = shared.mirror();
        (mirror.revision(), mirror.past())
    };
    // A watch from the future would be silent until then: it was restored from a copy.
    if let Some(reached) = reached.filter(|reached| *reached <= revision)
        && past.is_there(shared, client, reached).await?
    {
        return Ok(reached);
    }
    // Also if loading fails.
    shared.mirror().lost();
    load(shared, client).await
}

fn apply(shared: &Shared, events: &[Event]) {
    let mut news = Vec::new();
    let mut mirror = shared.mirror();
    for event in events {
        let Some(entry) = event.kv() else { continue };
        match event.event_type() {
            EventType::Put => {
                let is_new = entry.version() == 1;
                mirror.noted_written(entry.key(), entry.mod_revision(), is_new);
                news.extend(mirror.written(entry.key(), entry.value(), shared.clock.now()));
            }
            EventType::Delete => {
                mirror.noted_deleted(entry.key());
                mirror.deleted(entry.key());
            }
        }
    }
    drop(mirror);
    news.into_iter().for_each(|peer| shared.news.tell(peer));
}
