//! Touches etcd: loads everything below the prefix at one revision, page by page, and puts it in force at
//! once.
//!
//! Whoever may write there may write much, and long values: a page that is too long is asked for again
//! with half as many entries, one entry that is too long is passed over and told, and what there is no
//! room for is not kept.

use etcd_client::{Client, GetOptions};

use super::Shared;
use super::follow::{Cause, within};
use super::read::Written;
use super::table::{Table, name_of};

/// Entries of one page: also the longest fit [`MAX_PAGE`].
const PAGE: i64 = 16;

/// Longest page, in bytes: twice of what may be ours.
const MAX_PAGE: usize = 32 << 20;

/// gRPC's code for an answer that is longer than we take; etcd uses it as well, and says its name then.
const OUT_OF_RANGE: i32 = 11;

/// The revision at which everything was loaded.
pub(super) async fn load(shared: &Shared, client: &mut Client) -> Result<i64, Cause> {
    let mut client = client.kv_client().max_decoding_message_size(MAX_PAGE);
    // Rules of two moments together could send an app the wrong way, so nothing counts before all is there.
    let (mut there, mut newcomers) = (Table::default(), Table::default());
    let known = shared.known();
    let (mut at, mut limit) = (0, PAGE);
    let mut from = shared.config.prefix().as_bytes().to_vec();
    let mut end = from.clone();
    // The first key after all that begin with the prefix; it ends with a slash, so there is one.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    loop {
        // In the order of keys, as they are without being told.
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(limit)
            .with_revision(at);
        let got = client.get(from.clone(), Some(options.clone()));
        let (page, has_values) = match within(shared, got).await {
            Err(cause) if is_too_long(&cause) && limit > 1 => {
                limit /= 2;
                continue;
            }
            Err(cause) if is_too_long(&cause) => {
                let key_alone = options.with_keys_only();
                let page = within(shared, client.get(from.clone(), Some(key_alone))).await?;
                (page, false)
            }
            got => {
                limit = (limit * 2).min(PAGE);
                (got?, true)
            }
        };
        if at == 0 {
            at = page
                .header()
                .map_or(0, etcd_client::ResponseHeader::revision);
        }
        let mut last = page.kvs().last().map(|entry| entry.key().to_vec());
        let more = page.more();
        for entry in shared.read(written_in(&page, has_values)).await? {
            let is_known = name_of(&entry.key).is_ok_and(|key| known.contains(key));
            let table = match is_known {
                true => &mut there,
                false => &mut newcomers,
            };
            match entry.said {
                Some(said) => drop(table.written(&entry.key, entry.revision, said)),
                None => table.skipped(&entry.key, entry.revision),
            }
        }
        // No further newcomer is let in: those that are known are asked for, each with what follows it.
        if newcomers.is_full() {
            let last = last.take().filter(|_| more);
            let after = |last: Vec<u8>| known.iter().find(|key| key.as_bytes() > &last[..]);
            if let Some(next) = last.and_then(after) {
                from = next.clone().into_bytes();
                continue;
            }
        }
        let Some(last) = last.filter(|_| more) else {
            break;
        };
        from = last;
        from.push(0);
    }
    {
        let mut state = shared.state();
        let is_empty = there.is_empty() && newcomers.is_empty();
        // It lost what it had, and may have it again in a moment. Who wants no rules deletes them while that
        // is seen: what was never in force, for want of room, is no loss.
        if state.is_another && is_empty && state.table.count() > 0 {
            return Err(
                "etcd may be another one, or restored, and has no rules: those of before stay"
                    .into(),
            );
        }
        state.is_another = false;
        let before = match shared.is_ready() {
            true => std::mem::take(&mut state.table),
            // They were never in force.
            false => Table::default(),
        };
        state.table = Table::after(before, there, newcomers);
        state.revision = Some(at);
        shared.judge(&state);
    }
    shared.changes.count();
    Ok(at)
}

/// The entries of a page; without values, they are too long.
fn written_in(page: &etcd_client::GetResponse, has_values: bool) -> Vec<Written> {
    let entries = page.kvs().iter().map(|entry| Written {
        key: entry.key().to_vec(),
        revision: entry.mod_revision(),
        value: has_values.then(|| entry.value().to_vec()),
    });
    entries.collect()
}

/// Whether an answer was refused here for its length: asked again, it would be as long.
pub(super) fn is_too_long(cause: &Cause) -> bool {
    match cause.downcast_ref::<etcd_client::Error>() {
        Some(etcd_client::Error::GRpcStatus(status)) => {
            status.code() as i32 == OUT_OF_RANGE && !status.message().starts_with("etcdserver")
        }
        _ => false,
    }
}
