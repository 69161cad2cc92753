//! Touches etcd: loads all records and leases at one revision, page by page, into the mirror.
//!
//! Whoever may write there may write much, and long values: a page that is too long is asked for again
//! with half as many entries, one entry that is too long is passed over, what does not belong into
//! the mirror is not kept, and of more entries than it could have the rest is not asked for.

use etcd_client::{Client, GetOptions, KvClient};

use super::Shared;
use super::connection::is_too_long;
use super::error::EtcdError;
use super::keys::KINDS;
use super::mirror::Loading;
use crate::directory::book::MAX_PEERS;
use crate::directory::records::MAX_ADDRESSES;

/// Entries of one page: about 2 MB of the longest records.
const PAGE: i64 = 512;

/// Longest page, in bytes: four times of what is ours.
const MAX_PAGE: usize = 8 << 20;

/// Most entries of a kind: as many leases as there may be.
const MAX_LOADED: i64 = (MAX_PEERS * MAX_ADDRESSES) as i64;

/// The revision at which everything was loaded.
pub(super) async fn load(shared: &Shared, client: &mut Client) -> Result<i64, EtcdError> {
    let mut client = client.kv_client().max_decoding_message_size(MAX_PAGE);
    let mut loading = Loading::default();
    let mut at = 0;
    for kind in 0..KINDS {
        load_below(shared, &mut client, &mut loading, kind, &mut at).await?;
    }
    let news = shared.mirror().loaded(loading, at);
    news.into_iter().for_each(|peer| shared.news.tell(peer));
    Ok(at)
}

/// All entries of a kind, at this revision; 0 is the newest, and becomes that.
async fn load_below(
    shared: &Shared,
    client: &mut KvClient,
    loading: &mut Loading,
    kind: usize,
    at: &mut i64,
) -> Result<(), EtcdError> {
    let (mut limit, mut seen) = (PAGE, 0);
    let prefix = &shared.keys.kinds()[kind];
    let mut from = prefix.as_bytes().to_vec();
    let end = end_of(prefix.as_bytes());
    loop {
        // In the order of keys, as they are without being told.
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(limit)
            .with_revision(*at);
        let got = client.get(from.clone(), Some(options.clone()));
        let page = match shared.connection.within(got).await {
            Err(error) if is_too_long(&error) && limit > 1 => {
                limit /= 2;
                continue;
            }
            Err(error) if is_too_long(&error) => {
                shared.mirror().skipped();
                let key_alone = options.with_keys_only();
                let got = client.get(from.clone(), Some(key_alone));
                shared.connection.within(got).await?
            }
            got => {
                let page = got?;
                limit = (limit * 2).min(PAGE);
                enter(shared, loading, &page);
                page
            }
        };
        loading.past.counted(kind, seen + page.count());
        for entry in page.kvs() {
            loading.past.seen(kind, entry.key(), entry.mod_revision());
        }
        if *at == 0 {
            let header = page.header();
            *at = header.map_or(0, etcd_client::ResponseHeader::revision);
        }
        let Some(last) = page.kvs().last().filter(|_| page.more()) else {
            return Ok(());
        };
        seen += i64::try_from(page.kvs().len()).unwrap_or(i64::MAX);
        if seen >= MAX_LOADED {
            tracing::warn!(
                prefix,
                seen,
                "etcd has more than there may be: the rest is left out"
            );
            shared.mirror().skipped();
            return Ok(());
        }
        from = last.key().to_vec();
        from.push(0);
    }
}

fn enter(shared: &Shared, loading: &mut Loading, page: &etcd_client::GetResponse) {
    let unix = shared.clock.now();
    let mut mirror = shared.mirror();
    let entries = page.kvs().iter();
    let newer = entries.filter_map(|entry| mirror.page(loading, entry.key(), entry.value(), unix));
    let newer: Vec<_> = newer.collect();
    drop(mirror);
    newer.into_iter().for_each(|peer| shared.news.tell(peer));
}

/// The first key after all that begin with this; it ends with a slash, so there is one.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}
