//! Touches etcd: whether it still has what was read from it. One that was made anew with the same options has
//! the same id, and may be at a larger revision already: what happened on the way is in no watch.

use etcd_client::{Client, GetOptions};

use super::Shared;
use super::follow::{Cause, within};

/// gRPC's code of an etcd that does not have this revision: any more, or yet.
const OUT_OF_RANGE: i32 = 11;

/// What etcd has of what was read from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// The same.
    Same,
    /// It was compacted.
    Compacted,
    /// Something else: it is another one.
    Other,
}

/// Whether an entry is as it was at the revision up to which all is known.
pub(super) async fn past(
    shared: &Shared,
    client: &mut Client,
    (key, written): (String, i64),
    reached: i64,
) -> Result<Past, Cause> {
    let then = GetOptions::new().with_revision(reached).with_keys_only();
    match within(shared, client.get(key, Some(then))).await {
        Ok(there) => {
            let is_same = |entry: &etcd_client::KeyValue| entry.mod_revision() == written;
            Ok(match there.kvs().first().is_some_and(is_same) {
                true => Past::Same,
                false => Past::Other,
            })
        }
        Err(cause) => match cause.downcast_ref::<etcd_client::Error>() {
            Some(etcd_client::Error::GRpcStatus(status))
                if status.code() as i32 == OUT_OF_RANGE =>
            {
                Ok(Past::Compacted)
            }
            _ => Err(cause),
        },
    }
}
