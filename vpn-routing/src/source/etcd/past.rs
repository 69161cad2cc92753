//! Touches etcd: what it has of the past that was read from it. One that was made anew with the same options has
//! the same id, and may be at a larger revision already: what happened on the way is in no watch.

use etcd_client::{Client, GetOptions, GetResponse, SortOrder, SortTarget};
use tokio::time::error::Elapsed;

use super::Shared;
use super::follow::{Cause, within};

/// gRPC's code of an etcd that does not have this revision: any more, or yet.
const OUT_OF_RANGE: i32 = 11;

/// What was below the prefix at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) entries: usize,
    /// Which of them was written last, and when. Of several that were at once, any.
    pub(super) newest: (Vec<u8>, i64),
}

/// What etcd has of a revision; `None` if it has not, has nothing, or has other than so many entries. Nobody can
/// tell then whether it is the same as before: one that was made anew may have been compacted as well.
pub(super) async fn past(
    shared: &Shared,
    client: &mut Client,
    reached: i64,
    entries: usize,
) -> Result<Option<Past>, Cause> {
    let then = || GetOptions::new().with_prefix().with_revision(reached);
    // How many there are is told at once, also of more and longer ones than are ours.
    let counted = got(shared, client, then().with_count_only()).await?;
    let is_count = |there: &GetResponse| usize::try_from(there.count()) == Ok(entries);
    if !counted.as_ref().is_some_and(is_count) {
        return Ok(None);
    }
    let newest = then()
        .with_sort(SortTarget::Mod, SortOrder::Descend)
        .with_limit(1)
        .with_keys_only();
    let there = got(shared, client, newest).await?;
    let newest = there.as_ref().and_then(|there| there.kvs().first());
    Ok(newest.map(|newest| Past {
        entries,
        newest: (newest.key().to_vec(), newest.mod_revision()),
    }))
}

/// `None` if that revision is not there, or to look it through takes too long: page by page it does not.
async fn got(
    shared: &Shared,
    client: &mut Client,
    options: GetOptions,
) -> Result<Option<GetResponse>, Cause> {
    match within(shared, client.get(shared.config.prefix(), Some(options))).await {
        Ok(there) => Ok(Some(there)),
        Err(cause) if cause.is::<Elapsed>() => Ok(None),
        Err(cause) => match cause.downcast_ref::<etcd_client::Error>() {
            Some(etcd_client::Error::GRpcStatus(status))
                if status.code() as i32 == OUT_OF_RANGE =>
            {
                Ok(None)
            }
            _ => Err(cause),
        },
    }
}
