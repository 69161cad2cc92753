//! Touches etcd: follows the entries from the revision that was reached last, and loads them anew where
//! etcd forgot that revision, or is another one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Event, EventType, GetOptions, SortOrder, SortTarget, WatchOptions};
use tokio::time::{Instant, sleep, timeout};
use vpn_core::rule::RuleSourceError;

use super::Shared;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Entries of one answer while loading: also the longest fit [`MAX_MESSAGE`].
const PAGE: i64 = 16;

/// Longest message, in bytes: what changed while etcd was not followed may come in one, and one that is
/// refused would come again.
const MAX_MESSAGE: usize = 64 << 20;

/// After a failure, the next attempt is made after this; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest pause: so long after etcd is back, its rules are in force.
const LONGEST: Duration = Duration::from_secs(5);

/// Follows until the task is aborted.
pub(super) async fn follow(shared: Arc<Shared>) {
    let (mut client, mut pause) = (None, PAUSE);
    loop {
        let began = Instant::now();
        let cause = match follow_once(&shared, &mut client).await {
            Ok(()) => "the watch ended".into(),
            Err(cause) => cause,
        };
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
            shared.state().revision = None;
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
        let mended = {
            let mut state = shared.state();
            for event in message.events() {
                let Some(entry) = event.kv() else { continue };
                match event.event_type() {
                    EventType::Put => state.table.written(entry.key(), entry.value()),
                    EventType::Delete => state.table.deleted(entry.key()),
                }
            }
            state.revision = state.revision.max(reached);
            state.cut.take().is_some()
        };
        if mended || !message.events().is_empty() {
            shared.changes.count();
        }
        next = stream.message().await?;
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
    let reached = {
        let mut state = shared.state();
        let before = state.cluster.replace(cluster);
        let same = before.is_none_or(|before| before == cluster);
        // A watch from the future would be silent until then: it was restored from a copy.
        state
            .revision
            .filter(|reached| same && *reached <= revision)
    };
    match reached {
        Some(reached) => Ok(reached),
        None => load(shared, client).await,
    }
}

/// Everything at one revision, page by page.
async fn load(shared: &Shared, client: &mut Client) -> Result<i64, Cause> {
    let mut client = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut at = 0;
    let mut from = shared.config.prefix().as_bytes().to_vec();
    let mut end = from.clone();
    // The first key after all that begin with the prefix; it ends with a slash, so there is one.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    loop {
        let page = GetOptions::new()
            .with_range(end.clone())
            .with_sort(SortTarget::Key, SortOrder::Ascend)
            .with_limit(PAGE)
            .with_revision(at);
        let page = within(shared, client.get(from.clone(), Some(page))).await?;
        if at == 0 {
            at = page
                .header()
                .map_or(0, etcd_client::ResponseHeader::revision);
        }
        let entries = page.kvs().iter();
        all.extend(entries.map(|entry| (entry.key().to_vec(), entry.value().to_vec())));
        let Some((last, _)) = all
            .last()
            .filter(|_| page.more() && all.len() <= super::table::MAX_ENTRIES)
        else {
            break;
        };
        from.clone_from(last);
        from.push(0);
    }
    let entries: Vec<(&[u8], &[u8])> = all
        .iter()
        .map(|(key, value)| (&key[..], &value[..]))
        .collect();
    {
        let mut state = shared.state();
        state.table.load(&entries);
        state.revision = Some(at);
    }
    shared.changes.count();
    shared.ready.send_replace(true);
    Ok(at)
}

/// A request's answer, in time.
async fn within<T>(
    shared: &Shared,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Cause> {
    Ok(timeout(shared.config.within(), request).await??)
}
