//! Touches etcd: follows the entries from the revision that was reached last, and loads them anew where
//! etcd forgot that revision, or is another one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Event, EventType, GetOptions, WatchOptions};
use tokio::time::{Instant, sleep, timeout};
use vpn_core::rule::RuleSourceError;

use super::Shared;
use super::load::{is_too_long, load};
use super::past::past;
use super::read::Written;

pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Longest message, in bytes: what changed while etcd was not followed may come in one. If it is longer,
/// everything is loaded anew, page by page.
const MAX_MESSAGE: usize = 64 << 20;

/// After a failure, the next attempt is made after this; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest pause: so long after etcd is back, its rules are in force.
const LONGEST: Duration = Duration::from_secs(5);

const ROOM: &str = "there may be room now for what was left out";

/// Follows until the task is aborted.
pub(super) async fn follow(shared: Arc<Shared>) {
    let (mut client, mut pause) = (None, PAUSE);
    loop {
        let began = Instant::now();
        let cause = match follow_once(&shared, &mut client).await {
            Ok(()) => "the watch ended".into(),
            Err(cause) => cause,
        };
        // It would come again.
        if is_too_long(&cause) {
            shared.state().lost();
        }
        tracing::debug!(%cause, "rules in etcd are not followed");
        let place = shared.place();
        let cut = Arc::new(RuleSourceError::Unavailable { place, cause });
        // The first of a row of failures is news: somebody may ask for `trouble`.
        if shared.state().cut.replace(cut).is_none() {
            shared.changes.count();
        }
        pause = match began.elapsed() > LONGEST {
            true => PAUSE,
            false => (pause * 2).min(LONGEST),
        };
        sleep(pause).await;
    }
}

async fn follow_once(shared: &Shared, made: &mut Option<Client>) -> Result<(), Cause> {
    let mut client = match made {
        Some(client) => client.clone(),
        None => {
            let options = Some(shared.config.options());
            let connect = Client::connect(shared.config.endpoints(), options);
            made.insert(within(shared, connect).await?).clone()
        }
    };
    let prefix = shared.config.prefix();
    let from = resume(shared, &mut client).await?;
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(from + 1)
        .with_progress_notify();
    let mut watcher = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let mut stream = within(shared, watcher.watch(prefix, Some(options))).await?;
    // That the watch is there is told at once; its events come when they come.
    let mut next = within(shared, stream.message()).await?;
    while let Some(message) = next {
        if message.canceled() {
            shared.state().lost();
            return Err(match message.compact_revision() {
                0 => message.cancel_reason().into(),
                _ => "the revision was compacted".into(),
            });
        }
        // The header's revision may be ahead of the events, if more of them follow.
        let last = message.events().last().and_then(Event::kv);
        let reached = match (last, message.header()) {
            (Some(entry), _) => Some(entry.mod_revision()),
            (None, Some(header)) if !message.created() => Some(header.revision()),
            _ => None,
        };
        let read = shared.read(written_in(message.events())).await?;
        let (has_room, mended) = {
            let mut state = shared.state();
            let mut has_room = false;
            for entry in read {
                has_room |= match entry.said {
                    Some(said) => state.table.written(&entry.key, entry.revision, said),
                    None => state.table.deleted(&entry.key),
                };
            }
            shared.judge(&state);
            state.revision = match has_room {
                true => None,
                false => state.revision.max(reached),
            };
            (has_room, state.cut.take().is_some())
        };
        if mended || !message.events().is_empty() {
            shared.changes.count();
        }
        if has_room {
            return Err(ROOM.into());
        }
        next = tokio::select! {
            message = stream.message() => message?,
            () = shared.room.notified() => {
                shared.state().revision = None;
                return Err(ROOM.into());
            }
        };
    }
    Ok(())
}

/// The revision from which to watch: where we were, or where everything was loaded.
async fn resume(shared: &Shared, client: &mut Client) -> Result<i64, Cause> {
    let count = GetOptions::new().with_prefix().with_count_only();
    let there = client.get(shared.config.prefix(), Some(count));
    let there = within(shared, there).await?;
    let header = there.header();
    let (cluster, revision) = header.map_or((0, 0), |h| (h.cluster_id(), h.revision()));
    let (reached, entries) = {
        let mut state = shared.state();
        let before = state.cluster.replace(cluster);
        // A watch from the future would be silent until then: it was restored from a copy.
        let went_back = state.revision.is_some_and(|reached| reached > revision);
        if before != Some(cluster) || went_back {
            // For good: if loading fails now, the next attempt must not take the other's revision for
            // this one's.
            state.revision = None;
            state.is_another |= before.is_some();
        }
        (state.revision, state.table.count())
    };
    if let Some(reached) = reached {
        // Where there is nothing that it could be known by, there is little to load.
        let past = match entries {
            0 => None,
            _ => past(shared, client, reached, entries).await?,
        };
        let mut state = shared.state();
        if past.is_some_and(|past| state.table.is_as(&past)) {
            return Ok(reached);
        }
        state.lost();
    }
    load(shared, client).await
}

/// What was written and deleted.
fn written_in(events: &[Event]) -> Vec<Written> {
    let of = |event: &Event| {
        let entry = event.kv()?;
        let is_put = event.event_type() == EventType::Put;
        Some(Written {
            key: entry.key().to_vec(),
            revision: entry.mod_revision(),
            value: is_put.then(|| entry.value().to_vec()),
        })
    };
    events.iter().filter_map(of).collect()
}

/// A request's answer, in time.
pub(super) async fn within<T>(
    shared: &Shared,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Cause> {
    Ok(timeout(shared.config.within(), request).await??)
}
