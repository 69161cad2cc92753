//! Touches etcd: whether it still has what was read from it. One that was made anew with the same options has
//! the same id, and may be at a larger revision already: what happened on the way is in no watch.

use etcd_client::{Client, GetOptions};

use super::Shared;
use super::follow::{Cause, within};

/// gRPC's code of an etcd that does not have this revision: any more, or yet.
const OUT_OF_RANGE: i32 = 11;

/// Whether an entry is as it was at the revision up to which all is known. Not if that was compacted: then
/// nobody can tell, for one that was made anew may have been compacted as well.
pub(super) async fn is_there(
    shared: &Shared,
    client: &mut Client,
    (key, written): (String, i64),
    reached: i64,
) -> Result<bool, Cause> {
    let then = GetOptions::new().with_revision(reached).with_keys_only();
    match within(shared, client.get(key, Some(then))).await {
        Ok(there) => {
            let is_same = |entry: &etcd_client::KeyValue| entry.mod_revision() == written;
            Ok(there.kvs().first().is_some_and(is_same))
        }
        Err(cause) => match cause.downcast_ref::<etcd_client::Error>() {
            Some(etcd_client::Error::GRpcStatus(status))
                if status.code() as i32 == OUT_OF_RANGE =>
            {
                Ok(false)
            }
            _ => Err(cause),
        },
    }
}
